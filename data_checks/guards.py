"""Looks before the suite runs: an empty or one-sided batch passes most expectations, so it must not get that far."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from data_checks.result import RuleResult
from data_checks.rules import Suite

if TYPE_CHECKING:
    import pandas as pd

EMPTY_BATCH, SINGLE_CLASS, ALL_NULL, MISSING_COLUMN = "EMPTY_BATCH", "SINGLE_CLASS", "ALL_NULL", "MISSING_COLUMN"
SUITE_EMPTY = "SUITE_EMPTY"


def stopped_before(
    suite: Suite, *, num_rows: int, missing: RuleResult | None, nulls: Sequence[str], labels: Collection[str]
) -> RuleResult | None:
    """Return the first reason not to run the suite, or None; `nulls` are the required columns without a value.

    Source: measured with Great Expectations 1.24: on 0 rows set, not-null, unique and between all pass, and an
    all-null column passes between.
    """
    if not suite.rules:
        return _stop(SUITE_EMPTY, "the suite must have rules", "none")
    return missing or _empty(num_rows) or _all_null(num_rows, nulls) or _too_few_classes(num_rows, labels, suite)


def missing_columns(frame: pd.DataFrame, suite: Suite) -> RuleResult | None:
    """Return the reason that a required column is missing, or None."""
    missing = sorted(set(suite.required) - set(frame.columns))
    if not missing:
        return None
    return _stop(
        MISSING_COLUMN, f"the rows must have the columns {', '.join(suite.required)}", f"no {', '.join(missing)}"
    )


def _empty(num_rows: int) -> RuleResult | None:
    return None if num_rows else _stop(EMPTY_BATCH, "there must be at least one row", "0 rows")


def _all_null(num_rows: int, nulls: Sequence[str]) -> RuleResult | None:
    if not nulls:
        return None
    return _stop(ALL_NULL, "each required column must hold values", f"only nulls in {', '.join(nulls)}", num_rows)


def _too_few_classes(num_rows: int, labels: Collection[str], suite: Suite) -> RuleResult | None:
    if len(labels) >= suite.min_classes:
        return None
    expected = f"there must be at least {suite.min_classes} different labels"
    return _stop(SINGLE_CLASS, expected, ", ".join(sorted(labels)), num_rows)


def _stop(name: str, expected: str, observed: str, num_rows: int = 0) -> RuleResult:
    return RuleResult(
        name=name,
        policy="stop",
        success=False,
        expected=expected,
        observed=observed,
        num_checked=num_rows,
        num_failed=num_rows,
    )
