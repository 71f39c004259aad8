from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.errors import DataCorrupt, GateClosed, StaleAttempt
from pipeline_tasks.invariants.check import check
from pipeline_tasks.orchestration.ledger_seals import seal
from pipeline_tasks.validation import manifest
from pipeline_tasks.validation.task import build_snapshot, open_exam, read_exam
from tests.unit.validation.builders import NOW, png


def exam_rows(scene) -> dict[str, int]:
    with scene.database.read() as connection:
        return {row.item_id: row.epoch for row in connection.execute(sa.select(t.exam_items))}


def test_without_an_exam_too_few_items_close_the_gate(scene):
    scene.add_labeled(7, split="exam")
    with pytest.raises(GateClosed, match=r"got 7 labeled exam items of 10\)\. 3 more are needed") as caught:
        open_exam(scene.project, **scene.freezing)
    assert caught.value.code == "EXAM_TOO_SMALL"


def test_enough_items_open_the_first_epoch(scene):
    ids = scene.add_labeled(12, split="exam")
    scene.add_labeled(6, start=100)
    (exam,) = open_exam(scene.project, **scene.freezing)
    assert (exam.epoch, exam.num_items, exam.object_key) == (1, 12, f"exams/pets/{exam.exam_id}.parquet")
    table = read_exam(scene.store, exam)
    assert table["item_id"].to_pylist() == sorted(ids)
    assert set(table["split"].to_pylist()) == {"exam"}
    assert exam_rows(scene) == dict.fromkeys(ids, 1)


def test_what_is_written_is_what_verify_asks_for(scene):
    scene.add_labeled(12, split="exam")
    scene.add_labeled(60, start=100)
    open_exam(scene.project, **scene.freezing)
    build_snapshot(scene.project, **scene.freezing)
    seal(SimpleNamespace(database=scene.database, store=scene.store), "pets")
    broken = check(scene.database, scene.store, now=NOW, deep=True)
    assert [str(violation) for violation in broken if violation.invariant == "I11"] == []


def test_an_epoch_stays_until_enough_new_items_are_labeled(scene):
    first = scene.add_labeled(10, split="exam")
    (epoch,) = open_exam(scene.project, **scene.freezing)
    scene.add_labeled(9, split="exam", start=50)
    assert open_exam(scene.project, **scene.freezing) == [epoch]
    late = scene.add_labeled(1, split="exam", start=90)
    current, previous = open_exam(scene.project, **scene.freezing)
    assert (current.epoch, current.num_items, previous) == (2, 10, epoch)
    rows = exam_rows(scene)
    assert {rows[item_id] for item_id in first} == {1}
    assert rows[late[0]] == 2
    # Later runs get the same two, and a third epoch is judged with them until the window is full.
    assert open_exam(scene.project, **scene.freezing) == [current, epoch]
    scene.add_labeled(10, split="exam", start=200)
    assert [exam.epoch for exam in open_exam(scene.project, **scene.freezing)] == [3, 2, 1]
    small = with_gate(scene.project, window_items=20)
    assert [exam.epoch for exam in open_exam(small, **scene.freezing)] == [3, 2]


def with_gate(project, **changes):
    """Return the project with other settings of its exam."""
    config = project.config
    exam = config.gate.exam.model_copy(update=changes)
    gate = config.gate.model_copy(update={"exam": exam})
    return project.model_copy(update={"config": config.model_copy(update={"gate": gate})})


def test_an_epoch_takes_few_items_of_a_group_and_the_others_wait(scene):
    for index in range(30):
        item_id = scene.add_item(png(index), split="exam", group="one user" if index < 20 else None)
        scene.decide(item_id, ("cat", "dog")[index % 2])
    (exam,) = open_exam(with_gate(scene.project, max_group_items=3), **scene.freezing)
    assert exam.num_items == 13
    rows = read_exam(scene.store, exam)
    assert rows["group_key"].to_pylist().count("one user") == 3


def test_a_frozen_exam_keeps_its_labels_when_a_decision_changes(scene):
    ids = scene.add_labeled(10, split="exam")
    (exam,) = open_exam(scene.project, **scene.freezing)
    before = read_exam(scene.store, exam)["label"].to_pylist()
    scene.decide(ids[0], None, version=2, status="withdrawn")
    (again,) = open_exam(scene.project, **scene.freezing)
    assert read_exam(scene.store, again)["label"].to_pylist() == before


def test_an_item_belongs_to_one_epoch_only(scene):
    ids = scene.add_labeled(10, split="exam")
    open_exam(scene.project, **scene.freezing)
    with pytest.raises(sa.exc.IntegrityError):
        scene.insert(t.exam_items, {"project": "pets", "item_id": ids[0], "epoch": 2, "label": "cat"})


def test_bad_exam_labels_do_not_count(scene):
    ids = scene.add_labeled(10, split="exam")
    scene.decide(ids[0], "fox", version=2)
    with pytest.raises(GateClosed, match=r"got 9 labeled exam items of 10\)\. 1 more"):
        open_exam(scene.project, **scene.freezing)
    assert exam_rows(scene) == {}


def test_an_exam_of_one_class_is_refused(scene):
    scene.add_labeled(10, split="exam", label="cat")
    with pytest.raises(GateClosed, match="2 different labels") as caught:
        open_exam(scene.project, **scene.freezing)
    assert caught.value.code == "SINGLE_CLASS"


def test_a_group_that_was_trained_on_is_refused(scene):
    scene.add_labeled(6)
    scene.decide(scene.add_item(b"old", group="patient-7"), "cat")
    build_snapshot(scene.project, **scene.freezing)
    scene.add_labeled(10, split="exam", start=50)
    scene.decide(scene.add_item(png(999), split="exam", group="patient-7"), "cat")
    with pytest.raises(GateClosed, match=r"must share no group_key.*patient-7") as caught:
        open_exam(scene.project, **scene.freezing)
    assert caught.value.code == "GROUP_LEAKAGE"
    assert exam_rows(scene) == {}


def test_a_changed_exam_is_refused_on_reading(scene):
    scene.add_labeled(10, split="exam")
    (exam,) = open_exam(scene.project, **scene.freezing)
    table = manifest.from_parquet(scene.store.objects[exam.object_key], object_key="k").slice(1)
    scene.store.objects[exam.object_key] = manifest.to_parquet(table)
    with pytest.raises(DataCorrupt, match=f"must hash to {exam.exam_id}"):
        read_exam(scene.store, exam)


def test_a_stale_attempt_opens_nothing(scene, monkeypatch):
    scene.add_labeled(10, split="exam")
    put = scene.store.put

    def overtaken(key, data, **kwargs):
        scene.database.acquire("exam/pets", Attempt("run-1", "snapshot", 2), now=NOW)
        put(key, data, **kwargs)

    monkeypatch.setattr(scene.store, "put", overtaken)
    with pytest.raises(StaleAttempt, match="must hold the lease"):
        open_exam(scene.project, **scene.freezing)
    assert exam_rows(scene) == {}
