"""Lineage in both directions, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import json

import pytest

from pipeline_tasks.audit.lineage import blast_radius, lineage
from pipeline_tasks.audit.lineage_tree import LineageNode, as_json, as_text
from pipeline_tasks.catalog import tables
from pipeline_tasks.catalog.lineage import LineageRepository, Subject
from pipeline_tasks.errors import ConfigError, DataCorrupt
from tests.lineage_case import Past, at, item_id


@pytest.fixture
def past(database, object_store) -> Past:
    return Past(database, object_store)


def trace(past: Past, text: str, **arguments) -> LineageNode:
    return lineage(past.database, past.store, text, **arguments)


def every(tree: LineageNode, kind: str) -> list[LineageNode]:
    """Return the nodes of a kind, from the top down."""
    nodes = [tree] if tree.facts.get("kind") == kind else []
    return [*nodes, *(node for child in tree.children for node in every(child, kind))]


def branch(tree: LineageNode, kind: str) -> LineageNode:
    return next(child for child in tree.children if child.facts["kind"] == kind)


# The queries


def test_an_id_is_found_by_its_beginning_in_every_kind(past):
    find = LineageRepository(past.database).find
    everywhere = {"kind": None, "project": None, "limit": 10}
    assert find(past.version_of("m1")[:6], **everywhere) == [Subject("model", "pets", past.version_of("m1"))]
    assert find(past.snapshot_2[:8], **everywhere) == [Subject("snapshot", "pets", past.snapshot_2)]
    assert find(past.verdict_id("m3")[:8], **everywhere) == [Subject("verdict", "pets", past.verdict_id("m3"))]
    assert find(item_id(4)[:8], **everywhere) == [Subject("item", "pets", item_id(4))]
    assert find(past.prediction_id(1)[:8], **everywhere) == [Subject("prediction", "pets", past.prediction_id(1))]
    assert find(item_id(4), kind="label", project="pets", limit=10) == [Subject("label", "pets", item_id(4))]
    assert find(item_id(4), kind="model", project="pets", limit=10) == []
    assert find(item_id(4), kind="item", project="texts", limit=10) == []


def test_beginnings_are_no_patterns_and_capitals_count(past):
    find = LineageRepository(past.database).find
    for beginning in ("%", "_" * 16, item_id(4)[:8].upper()):
        assert find(beginning, kind=None, project=None, limit=10) == []


def test_an_annotation_is_shown_as_it_is_now(past):
    rows = LineageRepository(past.database).annotations("pets", item_id(0))
    assert [(row["annotation_id"], row["label"]) for row in rows] == [
        ("a0-1-ada", "cat"),
        ("a0-2-ada", "dog"),
        ("a0-2-ben", "dog"),
    ]


def test_a_persons_annotations_are_counted_once_each(past):
    repository = LineageRepository(past.database)
    assert repository.annotators("pets") == ["ada", "ben"]
    assert repository.annotator_counts("pets", "ada") == (5, 4)
    assert repository.annotator_counts("pets", "nobody") == (0, 0)


def test_the_batch_of_each_item_is_found(past):
    batches = LineageRepository(past.database).batches("pets", {item_id(0), item_id(5), "unknown"})
    assert batches == {item_id(0): "batch-1", item_id(5): "batch-2"}


# Where it came from


def test_a_model_came_from_its_snapshot_labels_people_and_batches(past):
    tree = trace(past, past.version_of("m2"))
    origin = branch(tree, "came_from")

    assert tree.facts["seed"] == 3
    (snapshot,) = every(origin, "snapshot")
    assert (snapshot.facts["snapshot_id"], snapshot.facts["num_rows"]) == (past.snapshot_2, 6)
    (labels,) = every(origin, "labels")
    assert labels.text == "6 labels by ada 3, ben 3, imported 1"
    assert labels.facts["annotators"] == {"ada": 3, "ben": 3}
    assert every(origin, "annotations")[0].text == "6 annotations by 2 annotators"
    assert [(node.facts["batch_id"], node.facts["num_items"]) for node in every(origin, "batch")] == [
        ("batch-1", 4),
        ("batch-2", 2),
    ]


def test_a_prediction_came_from_model_release_route_and_its_audited_input(past):
    origin = branch(trace(past, past.prediction_id(1)), "came_from")
    assert origin.children[0].facts["version"] == past.version_of("m1")
    assert every(origin, "route")[0].facts["generation"] == 1
    assert every(origin, "release")[0].facts["release_id"] == "release-m1"
    assert every(origin, "verdict")[0].facts["answer"] == "promote"
    assert every(origin, "item")[0].facts["item_id"] == item_id(7)


def test_a_prediction_that_nobody_looked_at_is_found_in_the_log(past):
    tree = trace(past, past.prediction_id(5))
    assert tree.text.startswith(f"prediction {past.prediction_id(5)} of pets: 'cat' with 0.7500, 2026-03-01 05:36:00")
    origin = branch(tree, "came_from")
    assert every(origin, "route")[0].facts["generation"] == 2
    assert origin.children[-1].text.startswith("its input was not audited and is no item (SHA-256 ")
    assert branch(tree, "touched").children[0].text == "nothing yet"


def test_a_prediction_whose_bytes_are_an_item_names_it(past):
    past.log(past.record("bb" * 16, "m2", hour=6, payload=b"item 2", payload_sha256=item_id(2)))
    origin = branch(trace(past, "bb" * 16), "came_from")
    assert every(origin, "item")[0].facts["item_id"] == item_id(2)


def test_an_audited_prediction_whose_log_is_gone_still_names_model_and_item(past):
    past.store.delete([key for key in past.store.objects if key.startswith("predictions/")])
    origin = branch(trace(past, past.prediction_id(1)), "came_from")
    assert [node.facts["kind"] for node in origin.children] == ["model", "item"]


def test_a_verdict_came_from_both_models_the_exam_and_an_approval(past):
    origin = branch(trace(past, past.verdict_id("m2")), "came_from")
    assert [node.facts["kind"] for node in origin.children] == ["model", "champion", "exam", "approval"]
    assert origin.children[-1].text == "approve by grace, 2026-03-01 05:12:00: looks right"
    assert every(origin.children[2], "labels")[0].text == "1 label by ada 1, ben 1"


def test_a_label_came_from_annotations_and_its_item(past):
    origin = branch(trace(past, f"label:{item_id(0)}"), "came_from")
    assert [node.facts["kind"] for node in origin.children] == ["label", "label", "item"]
    newest = origin.children[0]
    assert newest.text == "decision 2: 'dog', consensus by ada, ben, 2026-03-01 02:30:00"
    assert [node.facts["annotator"] for node in newest.children] == ["ada", "ben"]
    assert "folder:photos/0.png, batch batch-1" in origin.children[-1].text


def test_an_item_out_of_production_names_its_prediction(past):
    origin = branch(trace(past, item_id(7)), "came_from")
    assert origin.children[0].children[0].facts["prediction_id"] == past.prediction_id(1)


def test_a_manifest_that_is_gone_is_told_and_a_damaged_one_refused(past):
    key = f"snapshots/pets/{past.snapshot_1}/manifest.parquet"
    past.store.delete([key])
    assert every(trace(past, past.version_of("m1")), "gone")[0].text == (
        f"its manifest {key} is not in the object store"
    )
    with pytest.raises(DataCorrupt, match="must exist in the object store"):
        trace(past, item_id(1))
    past.store.put(key, b"no parquet")
    with pytest.raises(DataCorrupt, match="must be a Parquet manifest"):
        trace(past, past.version_of("m1"))


# What it touched


def test_an_item_touched_snapshots_models_routes_and_predictions(past):
    touched = branch(trace(past, item_id(0)), "touched")

    assert every(touched, "annotations")[0].text == "3 annotations by ada 2, ben 1"
    snapshots = every(touched, "snapshot")
    assert [node.facts["snapshot_id"] for node in snapshots] == [past.snapshot_2, past.snapshot_1]
    assert [node.facts["labels"][0] for node in snapshots] == [
        {"label": "dog", "decision_version": 2, "count": 1},
        {"label": "cat", "decision_version": 1, "count": 1},
    ]
    newest, oldest = snapshots
    assert [node.facts["version"] for node in every(newest, "model")] == [past.version_of("m2"), past.version_of("m3")]
    assert [node.text for node in every(oldest, "routes")] == ["1 route: generation 1 (promote); does not serve now"]
    assert [node.text for node in every(newest, "routes")] == [
        "1 route: generation 2 (promote); SERVES 100 % now as pets-m2 at http://127.0.0.1:4002 (generation 2)",
        "never in a route",
    ]
    total = touched.children[-2]
    assert total.facts["by_version"] == {past.version_of("m1"): 3, past.version_of("m2"): 2}
    assert touched.children[-1].text == "1 live service affected"


def test_an_item_that_only_the_second_snapshot_holds(past):
    touched = branch(trace(past, item_id(4)), "touched")
    assert [node.facts["snapshot_id"] for node in every(touched, "snapshot")] == [past.snapshot_2]
    assert every(touched, "snapshots")[0].text == "1 snapshot of 2 holding it"


def test_an_exam_item_touched_verdicts_and_what_they_let_through(past):
    touched = branch(trace(past, item_id(6)), "touched")
    assert every(touched, "snapshots")[0].facts["total"] == 0
    (exam,) = every(touched, "exam")
    assert exam.text == "exam epoch 1 (1 item), 1 row: cat (decision 1) 1: 3 verdicts judged on it"
    assert every(touched, "live")[0].facts["because"] == ["judged on it"]


def test_a_model_touched_verdicts_releases_routes_and_predictions(past):
    touched = branch(trace(past, past.version_of("m1")), "touched")
    assert [node.facts["kind"] for node in touched.children] == [
        "verdict",
        "champion_in",
        "release",
        "routes",
        "predictions",
    ]
    assert every(touched, "deployment")[0].facts["address"] == "http://127.0.0.1:4001"
    (image,) = every(touched, "image")
    assert image.text == "image registry:5000/pets@sha256:m1, its parts in bentos/pets/release-m1.sbom.cdx.json"
    assert (image.facts["layer_bytes"], image.facts["base_digest"]) == (7, "sha256:b")
    assert touched.children[-1].facts["total"] == 3


def test_a_snapshot_touched_its_models(past):
    touched = branch(trace(past, past.snapshot_2[:10]), "touched")
    assert [node.facts["version"] for node in touched.children] == [past.version_of("m2"), past.version_of("m3")]


def test_a_verdict_that_kept_the_champion_touched_nothing(past):
    assert branch(trace(past, past.verdict_id("m3")), "touched").children[0].text == "nothing yet"
    shipped = branch(trace(past, past.verdict_id("m2")), "touched")
    assert [node.facts["kind"] for node in shipped.children] == ["release", "routes", "predictions"]


def test_an_audited_prediction_touched_its_item(past):
    touched = branch(trace(past, past.prediction_id(1)), "touched")
    assert [node.facts["kind"] for node in touched.children] == ["outcome", "audit"]
    assert touched.children[0].facts["label"] == "dog"
    assert touched.children[1].facts["item_id"] == item_id(7)


# What an id may be


def test_an_unknown_id_is_refused(past):
    with pytest.raises(ConfigError, match=r"id must be \(the beginning of\) a known model, .* \(got deadbeef\)"):
        trace(past, "deadbeef")
    with pytest.raises(ConfigError, match=r"a known model \(got deadbeef\)"):
        trace(past, "model:deadbeef")


def test_a_short_id_and_an_unknown_project_are_refused(past):
    with pytest.raises(ConfigError, match=r"id must have 4 characters or more \(got 'ab'\)"):
        trace(past, "ab")
    with pytest.raises(ConfigError, match=r"project must be one that the catalog knows \(got cars\). Known: pets"):
        trace(past, "abcd", project="cars")


def test_an_ambiguous_beginning_is_refused_with_the_candidates(past):
    with pytest.raises(ConfigError, match="id must name one thing") as caught:
        trace(past, "aaaa")
    for number in range(1, 6):
        assert f"prediction:{past.prediction_id(number)} (pets)" in str(caught.value)


def test_an_item_of_two_projects_needs_the_project(past):
    Past(past.database, past.store, project="cars")
    with pytest.raises(ConfigError, match=rf"item:{item_id(1)} \(cars\), item:{item_id(1)} \(pets\)\)\. .*--project"):
        trace(past, item_id(1))
    assert trace(past, item_id(1), project="cars").facts["project"] == "cars"


def test_an_item_without_a_label_has_no_label_lineage(past):
    with pytest.raises(ConfigError, match="must have a label"):
        trace(past, f"label:{item_id(7)}")


def test_every_tree_is_json_and_text(past):
    for text in (past.version_of("m1"), past.snapshot_1, past.verdict_id("m2"), item_id(0), past.prediction_id(1)):
        tree = trace(past, text)
        told = json.loads(json.dumps(as_json(tree)))
        assert told["id"] == text
        assert [node["kind"] for node in told["children"]] == ["came_from", "touched"]
        lines = as_text(tree).splitlines()
        assert lines[1] == "├─ came from"
        assert any(line.startswith("└─ touched") for line in lines)


# Blast radius


def radius(past: Past, **what) -> dict:
    return json.loads(json.dumps(blast_radius(past.database, past.store, "pets", **what).as_json()))


def test_the_blast_radius_of_an_item(past):
    affected = radius(past, item=item_id(4)[:10])
    assert affected["of"] == {"kind": "item", "id": item_id(4)}
    assert [(snapshot["snapshot_id"], snapshot["num_affected"]) for snapshot in affected["snapshots"]] == [
        (past.snapshot_2, 1)
    ]
    assert [(model["version"], model["num_predictions"]) for model in affected["models"]] == [
        (past.version_of("m2"), 2),
        (past.version_of("m3"), 0),
    ]
    assert affected["models"][0]["deployment_ids"] == ["pets-m2"]
    assert affected["models"][0]["generations"] == [2]
    assert affected["predictions"] == {"total": 2, "by_version": {past.version_of("m2"): 2}, "log_parts": 2}
    assert [(server["deployment_id"], server["because"]) for server in affected["live"]] == [
        ("pets-m2", ["trained on it"])
    ]
    assert affected["exams"] == []


def test_the_blast_radius_of_a_label_tells_which_decision_each_snapshot_holds(past):
    affected = blast_radius(past.database, past.store, "pets", label=item_id(0))
    assert affected.title == f"label of item {item_id(0)} of pets: 'dog' (decision 2)"
    assert [snapshot["labels"][0]["decision_version"] for snapshot in radius(past, label=item_id(0))["snapshots"]] == [
        2,
        1,
    ]


def test_the_blast_radius_of_a_person(past):
    ben = radius(past, annotator="ben")
    assert [(snapshot["generation"], snapshot["num_affected"]) for snapshot in ben["snapshots"]] == [(2, 3), (1, 1)]
    assert set(ben["snapshots"][0]["item_ids"]) == {item_id(0), item_id(2), item_id(4)}
    assert (ben["exams"][0]["num_affected"], len(ben["verdicts_on_exams"])) == (1, 3)
    assert ben["live"][0]["because"] == ["trained on it", "judged on it"]
    assert ben["predictions"]["total"] == 5
    text = as_text(blast_radius(past.database, past.store, "pets", annotator="ben").tree())
    assert text.startswith("4 annotations by ben on 4 items of pets\n├─ 2 snapshots of 2 holding it\n")


def test_nothing_serves_after_another_model_took_over(past):
    past.insert(
        tables.routes,
        generation=3,
        commit_id="c3",
        parent_commit_id=None,
        attempt="a",
        action="rollback",
        champion_version=past.version_of("m1"),
        verdict_id=past.verdict_id("m1"),
        body={
            "entries": [{"deployment_id": "d", "model_version": past.version_of("m1"), "address": "a", "weight": 100}],
            "shadows": [],
        },
        actor="ops",
        reason="bad day",
        created_at=at(8),
    )
    assert radius(past, item=item_id(4))["live"] == []
    assert [server["model_version"] for server in radius(past, item=item_id(0))["live"]] == [past.version_of("m1")]


def test_a_wrong_question_is_refused(past):
    with pytest.raises(ConfigError, match="one of --item, --label and --annotator must be given"):
        radius(past)
    with pytest.raises(ConfigError, match=r"--annotator must be a name .* \(got 'eve'\). Known: ada, ben"):
        radius(past, annotator="eve")
    with pytest.raises(ConfigError, match="--label must be an item with a label"):
        radius(past, label=item_id(7))
    with pytest.raises(ConfigError, match=r"a known item \(got deadbeef\)"):
        radius(past, item="deadbeef")
