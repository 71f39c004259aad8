"""A comparison after a migration of classes: both models are judged on the new labels."""

import json
from types import SimpleNamespace

import pytest

from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.evaluation.former_classes import model_of_now
from tests.unit.evaluation import support as s

GATE = {"exam": {"min_items": 10}}


def document_of(store, ref):
    return json.loads(store.get(f"{ref.object_key}/verdict.json"))


def replays(store, ref):
    stored = store.get(f"{ref.object_key}/verdict.json")
    again = vd.replay(json.loads(stored), store.get(f"{ref.object_key}/evidence.parquet"))
    return vd.document_bytes(again) == stored


def renamed(world, classes):
    """Let the contender have learned other names for the same answers."""
    world.models["new"] = s.TableModel(world.models["new"].answers, classes=classes)


def test_a_renamed_class_changes_no_figure(run, world, object_store):
    before = document_of(object_store, run())["evidence"]
    renamed(world, ("shirt", "boot"))
    ref = run(project=s.project(gate=GATE, classes=("shirt", "boot")), former={"shoe": "boot"})
    document = document_of(object_store, ref)
    after = document["evidence"]["current"]
    assert (ref.answer, ref.code) == ("promote", "GAIN_SHOWN")
    figures = ("difference", "num_items", "num_wins", "num_losses")  # the level is that of the second use
    assert [after["gain"][name] for name in figures] == [before["current"]["gain"][name] for name in figures]
    assert after["champion"]["accuracy"] == before["current"]["champion"]["accuracy"]
    assert document["question"]["champion"]["classes"] == ["shirt", "boot"]
    assert document["question"]["former"] == {"shoe": "boot"}
    told = [reason for reason in document["decision"]["reasons"] if reason["code"] == "CLASSES_MIGRATED"]
    assert "shoe as boot" in told[0]["text"]
    assert replays(object_store, ref)


def test_probabilities_of_merged_classes_are_added_up(run, world, object_store):
    labels = [*s.LABELS, *["clog"] * 30]
    exams = [world.exams[0], s.put_exam(object_store, epoch=2, labels=labels)]
    clogs = {s.payload(2, index): 2 for index in range(120, 150)}
    three = (*s.CLASSES, "clog")
    as_shoes = world.models["old"].answers | dict.fromkeys(clogs, 1)  # all clogs taken for shoes
    world.models["old"] = s.TableModel(as_shoes, classes=three)
    world.models["new"].answers |= dict.fromkeys(clogs, 1)
    project = s.project(gate=GATE)
    ref = run(exams=exams, project=project, former={"clog": "shoe"})
    current = document_of(object_store, ref)["evidence"]["current"]
    assert current["num_items"] == 270
    assert current["champion"]["health"]["num_not_probabilities"] == 0
    assert current["champion"]["accuracy"]["estimate"] == pytest.approx(236 / 270)
    assert replays(object_store, ref)


def test_items_of_a_removed_class_are_left_out_and_named(run, world, object_store):
    labels = [*s.LABELS, *["hat"] * 30]
    exams = [world.exams[0], s.put_exam(object_store, epoch=2, labels=labels)]
    hats = {s.payload(2, index): 2 for index in range(120, 150)}
    world.models["old"] = s.TableModel(world.models["old"].answers | hats, classes=(*s.CLASSES, "hat"))
    ref = run(exams=exams, former={"hat": None})
    document = document_of(object_store, ref)
    assert document["evidence"]["current"]["num_items"] == 240
    assert [item["code"] for item in document["question"]["left_out"]] == ["CLASS_REMOVED"] * 30
    assert any("30 of a removed class" in reason["text"] for reason in document["decision"]["reasons"])
    assert replays(object_store, ref)


def test_a_contender_that_learned_the_former_names_has_to_be_trained_again(run, object_store):
    ref = run(project=s.project(gate=GATE, classes=("shirt", "boot")), former={"shoe": "boot"})
    told = [reason["text"] for reason in document_of(object_store, ref)["decision"]["reasons"]]
    assert ref.answer == "keep"
    assert any(text.startswith("the contender has never learned boot") for text in told)


def test_a_broken_champion_is_no_less_broken_under_other_names(run, world):
    world.models["old"].broken = "shape"
    renamed(world, ("shirt", "boot"))
    ref = run(project=s.project(gate=GATE, classes=("shirt", "boot")), former={"shoe": "boot"})
    assert (ref.answer, ref.code) == ("keep", "CHAMPION_INVALID")


def test_nothing_is_said_where_no_former_name_occurs(run, object_store):
    document = document_of(object_store, run(former={"hat": "shoe"}))
    assert "former" not in document["question"]


def test_a_champion_without_a_row_for_each_item_has_no_answers_under_other_names():
    flat = SimpleNamespace(classes=("shirt", "shoe"), runtime="torch", decoding=None, predict=lambda _: [0.5, 0.5])
    assert model_of_now(flat, {"shoe": "boot"}).predict([1, 2]).shape == (0, 0)
