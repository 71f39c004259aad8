"""The `graph:` of a composed project: other projects' champions, one behind another. Pure: values in, a plan out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from pipeline_tasks.contracts import REQUEST, Graph, GraphNode
from pipeline_tasks.project.schema import Modality
from pipeline_tasks.project.section import NAME_PATTERN, Section
from pipeline_tasks.project.serving_schema import ROUTE
from pipeline_tasks.project.yaml_reader import Finding

MAX_NODES = 8
MAX_DEPTH = 4
PROBABILITIES = ".probabilities"
TENSOR_DTYPE = "float32"
NODE_PATTERN = r"^[a-z][a-z0-9_]{0,38}$"
NodeName = Annotated[str, Field(pattern=NODE_PATTERN)]


class When(Section):
    """A node runs only if another one has run and said this; with both keys, both must hold."""

    node: NodeName
    label_in: list[str] = Field([], description="Its most probable class is one of these.")
    confidence_below: float | None = Field(None, gt=0, le=1, description="It is less sure than this.")


class Node(Section):
    """One step: the champion of a project, asked about the request's item or about another node's answer."""

    project: str = Field(pattern=NAME_PATTERN)
    input: str = Field(
        REQUEST,
        pattern=r"^(request|[a-z][a-z0-9_]{0,38}\.probabilities)$",
        description="`request`: the caller's item. `<node>.probabilities`: the tensor that this node answers with, one "
        "float32 per class in the order of its project's classes; the bytes go on as they are.",
    )
    when: When | None = None

    @property
    def source(self) -> str:
        return self.input.removesuffix(PROBABILITIES)


class GraphSection(Section):
    """The nodes by name, and which of them answers."""

    nodes: dict[NodeName, Node] = Field(min_length=1, max_length=MAX_NODES)
    output: list[NodeName] = Field(
        min_length=1,
        description="The first of these that has run gives the answer, finished (thresholds, business labels, review) "
        "as its own project says. The last one must always run.",
    )


class ComposedServing(Section):
    """Limits of the composed project."""

    max_request_bytes: int = Field(ROUTE.max_request_bytes, ge=1)
    requests_per_second: float = Field(ROUTE.requests_per_second, gt=0, description="Per API key.")


class ComposedProject(Section):
    """A project without data and model of its own: a task composed of other projects' champions."""

    version: Literal[1] = 1
    name: str = Field(pattern=NAME_PATTERN)
    description: str = ""
    owner: str = "ml"
    graph: GraphSection
    serving: ComposedServing = ComposedServing()


@dataclasses.dataclass(frozen=True, slots=True)
class NodeFacts:
    """Input and output of the champion of a node's project; `columns` are those of a plain numeric row, else None."""

    modality: Modality
    classes: tuple[str, ...]
    input_dtype: str
    input_shape: tuple[int, ...]
    columns: tuple[str, ...] | None


def needs(node: Node) -> list[str]:
    """Return the nodes that must be asked before this one."""
    return [name for name in (node.source, node.when.node if node.when else REQUEST) if name != REQUEST]


def in_order(section: GraphSection) -> list[str]:
    """Return the nodes, each behind those that it needs; what stands in a cycle is left out."""
    ordered: list[str] = []
    left = dict(section.nodes)
    while ready := [name for name, node in left.items() if set(needs(node)) <= set(ordered)]:
        ordered += ready
        for name in ready:
            del left[name]
    return ordered


def shape_problems(section: GraphSection) -> list[Finding]:
    """Return what is wrong with a graph whatever the projects are: (key, message) pairs."""
    problems = [*_name_problems(section), *_project_problems(section)]
    if problems:
        return problems
    ordered = in_order(section)
    cyclic = sorted(set(section.nodes) - set(ordered))
    if cyclic:
        message = f"nodes must not need each other in a circle (got {', '.join(cyclic)}). Cut one input or `when`."
        return [(("graph", "nodes", cyclic[0]), message)]
    return [*_depth_problems(section, ordered), *_use_problems(section), *_output_problems(section)]


def _name_problems(section: GraphSection) -> Iterator[Finding]:
    known = ", ".join(section.nodes)
    if REQUEST in section.nodes:
        yield ("graph", "nodes", REQUEST), "a node must not be called request: that is the caller's item."
    for name, node in section.nodes.items():
        key = ("graph", "nodes", name)
        if node.source != REQUEST and node.source not in section.nodes:
            text = f"input must be request or a node of this graph (got {node.source!r}; known: {known})."
            yield (*key, "input"), text
        if node.when and node.when.node not in section.nodes:
            text = f"when.node must be a node of this graph (got {node.when.node!r}; known: {known})."
            yield (*key, "when", "node"), text
        if node.when and not node.when.label_in and node.when.confidence_below is None:
            text = "when must have label_in or confidence_below (got neither). Without a condition, leave `when` out."
            yield (*key, "when"), text
    for index, name in enumerate(section.output):
        if name not in section.nodes:
            yield ("graph", "output", index), f"output must be nodes of this graph (got {name!r}; known: {known})."


