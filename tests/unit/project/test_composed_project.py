"""The graph of a composed project: what is refused, in which order it runs, whether the types of its nodes match."""

import re

import pytest

from pipeline_tasks.contracts import Graph, GraphNode
from pipeline_tasks.project.composed_project import (
    GraphSection,
    NodeFacts,
    in_order,
    output_classes,
    resolve,
    shape_problems,
)
from pipeline_tasks.project.loader import json_schema, load_composed, load_project, load_projects
from pipeline_tasks.project.yaml_reader import ProjectError

COARSE = {"project": "coarse"}
SHOES = {"project": "shoes", "when": {"node": "router", "label_in": ["footwear"], "confidence_below": 0.9}}
STACKED = {"project": "stacked", "input": "router.probabilities"}
FACTS = {
    "coarse": NodeFacts("image", ("clothing", "footwear"), "uint8", (1, 28, 28), None),
    "shoes": NodeFacts("image", ("boot", "sandal"), "uint8", (1, 28, 28), None),
    "stacked": NodeFacts("tabular", ("keep", "return"), "float32", (2,), ("clothing", "footwear")),
}


WRONG_ORDER = (
    "input must be the columns that stacked was trained on, in their order: footwear, clothing (got the classes "
    "clothing, footwear)."
)


def section(nodes, output):
    return GraphSection.model_validate({"nodes": nodes, "output": output})


def messages(nodes, output):
    return [message for _key, message in shape_problems(section(nodes, output))]


def test_a_cascade_and_a_chain_become_graphs_in_the_order_of_their_needs():
    nodes = {"shoes": SHOES, "stacked": STACKED, "router": COARSE}
    asked = section(nodes, ["shoes", "stacked"])
    assert shape_problems(asked) == []
    assert in_order(asked) == ["router", "shoes", "stacked"]
    graph, problems = resolve(asked, FACTS)
    assert problems == []
    assert graph == Graph(
        (
            GraphNode("router", "coarse", "request"),
            GraphNode("shoes", "shoes", "request", (), "router", ("footwear",), 0.9),
            GraphNode("stacked", "stacked", "router", ("clothing", "footwear")),
        ),
        ("shoes", "stacked"),
    )
    assert output_classes(graph, FACTS) == ["boot", "sandal", "keep", "return"]


@pytest.mark.parametrize(
    ("nodes", "output", "message"),
    [
        (
            {"a": {"project": "coarse", "input": "b.probabilities"}},
            ["a"],
            r"input must be request or a node of this graph \(got 'b'",
        ),
        (
            {"a": {"project": "coarse", "when": {"node": "b", "label_in": ["x"]}}},
            ["a"],
            r"when.node must be a node of this graph \(got 'b'",
        ),
        ({"a": COARSE}, ["b"], r"output must be nodes of this graph \(got 'b'; known: a\)"),
        ({"request": COARSE}, ["request"], "must not be called request"),
        ({"a": COARSE, "b": COARSE}, ["a", "b"], r"project must be in one node only \(got 'coarse' in a too\)"),
        (
            {
                "a": {"project": "coarse", "input": "b.probabilities"},
                "b": {"project": "shoes", "input": "a.probabilities"},
            },
            ["a"],
            r"must not need each other in a circle \(got a, b\)",
        ),
        ({"a": {"project": "coarse", "input": "a.probabilities"}}, ["a"], r"in a circle \(got a\)"),
        (
            {
                "a": {"project": "coarse", "when": {"node": "b", "label_in": ["x"]}},
                "b": {"project": "shoes", "input": "a.probabilities"},
            },
            ["b"],
            r"in a circle \(got a, b\)",
        ),
        ({"a": COARSE, "b": {"project": "shoes"}}, ["a"], "one that nobody reads"),
        (
            {"router": COARSE, "b": SHOES},
            ["b"],
            r"last of output must run for every request \(got b, which waits for `when` of b\)",
        ),
        (
            {"router": COARSE, "b": SHOES, "c": {"project": "stacked", "input": "b.probabilities"}},
            ["c"],
            r"last of output must run for every request \(got c, which waits for `when` of b\)",
        ),
        (
            {"router": COARSE, "b": {"project": "shoes", "when": {"node": "router"}}},
            ["b", "router"],
            "label_in or confidence_below",
        ),
        ({"a": COARSE}, ["a", "a"], "name each node once"),
    ],
)
def test_a_graph_that_cannot_run_is_refused(nodes, output, message):
    (text,) = messages(nodes, output)
    assert re.search(message, text), text


