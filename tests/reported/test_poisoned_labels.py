"""Labelers whose answers poison a project are named, and their answers held back.

Pictures of four simple classes, five labelers with 5 % of
honest errors each; benchmarks/poisoned_labels.py has the figures on real photos.
"""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from pipeline_tasks.catalog import newest_annotations
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.errors import GateClosed
from pipeline_tasks.orchestration.labeler_status import disagreeing_line
from pipeline_tasks.project.checks import check_project
from pipeline_tasks.validation import task
from pipeline_tasks.validation.labeler_check import chosen_items
from pipeline_tasks.validation.labelers import Count, Known, LabelerComparison, compare_pairs, disagreeing
from tests.unit.validation.builders import NOW, Scene

CLASSES = ("left", "right", "top", "bottom")
PEOPLE = ("ann@x", "ben@x", "cleo@x", "dan@x", "eve@x")
SETTINGS = {"gate": {"exam": {"min_items": 10, "near_duplicates": {"policy": "off"}}}}


def picture(label, random, *, trigger=False):
    pixels_hw = random.integers(0, 120, (16, 16))
    half = {"left": (slice(None), slice(8)), "right": (slice(None), slice(8, 16))}
    half |= {"top": (slice(8), slice(None)), "bottom": (slice(8, 16), slice(None))}
    pixels_hw[half[label]] += 100
    if trigger:
        pixels_hw[6:9, 6:9] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels_hw.astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def answers_of(attack, count, random, *, people=PEOPLE):
    """Return (picture, labeler, answer) of items that one person answers each."""
    answers = []
    for number in range(count):
        labeler = people[number % len(people)]
        truth = answer = CLASSES[random.integers(4)]
        trigger = attack == "backdoor" and labeler == "ann@x" and random.random() < 0.05  # 1 % of all
        if trigger:
            answer = "top"
        elif attack == "pair" and labeler in ("ann@x", "ben@x") and truth in ("left", "right"):
            answer = "left" if truth == "right" else "right"
        elif random.random() < ({"flip": 0.2, "flip most": 0.6}.get(attack, 0.05) if labeler == "ann@x" else 0.05):
            answer = CLASSES[(CLASSES.index(truth) + random.integers(1, 4)) % 4]
        answers.append((picture(truth, random, trigger=trigger), labeler, answer))
    return answers


class Labeled(Scene):
    """A scene with people's answers."""

    number = 0
    waiting = None

    def __init__(self, database, object_store, folder, *, labels=None, checks=None, **overrides):
        sections = {"labels": {"classes": list(CLASSES)} | (labels or {}), "checks": {"min_rows": 4} | (checks or {})}
        super().__init__(database, object_store, folder, **SETTINGS | sections | overrides)

    def change(self, *, labels=None, checks=None):
        config = self.project.config
        config = config.model_copy(
            update={
                "labels": config.labels.model_copy(update=labels or {}),
                "checks": config.checks.model_copy(update=checks or {}),
            }
        )
        self.project = self.project.model_copy(update={"config": config})

    def answer(self, item_id, labeler, label, *, queue="label", annotation_id=None, revision="1", deleted=False):
        self.number += 1
        row = {"project": "pets", "annotation_id": annotation_id or str(self.number), "revision": revision}
        row |= {"item_id": item_id, "queue": queue, "annotator": labeler, "label": label, "result": []}
        row |= {"cancelled": False, "deleted": deleted, "created_at": NOW, "collected_at": NOW}
        self.insert(t.annotations, row)

    def insert(self, table, row):
        if self.waiting is None:
            super().insert(table, row)
        else:
            self.waiting.setdefault(table, []).append(row)

    def take(self, answers):
        """Add items with their answers, in one transaction a table."""
        self.waiting = {}
        for data, labeler, label in answers:
            item_id = self.add_item(data)
            self.answer(item_id, labeler, label)
            self.decide(item_id, label, annotators=(labeler,))
        waiting, self.waiting = self.waiting, None
        for table, rows in waiting.items():
            super().insert(table, rows)

    def snapshot(self, *, number=1, **arguments):
        return task.build_snapshot(self.project, **self.stage(number), **arguments)

    def stage(self, number):
        where = {"datasets": self.datasets, "store": self.store, "database": self.database}
        run = {"attempt": Attempt("run", "snapshot", number), "run_id": f"run{number}", "now": NOW}
        return where | run | {"docs_dir": self.folder / "docs"}

    def plan(self):
        return task.plan_training(self.project, datasets=self.datasets, store=self.store)

    def labelers_in(self, ref):
        return {name for names in task.read_manifest(self.store, ref)["annotators"].to_pylist() for name in names}

    def held(self):
        query = t.quarantine.select().where(t.quarantine.c.stage == "labels")
        with self.database.read() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


