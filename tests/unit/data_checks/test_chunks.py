"""Rows in chunks are answered as the same rows at once, and kept as a few bytes each."""

import numpy as np
import pandas as pd
import pytest

from data_checks import runner
from data_checks.chunks import ChunkedRun, run_suite
from data_checks.rules import Rule, Suite

UNIQUE = Rule("UNIQUE", "ExpectColumnValuesToBeUnique", {"column": "item_id"}, expected="each once")
UNIQUE_NUMBER = Rule("UNIQUE_NUMBER", "ExpectColumnValuesToBeUnique", {"column": "number"}, "quarantine")
NOWHERE = Rule("NOWHERE", "ExpectColumnValuesToBeUnique", {"column": "nowhere"}, "warn")
ROW_COUNT = Rule("ROW_COUNT", "ExpectTableRowCountToBeBetween", {"min_value": 7})
KNOWN = Rule("KNOWN", "ExpectColumnValuesToBeInSet", {"column": "label", "value_set": ["x", "y"]}, "quarantine")
MEAN = Rule("MEAN", "ExpectColumnMeanToBeBetween", {"column": "number", "max_value": 3}, "warn")
FACT = Rule("FACT", "ExpectColumnValuesToBeBetween", {"column": "leaks", "max_value": 0}, table="facts")
SUITE = Suite(
    name="test",
    stage="labels",
    rules=(UNIQUE, UNIQUE_NUMBER, ROW_COUNT, KNOWN, MEAN, FACT),
    required=("item_id", "label"),
    min_classes=2,
)
EXTRA = {"facts": pd.DataFrame({"leaks": [0]})}
GOOD = {"item_id": list("abcdefg"), "label": list("xyxyxyx"), "number": [1, 2, 3, 4, 5, 6, 7]}


def cut(frame: pd.DataFrame, size: int) -> list[pd.DataFrame]:
    return [frame.iloc[start : start + size] for start in range(0, max(1, len(frame)), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"item_id": list("abcadea")},
        {"number": [1, None, 3, None, 5, 1, 7]},
        {"number": [1, 2, 2.0, 2, 5, 6, 7]},
        {"number": [None] * 7},
        {"label": list("xyxzzyx")},
        {"label": ["x"] * 7},
        {"label": [None] * 7},
        {"number": [[1], [1], [2], [3], [4], [5], [6]]},
    ],
    ids=["good", "twice", "nulls", "whole-and-fraction", "no-number", "unknown", "one-class", "no-label", "lists"],
)
def test_rows_in_chunks_get_the_answer_of_rows_at_once(change, size):
    frame = pd.DataFrame(GOOD | change)
    whole = run_suite(frame, SUITE, subject="s", extra=EXTRA)
    parts = run_suite(iter(cut(frame, size)), SUITE, subject="s", extra=EXTRA)
    assert parts.rules == whole.rules
    assert (parts.code, parts.severity, parts.quarantined) == (whole.code, whole.severity, whole.quarantined)
    assert parts.statistics["num_quarantined"] == whole.statistics["num_quarantined"]


@pytest.mark.parametrize("columns", [{"item_id": [], "label": []}, {"item_id": ["a"]}])
def test_guards_look_at_chunks_too(columns):
    frame = pd.DataFrame(columns)
    whole, parts = (run_suite(rows, SUITE, subject="s") for rows in (frame, [frame, frame]))
    assert parts.code == whole.code != "CHECK_ERROR"


def test_a_unique_column_that_is_not_there_stops():
    suite = Suite(name="test", stage="labels", rules=(NOWHERE,), required=("item_id",))
    result = run_suite(cut(pd.DataFrame(GOOD), 3), suite, subject="s")
    assert (result.code, result.failures[0].num_checked) == ("CHECK_ERROR", 0)


def test_great_expectations_sees_all_rows_whose_hashes_are_equal_and_decides(monkeypatch):
    monkeypatch.setattr("data_checks.chunks._hashes", lambda values: np.zeros(len(values), dtype=np.uint64))
    looked_at = []
    validate = runner._validate
    monkeypatch.setattr(
        runner, "_validate", lambda frame, rules: looked_at.append(len(frame)) or validate(frame, rules)
    )
    suite = Suite(name="test", stage="labels", rules=(UNIQUE,), required=("item_id",))
    result = run_suite(cut(pd.DataFrame(GOOD), 2), suite, subject="s")
    assert (result.success, looked_at, result.rules[0].num_checked) == (True, [7], 7)


def test_a_late_rule_puts_rows_of_earlier_chunks_aside():
    suite = Suite(name="test", stage="items", rules=(UNIQUE_NUMBER, KNOWN), required=("item_id",))
    run = ChunkedRun(suite, max_ids=1)
    frame = pd.DataFrame(GOOD | {"number": [1, 2, 3, 4, 5, 6, 1], "label": list("xyxyxzz")})
    answers = [run.add(part) for part in cut(frame, 3)]
    result, late = run.finish(subject="s")
    assert answers == [{}, {"f": ("KNOWN",)}, {"g": ("KNOWN",)}]
    assert late == {"a": ("UNIQUE_NUMBER",), "g": ("UNIQUE_NUMBER",)}
    assert [(rule.num_failed, rule.failing_ids, rule.observed) for rule in result.rules] == [
        (2, ("a",), "2 of 7: 1"),
        (2, ("f",), "2 of 7: z"),
    ]
    assert result.statistics["num_quarantined"] == 3