def test_a_chain_that_is_too_long_is_refused():
    nodes = {"n0": COARSE}
    for number in range(1, 5):
        nodes[f"n{number}"] = {"project": f"p_{number}", "input": f"n{number - 1}.probabilities"}
    assert messages(nodes, ["n4"]) == [
        "at most 4 nodes must be asked one after another (got 5). Each hop is waited for."
    ]
    del nodes["n4"]
    assert messages(nodes, ["n3"]) == []


@pytest.mark.parametrize(
    ("nodes", "facts", "message"),
    [
        (
            {"router": COARSE, "shoes": {"project": "shoes", "input": "router.probabilities"}},
            {},
            "input must be what shoes takes, uint8 (1, 28, 28) (got float32 (2,) from router).",
        ),
        (
            {"router": COARSE, "stacked": STACKED},
            {"stacked": NodeFacts("tabular", ("keep", "return"), "float32", (3,), None)},
            "input must be what stacked takes, float32 (3,) (got float32 (2,) from router).",
        ),
        (
            {"router": COARSE, "stacked": STACKED},
            {"stacked": NodeFacts("tabular", ("keep", "return"), "float32", (2,), ("footwear", "clothing"))},
            WRONG_ORDER,
        ),
        (
            {"router": COARSE, "stacked": {"project": "stacked"}},
            {},
            "input must be request for nodes of one modality (got tabular; router is image).",
        ),
        (
            {"router": COARSE, "shoes": {"project": "shoes", "when": {"node": "router", "label_in": ["hats"]}}},
            {},
            "label_in must be classes of router: clothing, footwear (got hats).",
        ),
    ],
)
def test_nodes_whose_types_do_not_match_are_refused(nodes, facts, message):
    _, problems = resolve(section(nodes, list(nodes)), FACTS | facts)
    assert [text for _key, text in problems] == [message]


FILE = """\
name: triage
graph:
  nodes:
    router: {project: coarse}
    shoes:
      project: shoes
      when: {node: router, label_in: [footwear]}
  output: [shoes, router]
"""


def written(tmp_path, text):
    folder = tmp_path / "triage"
    folder.mkdir()
    (folder / "project.yaml").write_text(text)
    return folder


def test_a_composed_project_is_a_file_of_its_own_kind(tmp_path):
    folder = written(tmp_path, FILE)
    project = load_composed(folder)
    assert list(project.graph.nodes) == ["router", "shoes"]
    assert project.serving.requests_per_second == 500.0
    assert load_projects(tmp_path) == ([], [])
    with pytest.raises(ProjectError, match="a model of its own here"):
        load_project(folder)
    assert set(json_schema()["$defs"]["ComposedProject"]["properties"]) == {
        "version", "name", "description", "owner", "graph", "serving"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "label_in",
            "labels_in",
            "project.yaml:7:28: graph.nodes.shoes.when.labels_in must be a known key .* Did you mean label_in",
        ),
        ("project: coarse", "input: request", "project.yaml:4:5: graph.nodes.router.project must be set"),
        ("[shoes, router]", "[]", "graph.output must be a list of at least 1"),
        ("name: triage", "name: other", "project.yaml:1:1: name must be the name of the project's folder, 'triage'"),
        (
            "project: shoes",
            "project: shoes\n      input: router.embedding",
            "project.yaml:7:7: graph.nodes.shoes.input must be text that matches",
        ),
        (
            "{project: coarse}",
            "{project: coarse, input: nowhere.probabilities}",
            "project.yaml:4:31: input must be request or a node",
        ),
        ("graph:", "graph: {}\nx:", "graph.nodes must be set"),
    ],
)
def test_a_wrong_file_says_where(tmp_path, old, new, message):
    folder = written(tmp_path, FILE.replace(old, new))
    with pytest.raises(ProjectError, match=message):
        load_composed(folder)


def test_a_project_with_a_model_has_no_graph(tmp_path):
    folder = written(tmp_path, "name: triage\n")
    with pytest.raises(ProjectError, match="graph must be set"):
        load_composed(folder)