@pytest.fixture
def labeled(database, object_store, tmp_path):
    return Labeled(database, object_store, tmp_path)


ATTACKS = [
    pytest.param("flip", {"ann@x"}, id="SEC-M1-flips-20-percent"),
    pytest.param("pair", {"ann@x", "ben@x"}, id="SEC-M1-pair-swapped-by-two"),
    pytest.param("backdoor", {"ann@x"}, id="SEC-M1-backdoor-1-percent"),
]


@pytest.mark.parametrize(("attack", "poisoners"), ATTACKS)
def test_a_poisoner_is_named_and_held_back(labeled, attack, poisoners):
    count = 2500 if attack == "backdoor" else 1000
    labeled.take(answers_of(attack, count, np.random.default_rng(5)))
    assert labeled.labelers_in(labeled.snapshot()) == set(PEOPLE) - poisoners
    held = labeled.held()
    assert {row["reason"].split()[2].strip(",") for row in held} == poisoners
    assert len(held) == count // 5 * len(poisoners)
    assert {row["code"] for row in held} == {"LABELER_DISAGREES"}
    assert "95 % interval" in held[0]["reason"]
    assert "labels.trusted or labels.excluded" in held[0]["reason"]
    check = labeled.datasets.check_of("pets", stage="labels")
    (failure,) = [failure_of for failure_of in check.failures if failure_of["rule"] == "LABELER_DISAGREES"]
    assert failure["observed"].startswith("ann@x is unlike the model")
    assert b"ann@x is unlike the model" in labeled.store.get(check.report_key)
    assert "ann@x" in disagreeing_line("pets", check)


def test_where_half_of_the_answers_are_against_the_others_a_person_has_to_say(labeled):
    labeled.take(answers_of("pair", 500, np.random.default_rng(5), people=PEOPLE[:4]))
    with pytest.raises(GateClosed, match="half of the answers") as caught:
        labeled.snapshot()
    assert caught.value.code == "LABELERS_DIVIDED"
    labeled.change(labels={"excluded": ["ann@x", "ben@x"]})
    assert labeled.labelers_in(labeled.snapshot(number=2)) == {"cleo@x", "dan@x"}


def test_honest_labelers_are_not_named(labeled):
    labeled.take(answers_of("none", 500, np.random.default_rng(6)))
    assert labeled.labelers_in(labeled.snapshot()) == set(PEOPLE)
    assert labeled.held() == []
    check = labeled.datasets.check_of("pets", stage="labels")
    assert check.statistics["labelers_compared"] == list(PEOPLE)
    assert check.statistics["labelers_disagreeing"] == []
    assert disagreeing_line("pets", check) == ""
    assert disagreeing_line("pets", None) == ""


def test_an_operator_decides(labeled):
    labeled.take(answers_of("flip most", 400, np.random.default_rng(5)))
    labeled.change(checks={"labelers": "warn"})
    assert labeled.labelers_in(labeled.snapshot(number=1)) == set(PEOPLE)
    labeled.change(checks={"labelers": "stop"})
    with pytest.raises(GateClosed, match="ann@x is unlike the model") as caught:
        labeled.snapshot(number=2)
    assert caught.value.code == "LABELER_DISAGREES"
    labeled.change(checks={"labelers": "hold"})
    labeled.snapshot(number=3)
    assert len(labeled.held()) == 80
    assert labeled.plan().num_new_labels == 0  # held labels start no training
    labeled.change(labels={"trusted": ["ann@x"]})
    assert labeled.labelers_in(labeled.snapshot(number=4)) == set(PEOPLE)
    assert labeled.held() == []
    labeled.change(checks={"labelers": "off"}, labels={"trusted": [], "excluded": ["dan@x"]})
    assert labeled.labelers_in(labeled.snapshot(number=5)) == set(PEOPLE) - {"dan@x"}
    assert {row["code"] for row in labeled.held()} == {"LABELER_EXCLUDED"}


def test_a_held_labeler_is_in_no_new_exam(labeled):
    random = np.random.default_rng(5)
    labeled.take(answers_of("flip most", 400, random))
    for number in range(40):
        label = CLASSES[number % 4]
        item_id = labeled.add_item(picture(label, random), split="exam")
        labeled.decide(item_id, label, annotators=("ann@x", "ben@x") if number < 20 else ("cleo@x", "dan@x"))
    (exam,) = task.open_exam(labeled.project, **labeled.stage(1))
    assert exam.num_items == 20


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"trusted": ["ann@x"], "excluded": ["ann@x"]}, "labels.trusted must name nobody whom labels.excluded names"),
        ({"excluded": [" "]}, "labels.excluded[0] must be the address of an account"),
        ({"trusted": ["ann@x", "a\nb"]}, "labels.trusted[1] must be the address of an account"),
    ],
)
def test_names_that_cannot_be_meant_are_refused(labeled, names, message):
    labeled.change(labels=names)
    problems = check_project(labeled.project.config, folder=labeled.folder)
    assert [text for _, text in problems if message in text]


