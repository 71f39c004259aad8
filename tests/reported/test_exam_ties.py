"""Exam and live quality mean the same: ties, imported labels, audits.

Two people who differed dropped the item: the exam came out 2.6 to 4.2 points too high, and live audits, which one
person answered, 4 points below it with nothing changed. A label of the source decided exam items unseen.
"""

from __future__ import annotations

import json

import pytest

from pipeline_tasks.annotation.people import labels_text, tie_line
from pipeline_tasks.catalog.exam_window import ExamLabels
from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.evaluation.open_items import Bounds, label_evidence, note_labels
from pipeline_tasks.monitoring import quality
from pipeline_tasks.monitoring.page import render_window
from pipeline_tasks.orchestration.project_notes import imported_line
from pipeline_tasks.project.schema import Labels, Monitor
from pipeline_tasks.validation.task import open_exam
from tests.fakes_labeling import FakeLabelStudio
from tests.labeling_case import CLASSES, NAME, NOW, Case, make_project
from tests.unit.evaluation import support as s
from tests.unit.evaluation.conftest import run, verdicts, world  # noqa: F401
from tests.unit.monitoring.test_quality import audited
from tests.unit.validation.conftest import scene  # noqa: F401

OPEN = ExamLabels(num_asked=20, num_disputed=5, num_decided=5, num_imported=60)


# The verdict


def test_row9_a_verdict_tells_what_is_open_its_bounds_and_labels_that_nobody_saw(run, object_store):  # noqa: F811
    ref = run(find_labels=lambda refs: OPEN if [exam.epoch for exam in refs] == [2, 1] else None)
    document = json.loads(object_store.get(f"{ref.object_key}/verdict.json"))
    labels = document["evidence"]["labels"]
    assert (labels["num_open"], labels["share"], labels["imported_share"]) == (30, round(30 / 270, 9), 0.25)
    assert labels["contender"] == {"low": round(230 / 270, 9), "high": round(260 / 270, 9)}
    assert labels["champion"] == {"low": round(206 / 270, 9), "high": round(236 / 270, 9)}
    assert labels["difference"] == {"low": round(-6 / 270, 9), "high": round(54 / 270, 9)}
    notes = {reason["code"]: reason["text"] for reason in document["decision"]["reasons"] if reason["stand"] == "note"}
    assert notes["ITEMS_OPEN"].startswith("30 more items belong to this exam and are open, 11.1 % of all: people")
    assert "20 asked of a further person, 5 disputed to the end, 5 decided since" in notes["ITEMS_OPEN"]
    assert "accuracy 85.2 % to 96.3 %, of the difference -2.2 points to 20.0 points" in notes["ITEMS_OPEN"]
    assert notes["LABELS_IMPORTED"].startswith("60 of 240 exam labels (25.0 %) came with the source and nobody looked")
    page = object_store.get(f"{ref.object_key}/report.html").decode().replace("\N{NO-BREAK SPACE}", " ")
    assert "Open items, on which people differed: 30 (11.1 % of all)" in page
    assert "Labels that nobody looked at: 25.0 %." in page


def test_row9_such_a_verdict_replays_byte_for_byte_and_decides_as_without(run, object_store):  # noqa: F811
    ref = run(find_labels=lambda _refs: OPEN)
    stored = object_store.get(f"{ref.object_key}/verdict.json")
    evidence = object_store.get(f"{ref.object_key}/evidence.parquet")
    assert vd.document_bytes(vd.replay(json.loads(stored), evidence)) == stored
    document = json.loads(stored)
    assert document["question"]["labels"] == {
        "num_asked": 20, "num_disputed": 5, "num_decided": 5, "num_imported": 60,
    }  # fmt: skip
    del document["question"]["labels"]
    before = vd.replay(document, evidence)  # as a release wrote it that did not tell
    assert "labels" not in before["evidence"]
    assert (before["decision"]["answer"], before["decision"]["code"]) == (ref.answer, ref.code)
    codes = {reason["code"] for reason in before["decision"]["reasons"]}
    assert {reason["code"] for reason in json.loads(stored)["decision"]["reasons"]} == codes | {
        "ITEMS_OPEN",
        "LABELS_IMPORTED",
    }


