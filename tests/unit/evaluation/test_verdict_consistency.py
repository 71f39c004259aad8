"""A row and its document: nothing to say where they agree, each fact named where they do not."""

import datetime as dt

import pytest

from pipeline_tasks.catalog.verdicts import VerdictRecord
from pipeline_tasks.contracts import VerdictRef, canonical_json
from pipeline_tasks.evaluation.verdict_consistency import contradictions, judged_weights
from tests.documents import verdict_document

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def record(*, exam_ids=("exam2", "exam1"), **changes) -> VerdictRecord:
    facts = {"project": "fashion", "verdict_id": "v1", "answer": "promote", "champion_version": "old"}
    facts |= {"contender_version": "new", "reasons": (), "object_key": "verdicts/fashion/v1"}
    return VerdictRecord(VerdictRef(**(facts | changes)), exam_ids, "policy", "digest", "run", NOW)


def test_a_row_that_says_what_its_document_says_is_sound():
    assert list(contradictions(record(), verdict_document())) == []
    first = record(champion_version=None, object_key="verdicts/fashion/v1/")
    assert list(contradictions(first, verdict_document(champion=None))) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"project": "shoes"}, "project: the catalog says 'shoes', the document 'fashion'"),
        ({"answer": "keep"}, "answer: the catalog says 'keep', the document 'promote'"),
        ({"contender_version": "evil"}, "contender: the catalog says 'evil', the document 'new'"),
        ({"champion_version": None}, "champion: the catalog says None, the document 'old'"),
        (
            {"exam_ids": ("exam1", "exam2")},
            "exams: the catalog says ['exam1', 'exam2'], the document ['exam2', 'exam1']",
        ),
        (
            {"object_key": "verdicts/fashion/v2"},
            "object_key: the catalog says 'verdicts/fashion/v2', the document 'verdicts/fashion/v1'",
        ),
        (
            {"verdict_id": "v2"},
            "object_key: the catalog says 'verdicts/fashion/v1', the document 'verdicts/fashion/v2'",
        ),
    ],
)
def test_each_fact_that_differs_is_named(changes, message):
    assert list(contradictions(record(**changes), verdict_document())) == [message]


@pytest.mark.parametrize("document", [{}, [], {"question": None}, {"question": {"champion": None}}])
def test_what_is_no_verdict_is_named(document):
    (message,) = contradictions(record(), document)
    assert message.startswith("verdict.json must hold a question and a decision (got ")


def test_the_judged_weights_are_those_of_the_contender():
    assert judged_weights(canonical_json(verdict_document(weights="d" * 64))) == "d" * 64


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"question": {"contender": null}}'])
def test_a_document_that_names_no_weights_gives_none(data):
    assert judged_weights(data) is None