def _project_problems(section: GraphSection) -> Iterator[Finding]:
    """One node a project: a prediction stands in a project's log once under its id."""
    first: dict[str, str] = {}
    for name, node in section.nodes.items():
        if first.setdefault(node.project, name) != name:
            text = f"project must be in one node only (got {node.project!r} in {first[node.project]} too)."
            yield ("graph", "nodes", name, "project"), text


def _depth_problems(section: GraphSection, ordered: Sequence[str]) -> list[Finding]:
    depth: dict[str, int] = {}
    for name in ordered:
        depth[name] = 1 + max((depth[other] for other in needs(section.nodes[name])), default=0)
    deep = [name for name in ordered if depth[name] > MAX_DEPTH]
    message = f"at most {MAX_DEPTH} nodes must be asked one after another (got {{}}). Each hop is waited for."
    return [(("graph", "nodes", name), message.format(depth[name])) for name in deep[:1]]


def _use_problems(section: GraphSection) -> list[Finding]:
    used = {name for node in section.nodes.values() for name in needs(node)} | set(section.output)
    message = "a node must be in output or be needed by another one (got one that nobody reads). Remove it."
    return [(("graph", "nodes", name), message) for name in section.nodes if name not in used]


def _output_problems(section: GraphSection) -> list[Finding]:
    if len(set(section.output)) != len(section.output):
        return [(("graph", "output"), "output must name each node once.")]
    name = last = section.output[-1]
    while name != REQUEST:
        node = section.nodes[name]
        if node.when:
            message = f"the last of output must run for every request (got {last}, which waits for `when` of {name}). "
            return [(("graph", "output"), message + "Put a node without a condition at the end.")]
        name = node.source
    return []


def resolve(section: GraphSection, facts: Mapping[str, NodeFacts]) -> tuple[Graph, list[Finding]]:
    """Return the graph as the gateway runs it, and where the nodes' types do not match; `facts` are by project."""
    problems: list[Finding] = []
    nodes = []
    entered = [name for name, node in section.nodes.items() if node.source == REQUEST]
    modality = facts[section.nodes[entered[0]].project].modality
    for name in in_order(section):
        node = section.nodes[name]
        key = ("graph", "nodes", name)
        mine = facts[node.project]
        labels: tuple[str, ...] = ()
        if node.source == REQUEST and mine.modality != modality:
            message = (
                f"input must be request for nodes of one modality (got {mine.modality}; {entered[0]} is {modality})."
            )
            problems.append(((*key, "input"), message))
        if node.source != REQUEST:
            labels = facts[section.nodes[node.source].project].classes
            problems += [((*key, "input"), message) for message in _type_problems(node, mine, labels)]
        if node.when:
            known = facts[section.nodes[node.when.node].project].classes
            unknown = [label for label in node.when.label_in if label not in known]
            if unknown:
                message = (
                    f"label_in must be classes of {node.when.node}: {', '.join(known[:20])} "
                    f"(got {', '.join(unknown[:10])})."
                )
                problems.append(((*key, "when", "label_in"), message))
        when = node.when
        nodes.append(
            GraphNode(
                name=name,
                project=node.project,
                source=node.source,
                labels=labels,
                when=when.node if when else None,
                label_in=tuple(when.label_in) if when else (),
                confidence_below=when.confidence_below if when else None,
            )
        )
    return Graph(tuple(nodes), tuple(section.output)), problems


def _type_problems(node: Node, mine: NodeFacts, labels: tuple[str, ...]) -> list[str]:
    got = f"{TENSOR_DTYPE} ({len(labels)},) from {node.source}"
    fits = len(mine.input_shape) == 1 and mine.input_shape[0] in {-1, len(labels)}
    if mine.input_dtype != TENSOR_DTYPE or not fits:
        return [f"input must be what {node.project} takes, {mine.input_dtype} {mine.input_shape} (got {got})."]
    if mine.columns is not None and mine.columns != labels:
        message = (
            f"input must be the columns that {node.project} was trained on, in their order: "
            f"{', '.join(mine.columns[:20])} (got the classes {', '.join(labels[:20])})."
        )
        return [message]
    return []


def output_classes(graph: Graph, facts: Mapping[str, NodeFacts]) -> list[str]:
    """Return every class that the composed answer can have, each once."""
    projects = {node.name: node.project for node in graph.nodes}
    return list(dict.fromkeys(label for name in graph.output for label in facts[projects[name]].classes))