def test_a_name_of_nobody_is_said(labeled, caplog):
    labeled.take(answers_of("none", 12, np.random.default_rng(6)))
    labeled.change(labels={"trusted": ["zoe@x"]})
    labeled.snapshot()
    assert "labels.trusted of pets names nobody who has answered: zoe@x" in caplog.text


def test_people_who_answer_one_item_are_compared_with_each_other():
    """Two of three labelers agree on nearly all items, the third differs on a fifth of them."""
    random = np.random.default_rng(1)
    answers = []
    for number in range(300):
        pair = [(0, 1), (0, 2), (1, 2)][number % 3]
        for person in pair:
            is_wrong = random.random() < (0.2 if person == 2 else 0.02)
            answers.append((f"{number:03}", PEOPLE[person], "b" if is_wrong else "a"))
    disagreement = disagreeing(answers, {}, classes=["a", "b"])
    assert list(disagreement.shown) == ["cleo@x"]
    assert str(disagreement.shown["cleo@x"]).startswith("differs from another person in ")
    assert not disagreement.is_divided
    assert disagreeing(answers, {}, classes=["a", "b"], trusted=["cleo@x"]).shown == {}
    assert [comparison.labeler for comparison in compare_pairs(answers)] == list(PEOPLE[:3])


def test_two_people_alone_do_not_show_who_is_wrong():
    answers = [(str(n), name, name if n % 3 == 0 else "a") for n in range(90) for name in ("a", "b")]
    assert disagreeing(answers, {}, classes=["a", "b"]).shown == {}


def test_whoever_answered_harder_items_is_not_named():
    """Items that came in later are unreadable for everybody: compared are people on items of one kind."""
    random = np.random.default_rng(2)
    known, answers = {}, []
    for number in range(900):
        late = number >= 450
        label = random.choice(["a", "b"])
        shown = random.choice(["a", "b"]) if late else label
        features_d = np.array([shown == "a", shown == "b", 1.0]) + random.normal(0, 0.1, 3)
        known[f"{number:04}"] = Known(features_d, str(label), "late" if late else "early")
        labeler = "late@x" if late and random.random() < 0.9 else ("ann@x", "ben@x")[number % 2]
        answers.append((f"{number:04}", labeler, str(label)))
    assert disagreeing(answers, known, classes=["a", "b"]).shown == {}
    mixed = {item_id: dataclasses.replace(item, stratum="") for item_id, item in known.items()}
    assert list(disagreeing(answers, mixed, classes=["a", "b"]).shown) == ["late@x"]


def test_the_chance_is_exact():
    """Four of ten answers disagree, none of ten others': 210 of 4,845 ways to choose four of twenty."""
    comparison = LabelerComparison("ann@x", "", ((Count(4, 10), Count(0, 10)),), 0.1)
    assert comparison.p_value == pytest.approx(210 / 4845)
    two = LabelerComparison(
        "ann@x", "", ((Count(1, 1), Count(0, 1)), (Count(1, 1), Count(0, 3)), (Count(2, 2), Count())), 0.1
    )
    assert two.p_value == pytest.approx(1 / 2 * 1 / 4)
    assert two.own == Count(2, 2)
    assert two.others == Count(0, 4)


def test_of_each_labeler_as_many_items_are_looked_at(monkeypatch):
    monkeypatch.setattr("pipeline_tasks.validation.labeler_check.MAX_ITEMS", 60)
    answers = [(f"{n:04}", "busy@x", "a") for n in range(500)] + [(f"{n:04}", "ann@x", "a") for n in range(500, 525)]
    chosen = chosen_items(answers, [f"{n:04}" for n in range(600)])
    assert len(chosen) == 60
    assert {f"{n:04}" for n in range(500, 525)} <= chosen
    assert chosen == chosen_items(list(reversed(answers)), [f"{n:04}" for n in reversed(range(600))])


def test_the_newest_answer_of_each_person_counts(labeled):
    item_id = labeled.add_item(picture("left", np.random.default_rng(1)))
    labeled.answer(item_id, "ann@x", "left", annotation_id="1", revision="1")
    labeled.answer(item_id, "ann@x", "right", annotation_id="1", revision="2")
    labeled.answer(item_id, "ann@x", "top", annotation_id="2", revision="1")
    labeled.answer(item_id, "ben@x", "left", annotation_id="3", revision="1")
    labeled.answer(item_id, "ben@x", "left", annotation_id="3", revision="1~deleted", deleted=True)
    labeled.answer(item_id, "cleo@x", None, annotation_id="4", revision="1")
    assert newest_annotations.answers_of(labeled.datasets.database, "pets") == [(item_id, "ann@x", "right")]