def test_row9_an_exam_without_open_items_says_so_and_notes_nothing(run, object_store):  # noqa: F811
    ref = run()
    labels = json.loads(object_store.get(f"{ref.object_key}/verdict.json"))["evidence"]["labels"]
    assert (labels["num_open"], labels["share"], labels["imported_share"]) == (0, 0.0, 0.0)
    assert labels["contender"]["low"] == labels["contender"]["high"]
    assert note_labels(ExamLabels(), s.exam()) == []
    assert note_labels(None, s.exam()) == []


def test_row9_a_first_model_has_no_difference():
    evidence = label_evidence(ExamLabels(num_asked=100), s.first_evidence().current)
    assert (evidence.champion, evidence.difference) == (None, None)
    assert evidence.contender.high - evidence.contender.low == pytest.approx(100 / 1100)


def test_row9_the_end_of_a_run_tells_it():
    from pipeline_tasks.orchestration.local_pipeline import _open_items

    labels = {"num_open": 3, "share": 0.03, "contender": {"low": 0.8, "high": 0.83}, "champion": None}
    assert _open_items(labels) == ["  open items: 3 (3.0 %); all wrong or right: contender 80.0 to 83.0 % accuracy"]
    assert _open_items(labels | {"num_open": 0, "share": 0.0}) == ["  open items: 0 (0.0 %)"]
    assert _open_items(None) == []


# Live quality


def open_audit(number, *, asked=True, item=None):
    from pipeline_tasks.catalog.monitoring import OpenAudit

    at = audited(*[1] * (number + 1))[number].predicted_at
    return OpenAudit(f"o{number}", "m1", item or f"open{number}", at, asked)


def measure(audits, still_open):
    policy = Monitor(min_audited=10, window_audits=20)
    return quality.measure("m1", audits, exam=None, policy=policy, audits_a_year=1.0, still_open=still_open)


def test_row9_live_quality_tells_its_open_share_and_bounds():
    measured = measure(
        audited(*[1] * 18, 0, 0), [open_audit(3), open_audit(4, asked=False), open_audit(5, item="open4")]
    )
    assert (measured.num_open, measured.num_asked, measured.open_share) == (2, 2, pytest.approx(2 / 22))
    assert (measured.if_wrong, measured.if_right) == (round(18 / 22, 9), round(20 / 22, 9))
    assert "on 20 audited, 2 more open (9.1 %; 0.818 to 0.909 with all of them wrong or right)" in measured.text
    json.dumps(measured.as_json(), allow_nan=False)


def test_row9_an_open_audit_of_before_the_window_does_not_count():
    measured = measure(audited(*[1] * 30), [open_audit(2)])
    assert (measured.num_open, measured.if_wrong, measured.if_right) == (0, 1.0, 1.0)
    assert "open" not in measured.text


def test_row9_without_audits_there_are_no_bounds():
    measured = measure([], [open_audit(2)])
    assert (measured.num_open, measured.if_wrong, measured.if_right) == (0, None, None)


def test_row9_the_monitors_page_tells_it():
    versions = {"m1": measure(audited(*[1] * 20), [open_audit(3)]).as_json()}
    drift = {"confidence_psi": None, "expected": None, "reference": "exam", "num_rows": 0, "num_needed": 200}
    statistics = {"state": "NO_REFERENCE", "champion": "m1", "versions": versions, "drift": drift}
    page = render_window("pets", "w", statistics, alarms=[], at=NOW).replace("\N{NO-BREAK SPACE}", " ")
    assert "Open audits, on which people differ: 1 (4.8 % of all), 1 of them asked of a further person." in page
    assert "With all of them wrong or right: 95.2 % to 100.0 %." in page


# Audits and exam: the same number of people


def test_row9_an_audit_of_a_training_item_is_answered_by_as_many_people_as_the_exam(database):
    from tests.labeling_case import make_item

    case = Case(database, FakeLabelStudio())
    item = make_item(1, origin="production")
    case.store.put(item.location.object_key, b"image 1")
    (item_id,) = case.add(item)
    case.labels.request([item], reason="audit", now=NOW)
    case.annotate()
    for number, person in enumerate(("a@x", "b@x")):
        assert case.labeling.shown_to(case.ls_project("exam"), person) == [item_id]
        case.labeling.answer(case.ls_project("exam"), item_id, "cat", by=person)
        case.collect()
        assert (case.label_of(item_id) is not None) is (number == 1)
    assert case.label_of(item_id) == (1, "decided", "cat")
    assert case.tasks_per_item("label") == {}


