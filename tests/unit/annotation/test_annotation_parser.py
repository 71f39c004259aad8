import dataclasses
import datetime as dt

import pytest

from pipeline_tasks.annotation.annotation_parser import annotation_row, read_answer, revision_of, tombstone
from pipeline_tasks.annotation.task_rendering import answer
from pipeline_tasks.core.ports import LabelingAnnotation
from pipeline_tasks.project.labeling_config import parse_labeling
from tests.labeling_case import CLASSES, XML

CONFIG = parse_labeling(XML, modality="image", classes=CLASSES, file="labeling.xml")
NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
NEVER = {}.__contains__


def annotation(result, **changes):
    fields = {
        "annotation_id": "7", "task_id": 3, "item_id": "i", "annotator": "a@x", "result": tuple(result),
        "cancelled": False, "lead_time_seconds": 1.0, "created_at": NOW, "updated_at": NOW,
    }  # fmt: skip
    return LabelingAnnotation(**(fields | changes))


def region(**changes):
    return {**answer(CONFIG, "dog")[0], **changes}


def test_a_class_is_read():
    assert read_answer(annotation([region()]), CONFIG).label == "dog"


@pytest.mark.parametrize("result", [[], [region()]])
def test_skips_are_neither_labels_nor_refused(result):
    reading = read_answer(annotation(result, cancelled=True), CONFIG)
    assert (reading.label, reading.code) == (None, None)


@pytest.mark.parametrize("label", ["Dog", "dog ", " dog", "wolf", "", None, 3])
def test_an_unknown_class_is_refused_and_never_repaired(label):
    reading = read_answer(annotation([region(value={"choices": [label]})]), CONFIG)
    assert (reading.label, reading.code) == (None, "UNKNOWN_CLASS")
    assert "must be one of cat, dog, owl" in reading.reason


@pytest.mark.parametrize(
    "result",
    [
        [region(to_name="other")],
        [region(type="rectanglelabels")],
        [region(value={"choices": ["dog", "cat"]})],
        [region(value={"choices": "dog"})],
        [region(value="dog")],
        [region(), region()],
    ],
)
def test_an_answer_to_another_question_is_refused(result):
    reading = read_answer(annotation(result), CONFIG)
    assert (reading.label, reading.code) == (None, "SCHEMA_MISMATCH")
    assert "task 3" in reading.reason


def test_revisions_follow_the_time_of_change():
    labeled = annotation([region()])
    first = annotation_row(
        labeled, revision=revision_of(labeled, None, is_recorded=NEVER), queue="label", label="dog", result=[region()]
    )
    assert first.revision == "2026-01-01T12:00:00.000000Z"
    assert revision_of(labeled, first, is_recorded=NEVER) is None
    edited = dataclasses.replace(labeled, updated_at=NOW + dt.timedelta(microseconds=1))
    assert revision_of(edited, first, is_recorded=NEVER) == "2026-01-01T12:00:00.000001Z"


def test_a_deleted_annotation_that_is_there_again_gets_a_revision_of_its_own():
    labeled = annotation([region()])
    buried = tombstone(
        annotation_row(
            labeled,
            revision=revision_of(labeled, None, is_recorded=NEVER),
            queue="label",
            label="dog",
            result=[region()],
        )
    )
    assert (buried.revision, buried.deleted) == ("2026-01-01T12:00:00.000000Z~deleted", True)
    restored = revision_of(labeled, buried, is_recorded=NEVER)
    assert restored == "2026-01-01T12:00:00.000000Z~deleted~restored"
    assert restored > buried.revision


def test_a_change_by_a_clock_that_went_back_is_a_revision_after_the_known_one():
    def at(minute, second=0):
        return annotation([region()], updated_at=NOW.replace(minute=minute, second=second))

    def known(name):
        return annotation_row(at(0), revision=name, queue="label", label="dog", result=[])

    names = ["2026-01-01T12:30:00.000000Z"]
    for given in (at(10), at(20), at(5)):
        names.append(revision_of(given, known(names[-1]), is_recorded=NEVER))
        assert revision_of(given, known(names[-1]), is_recorded=NEVER) is None
    assert names == sorted(names)
    assert names[1] == "2026-01-01T12:30:00.000000Z~2026-01-01T12:10:00.000000Z"
    assert revision_of(at(40), known(names[-1]), is_recorded=NEVER) == "2026-01-01T12:40:00.000000Z"


def test_an_earlier_state_of_an_annotation_is_no_revision():
    """Label Studio was set back to a backup: what people answered since stays."""
    earlier = "2026-01-01T12:00:00.000000Z"
    newest = annotation_row(
        annotation([]), revision="2026-01-01T13:00:00.000000Z", queue="label", label="dog", result=[]
    )
    assert revision_of(annotation([]), newest, is_recorded={earlier}.__contains__) is None
    assert revision_of(annotation([]), tombstone(newest), is_recorded={earlier}.__contains__).endswith("~restored")
