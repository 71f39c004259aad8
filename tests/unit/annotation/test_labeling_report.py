"""The report of a project's labeling: figures from known answers, in words and as a page."""

import datetime as dt
import json

import pytest

from pipeline_tasks.annotation.labeling_report import (
    LabelingReport,
    Person,
    agreement_of,
    as_document,
    as_page,
    as_text,
    krippendorff_alpha,
    per_day,
    shared_answers,
)
from pipeline_tasks.annotation.reliability import MethodChoice
from pipeline_tasks.catalog.labeling_state import LabelingState
from pipeline_tasks.catalog.newest_annotations import Submit
from pipeline_tasks.core.proportions import NOT_A_NUMBER, wilson_interval

AT = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC)
# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section B: two people, ten items, two values: 0.095.
TWO = {"ann": "0100000000", "ben": "1110010010"}


def report_of(**changes):
    ann = Person("ann@x", 30, 1, AT, 4.2, wilson_interval(18, 20), wilson_interval(27, 30))
    ben = Person("<b>ben</b>@x", 3, 0, AT, None, NOT_A_NUMBER, NOT_A_NUMBER)
    values = {
        "project": "pets",
        "state": LabelingState(100, 40, 12, 2, 3),
        "waiting": {"label": 5, "exam": 7},
        "days": ((dt.date(2026, 11, 29), 0), (dt.date(2026, 11, 30), 33)),
        "median_seconds": 4.2,
        "alpha": 0.8123,
        "num_shared": 20,
        "choice": MethodChoice("majority", {}, 40),
        "people": (ann, ben),
        "note": "",
    }
    return LabelingReport(**(values | changes))


def test_alpha_is_that_of_the_worked_example():
    answers = [(f"i{number}", name, said) for name, values in TWO.items() for number, said in enumerate(values)]
    assert krippendorff_alpha(answers) == pytest.approx(0.095, abs=0.0005)


def test_alpha_has_no_value_where_everybody_says_the_same():
    assert krippendorff_alpha([("a", "ann", "cat"), ("a", "ben", "cat")]) is None
    assert krippendorff_alpha([]) is None


def test_shared_answers_are_those_to_items_of_several_people():
    answers = [("a", "ann", "cat"), ("a", "ben", "dog"), ("b", "ann", "cat")]
    assert shared_answers(answers) == answers[:2]


def test_agreement_is_by_pairs():
    answers = [("a", "ann", "cat"), ("a", "ben", "cat"), ("a", "cleo", "dog"), ("b", "ann", "fox"), ("b", "ben", "fox")]
    shares = agreement_of(answers)
    assert {name: share.estimate for name, share in shares.items()} == pytest.approx(
        {"ann": 2 / 3, "ben": 2 / 3, "cleo": 0}
    )


def test_a_day_without_answers_counts_nothing_and_skips_are_no_answers():
    submits = [
        Submit("ann", AT, False, 3.0),
        Submit("ann", AT, True, 3.0),
        Submit("ben", AT - dt.timedelta(2), False, 1),
    ]
    days = dict(per_day(submits, until=AT.date()))
    assert [days[dt.date(2026, 11, day)] for day in (28, 29, 30)] == [1, 0, 1]
    assert len(days) == 14


def test_the_report_in_words():
    assert as_text(report_of(note="Who is missing.")).splitlines() == [
        (
            "pets: 40 of 100 items have a label. Waiting: 7 (queue exam), 5 (queue label); 3 ties are asked of a "
            "further person, 2 stay out."
        ),
        "Answers a day: 11-30 33",
        "A task takes 4 s (median).",
        (
            "Krippendorff's alpha is 0.81, on 20 items of several people (1: full agreement, 0: chance). Who is right "
            "is estimated by majority: too few shared answers to prefer another method, or none foretells them better."
        ),
        "  ann@x: 30 answers, 1 skipped, last 2026-11-30, 4 s a task; as others 90 % (70 to 97), right 90 % (74 to 97)",
        "  <b>ben</b>@x: 3 answers, 0 skipped, last 2026-11-30, - a task; as others -, right -",
        "Who is missing.",
    ]


def test_a_project_without_answers_says_so():
    text = as_text(report_of(days=(), people=(), num_shared=0, alpha=None, median_seconds=None, waiting={}))
    assert "Waiting: none" in text
    assert "No answer in the last 14 days." in text
    assert "No item was answered by several people" in text


def test_the_page_escapes_names_and_has_a_bar_for_a_day_with_answers():
    page = as_page(report_of())
    assert "&lt;b&gt;ben&lt;/b&gt;@x" in page
    assert page.count("<rect ") == 2
    assert "Nobody has answered" in as_page(report_of(people=(), days=()))
    assert "ann@x" not in as_page(report_of(people=None))


def test_the_document_is_json_without_nan():
    document = json.loads(json.dumps(as_document(report_of()), allow_nan=False))
    assert document["people"][1]["reliability"] == {"estimate": None, "low": None, "high": None}
    assert document["days"][1] == ["2026-11-30", 33]
