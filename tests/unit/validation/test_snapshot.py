import pyarrow as pa
import pytest
import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.errors import DataCorrupt, GateClosed, ServiceUnavailable, StaleAttempt
from pipeline_tasks.validation import manifest
from pipeline_tasks.validation.task import build_snapshot, plan_training, read_manifest
from tests.unit.validation.builders import NOW, Scene


def rows_of(scene, table) -> list[dict]:
    with scene.database.read() as connection:
        return [dict(row) for row in connection.execute(sa.select(table)).mappings()]


def test_a_snapshot_holds_the_newest_decided_training_labels(scene):
    ids = scene.add_labeled(6)
    scene.decide(ids[0], "dog", version=2)  # corrected
    scene.decide(ids[1], None, version=2, status="withdrawn")
    scene.decide(ids[2], None, version=2, status="disputed")
    scene.add_labeled(2, split="exam", start=100)
    unlabeled = scene.add_item(b"unlabeled")
    snapshot = build_snapshot(scene.project, **scene.freezing)
    table = read_manifest(scene.store, snapshot)
    assert table["item_id"].to_pylist() == sorted([ids[0], ids[3], ids[4], ids[5]])
    assert unlabeled not in table["item_id"].to_pylist()
    labels = dict(zip(table["item_id"].to_pylist(), table["label"].to_pylist(), strict=True))
    assert labels == {ids[0]: "dog", ids[3]: "dog", ids[4]: "cat", ids[5]: "dog"}
    versions = dict(zip(table["item_id"].to_pylist(), table["decision_version"].to_pylist(), strict=True))
    assert versions[ids[0]] == 2
    assert set(table["split"].to_pylist()) == {"train"}
    assert table["annotators"].to_pylist()[0] == ["ann"]
    assert table["arrived_at"].to_pylist()[0] == NOW
    assert (snapshot.num_rows, snapshot.generation) == (4, 1)
    (row,) = rows_of(scene, t.snapshots)
    assert (row["class_counts"], row["parent_id"]) == ({"cat": 1, "dog": 3}, None)


def test_the_same_labels_give_the_same_snapshot(scene):
    scene.add_labeled(6)
    first = build_snapshot(scene.project, **scene.freezing)
    again = build_snapshot(scene.project, **scene.freezing | {"run_id": "run-2"})
    assert again == first
    assert len(rows_of(scene, t.snapshots)) == 1


def test_new_labels_give_the_next_generation_with_its_parent(scene):
    scene.add_labeled(6)
    first = build_snapshot(scene.project, **scene.freezing)
    scene.add_labeled(2, start=50)
    second = build_snapshot(scene.project, **scene.freezing)
    assert (second.generation, second.num_rows) == (2, 8)
    assert rows_of(scene, t.snapshots)[1]["parent_id"] == first.snapshot_id
    # The old one is untouched, and still reads back.
    assert read_manifest(scene.store, first).num_rows == 6


def test_a_snapshot_that_a_killed_attempt_recorded_is_checked_against_the_one_before_it(scene):
    scene.add_labeled(6)
    build_snapshot(scene.project, **scene.freezing)
    scene.add_labeled(2, start=50)
    again = [build_snapshot(scene.project, **scene.freezing) for _ in range(2)]
    checks = [row for row in rows_of(scene, t.checks) if row["subject"] == again[0].snapshot_id]
    assert [row["statistics"]["reference_class_counts"] for row in checks] == [
        scene.datasets.class_counts(scene.project.name, rows_of(scene, t.snapshots)[0]["snapshot_id"])
    ]


def test_the_id_names_what_is_learned_from_and_not_where_or_when_it_came_in(scene):
    scene.add_labeled(5)
    decided = scene.datasets.decided("pets", "train")
    columns = decided.to_pydict()
    base = manifest.manifest_id(manifest.build_manifest(decided))
    backwards = pa.table({name: values[::-1] for name, values in columns.items()})
    assert manifest.manifest_id(manifest.build_manifest(backwards)) == base

    def changed(name, other) -> str:
        return manifest.manifest_id(manifest.build_manifest(pa.table({**columns, name: [other, *columns[name][1:]]})))

    for name, other in (("label", "fox"), ("version", 9), ("method", "consensus"), ("annotators", ["eve"])):
        assert changed(name, other) != base, name
    for name, other in (("offset", 3), ("object_key", "packs/pets/x"), ("arrived_at", NOW.replace(year=2027))):
        assert changed(name, other) == base, name