# Imported labels


def imported(scene, count, *, start=0, method="imported"):  # noqa: F811
    from tests.unit.validation.builders import png

    ids = [scene.add_item(png(start + index), split="exam") for index in range(count)]
    for index, item_id in enumerate(ids):
        scene.decide(item_id, ("cat", "dog")[index % 2], method=method)
    return ids


def test_imported_labels_open_no_epoch_unless_the_project_says_so(scene):  # noqa: F811
    from pipeline_tasks.errors import GateClosed

    imported(scene, 12)
    with pytest.raises(GateClosed, match="got 0 labeled exam items of 10"):
        open_exam(scene.project, **scene.freezing)
    by_people = imported(scene, 10, start=100, method="consensus")
    (exam,) = open_exam(scene.project, **scene.freezing)
    assert exam.num_items == len(by_people)
    labels = scene.project.config.labels.model_copy(update={"imported_in_exam": True})
    config = scene.project.config.model_copy(update={"labels": labels})
    newest, _ = open_exam(scene.project.model_copy(update={"config": config}), **scene.freezing)
    assert (newest.epoch, newest.num_items) == (2, 12)


@pytest.mark.parametrize(
    ("settings", "counts", "expected"),
    [
        ({}, (0, 0), ""),
        ({}, (0, 30), "pets: the labels that came with 30 exam items do not decide them, people are asked"),
        ({}, (20, 0), "pets: 20 items of epochs that were opened keep such labels."),
        ({"imported_in_exam": True}, (20, 30), "pets: nobody looked at 50 of 100 exam labels (50.0 %)"),
        ({"imported_in_exam": True}, (0, 0), ""),
    ],
)
def test_validate_and_status_say_what_becomes_of_imported_exam_labels(settings, counts, expected):
    frozen, waiting = counts
    figures = {(True, True): frozen, (False, True): waiting, (True, False): 25, (False, False): 25}
    line = imported_line(make_project(**settings), figures)
    assert line.startswith(expected)
    assert bool(line) == bool(expected)


# People


@pytest.mark.parametrize(
    ("asked", "known", "only_missing", "expected"),
    [
        ({"label": 0, "exam": 0}, 2, False, ""),
        ({"label": 0, "exam": 3}, 3, False, "are asked of a further person: 3 (queue exam)."),
        ({"label": 0, "exam": 3}, 3, True, ""),
        ({"label": 2, "exam": 3}, 2, True, "3 (queue exam) and 2 (queue label). A tie needs 3 people, and 2 have ever"),
    ],
)
def test_a_tie_with_two_labelers_needs_a_third(asked, known, only_missing, expected):
    wanted = Labels(classes=CLASSES)
    line = tie_line(NAME, wanted, asked=asked, num_labelers=known, only_missing=only_missing)
    assert expected in line
    assert bool(line) == bool(expected)


def test_validate_says_how_many_people_an_exam_needs():
    assert labels_text(Labels(classes=CLASSES)) == (
        "Exam items and audits are answered by 2 people each, and a tie by one more: 3 people are needed."
    )
    assert labels_text(Labels(classes=CLASSES, exam_annotators=1, imported_in_exam=True)) == (
        "Exam items and audits are answered by 1 person each; nobody looks at exam items whose label came with the "
        "source (labels.imported_in_exam)."
    )


def test_collect_says_that_a_tie_needs_a_third(database):
    case = Case(database, FakeLabelStudio())
    (item_id,) = case.add_numbers([1], split="exam")
    case.annotate()
    for person, label in (("ann@x", "cat"), ("ben@x", "dog")):
        case.labeling.answer(case.ls_project("exam"), item_id, label, by=person)
    assert case.collect().note.startswith("Items of pets on which people differ are asked of a further person: 1")
    case.labeling.answer(case.ls_project("exam"), item_id, "dog", by="cleo@x")
    assert case.collect().note == ""


def test_bounds_of_nothing_are_no_numbers():
    from pipeline_tasks.evaluation.open_items import share_bounds

    assert share_bounds(0.5, num_items=10, num_open=0) == Bounds(0.5, 0.5)
    assert str(share_bounds(0.5, num_items=0, num_open=0).low) == "nan"