def test_newest_takes_what_the_champion_was_not_trained_on(scene):
    old = scene.add_labeled(6)
    base = build_snapshot(scene.project, **scene.freezing)
    scene.serve(base.snapshot_id)
    new = scene.add_labeled(4, start=50)
    scene.decide(old[0], "dog", version=2)  # was "cat": a corrected label is new too
    snapshot = build_snapshot(scene.project, **scene.freezing, window="newest")
    assert read_manifest(scene.store, snapshot)["item_id"].to_pylist() == sorted([*new, old[0]])


def test_newest_without_a_champion_takes_all(scene):
    scene.add_labeled(6)
    assert build_snapshot(scene.project, **scene.freezing, window="newest").num_rows == 6


@pytest.mark.parametrize(
    ("labels", "code", "message"),
    [
        ([], "EMPTY_BATCH", "at least one row"),
        (["cat"] * 6, "SINGLE_CLASS", "at least 2 different labels"),
        (["cat", "dog", "cat"], "ROW_COUNT", "at least 4 rows"),
    ],
)
def test_bad_label_sets_close_the_gate_and_leave_no_snapshot(scene, labels, code, message):
    for index, label in enumerate(labels):
        scene.decide(scene.add_item(f"item {index}".encode()), label)
    with pytest.raises(GateClosed, match=message) as caught:
        build_snapshot(scene.project, **scene.freezing)
    assert caught.value.code == code
    assert "reports/pets/checks/" in str(caught.value)
    assert rows_of(scene, t.snapshots) == []
    assert not [key for key in scene.store.objects if key.startswith("snapshots/")]
    assert [row["success"] for row in rows_of(scene, t.checks)][-1] is False


def test_an_unknown_class_is_put_aside_with_its_reason(scene):
    scene.add_labeled(6)
    bad = scene.add_item(b"bad label", key="bad.png")
    scene.decide(bad, "Cat ")
    snapshot = build_snapshot(scene.project, **scene.freezing)
    assert snapshot.num_rows == 6
    (row,) = rows_of(scene, t.quarantine)
    assert (row["stage"], row["digest"], row["code"], row["key"]) == ("labels", bad, "LABEL_IN_SET", "bad.png")
    assert "one of cat, dog" in row["reason"]


def test_an_item_in_quarantine_is_not_trained_on(scene):
    ids = scene.add_labeled(6)
    bad = {"project": "pets", "stage": "items", "source": "folder", "key": "k", "digest": ids[0], "code": "WIDTH"}
    scene.insert(t.quarantine, bad | {"reason": "", "object_key": None, "at": NOW})
    assert (
        ids[0] not in read_manifest(scene.store, build_snapshot(scene.project, **scene.freezing))["item_id"].to_pylist()
    )


def test_a_group_that_is_in_the_exam_stops_the_snapshot(scene):
    scene.add_labeled(6)
    exam_item = scene.add_item(b"exam", split="exam", group="patient-7")
    scene.insert(t.exam_items, {"project": "pets", "item_id": exam_item, "epoch": 1, "label": "cat"})
    scene.decide(scene.add_item(b"train", group="patient-7"), "cat")
    with pytest.raises(GateClosed, match="leaked_groups must be at most 0") as caught:
        build_snapshot(scene.project, **scene.freezing)
    assert caught.value.code == "GROUP_LEAKAGE"


def test_an_item_that_is_in_the_exam_stops_the_snapshot(scene):
    ids = scene.add_labeled(6)
    scene.insert(t.exam_items, {"project": "pets", "item_id": ids[0], "epoch": 1, "label": "cat"})
    with pytest.raises(GateClosed, match="leaked_items must be at most 0") as caught:
        build_snapshot(scene.project, **scene.freezing)
    assert caught.value.code == "ITEM_LEAKAGE"


@pytest.mark.parametrize(("policy", "stops"), [("warn", False), ("stop", True)])
def test_label_drift_follows_its_policy(database, object_store, tmp_path, policy, stops):
    checks = {"min_rows": 4, "min_per_class": 1, "max_drift": 0.2, "drift_policy": policy, "max_class_share": 0.99}
    scene = Scene(database, object_store, tmp_path, checks=checks)
    scene.add_labeled(6)
    build_snapshot(scene.project, **scene.freezing)
    scene.add_labeled(40, start=50, label="dog")
    if stops:
        with pytest.raises(GateClosed, match=r"label_drift must be at most 0\.2") as caught:
            build_snapshot(scene.project, **scene.freezing)
        assert caught.value.code == "LABEL_DRIFT"
    else:
        assert build_snapshot(scene.project, **scene.freezing).generation == 2
    record = max(
        (check for check in scene.datasets.checks("pets") if check.stage == "dataset"),
        key=lambda check: check.statistics["num_rows"],
    )
    assert record.statistics["severity"] == ("stop" if stops else "warn")
    assert record.statistics["label_drift"] == pytest.approx(0.3887, abs=1e-4)  # 0.4302 less what chance gives


def test_a_corrupt_manifest_is_refused_on_reading(scene):
    scene.add_labeled(6)
    snapshot = build_snapshot(scene.project, **scene.freezing)
    table = manifest.from_parquet(scene.store.objects[snapshot.object_key], object_key="k")
    flipped = table.set_column(1, "label", [["dog"] * table.num_rows])
    scene.store.objects[snapshot.object_key] = manifest.to_parquet(flipped.cast(manifest.SCHEMA))
    with pytest.raises(DataCorrupt, match="must hash to"):
        read_manifest(scene.store, snapshot)
    scene.store.objects[snapshot.object_key] = scene.store.objects[snapshot.object_key][:-20]
    with pytest.raises(DataCorrupt, match="Parquet manifest"):
        read_manifest(scene.store, snapshot)
    del scene.store.objects[snapshot.object_key]
    with pytest.raises(DataCorrupt, match="must exist in the object store"):
        read_manifest(scene.store, snapshot)


def test_a_stale_attempt_publishes_nothing(scene, monkeypatch):
    scene.add_labeled(6)
    put = scene.store.put

    def overtaken(key, data, **kwargs):
        scene.database.acquire("snapshot/pets", Attempt("run-1", "snapshot", 2), now=NOW)
        put(key, data, **kwargs)

    monkeypatch.setattr(scene.store, "put", overtaken)
    with pytest.raises(StaleAttempt, match="must hold the lease"):
        build_snapshot(scene.project, **scene.freezing)
    assert rows_of(scene, t.snapshots) == []


def test_a_put_whose_answer_was_lost_is_repeated_without_harm(scene):
    scene.add_labeled(6)
    scene.store.fail("put", ServiceUnavailable("gone"), times=1, after=True)
    with pytest.raises(ServiceUnavailable, match="gone"):
        build_snapshot(scene.project, **scene.freezing)
    assert build_snapshot(scene.project, **scene.freezing).generation == 1


def test_planning_counts_what_no_recent_snapshot_holds(scene):
    scene.add_labeled(6)
    arguments = {"datasets": scene.datasets, "store": scene.store}
    assert plan_training(scene.project, **arguments).num_new_labels == 6
    base = build_snapshot(scene.project, **scene.freezing)
    scene.serve(base.snapshot_id)
    assert plan_training(scene.project, **arguments).num_new_labels == 0
    new = scene.add_labeled(5, start=50)
    assert plan_training(scene.project, **arguments).num_new_labels == 5
    build_snapshot(scene.project, **scene.freezing, window="newest")
    # The head now holds only the newest; what the champion knows still does not count as new.
    assert plan_training(scene.project, **arguments).num_new_labels == 0
    scene.decide(new[0], "dog", version=2)
    decision = plan_training(scene.project, **arguments)
    assert (decision.train, decision.code, decision.num_new_labels) == (False, "TOO_FEW_NEW_LABELS", 1)
