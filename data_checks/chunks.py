"""A suite on rows that come chunk by chunk: memory for one chunk, and the same answer as on all rows at once.

A rule that looks at one row after the other is run on each chunk, and its counts are added up. What a rule needs of all
rows at once (no two alike, a mean) is kept: the columns that it names, and nothing else.
"""

from __future__ import annotations

import dataclasses
import heapq
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from data_checks import guards
from data_checks.result import CheckResult, RuleResult, quarantined_rows
from data_checks.rules import ROWS, Rule, Suite
from data_checks.runner import (
    MAX_EXAMPLES,
    answers_of,
    judge,
    stopped_before,
    too_many_bad,
    unanswered,
)

if TYPE_CHECKING:
    import pandas as pd

MAX_IDS = 100
Quarantined = dict[str, tuple[str, ...]]
# Expectations whose answer on a row depends on that row alone; with `mostly` they count all rows.
ROW_EXPECTATIONS = frozenset(
    f"ExpectColumn{name}"
    for name in (
        "ValuesToBeInSet",
        "ValuesToNotBeInSet",
        "ValuesToBeBetween",
        "ValuesToBeNull",
        "ValuesToNotBeNull",
        "ValuesToMatchRegex",
        "ValuesToNotMatchRegex",
        "ValuesToMatchRegexList",
        "ValuesToNotMatchRegexList",
        "ValueLengthsToEqual",
        "ValueLengthsToBeBetween",
        "PairValuesToBeEqual",
        "PairValuesAToBeGreaterThanB",
        "PairValuesToBeInSet",
    )
) | {"ExpectSelectColumnValuesToBeUniqueWithinRecord"}
# Expectations about which columns there are: every chunk has the same.
TABLE_EXPECTATIONS = frozenset(
    (
        "ExpectTableColumnsToMatchSet",
        "ExpectTableColumnsToMatchOrderedList",
        "ExpectTableColumnCountToEqual",
        "ExpectTableColumnCountToBeBetween",
        "ExpectColumnToExist",
    )
)


@dataclasses.dataclass(slots=True)
class _Tally:
    """The results of the chunks so far for one rule."""

    num_checked: int = 0
    num_failed: int = 0
    failing_ids: list[str] = dataclasses.field(default_factory=list)
    examples: dict[str, None] = dataclasses.field(default_factory=dict)
    failed: RuleResult | None = None
    first: RuleResult | None = None

    def add(self, one: RuleResult) -> None:
        self.first = self.first or one
        self.num_checked += one.num_checked
        if one.success:
            return
        if self.failed is None or (one.error is not None and self.failed.error is None):
            self.failed = one
        self.num_failed += one.num_failed
        self.failing_ids = heapq.nsmallest(MAX_IDS, {*self.failing_ids, *one.failing_ids})
        for example in one.examples:
            if len(self.examples) < MAX_EXAMPLES:
                self.examples[example] = None

    def result(self) -> RuleResult | None:
        found = self.failed or self.first
        if found is None or found.error is not None:
            return found
        observed = f"{self.num_failed} of {self.num_checked}: {', '.join(self.examples)}" if self.num_failed else None
        return dataclasses.replace(
            found,
            observed=observed or found.observed,
            num_checked=self.num_checked,
            num_failed=self.num_failed,
            failing_ids=tuple(self.failing_ids),
        )


class ChunkedRun:
    """One run of a suite of row rules; `add` each chunk, then `finish`."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._id_column = suite.id_columns[ROWS] or ""
        self._tallies = {rule.name: _Tally() for rule in suite.rules}
        kinds = {rule.name: _kind(rule) for rule in suite.rules}
        self._row_rules = [rule for rule in suite.rules if kinds[rule.name] == "row"]
        self._table_rules = [rule for rule in suite.rules if kinds[rule.name] == "table"]
        self._whole_rules = [rule for rule in suite.rules if kinds[rule.name] == "whole"]
        self._quarantines_late = any(rule.policy == "quarantine" for rule in self._whole_rules)
        self._seen: set[str] = set()
        self._kept: list[pd.DataFrame] = []
        self._nulls = set(suite.required)  # the required columns without a value so far
        self._missing: RuleResult | None = None
        self._started = time.perf_counter()
        self.num_rows = 0
        self.num_quarantined = 0

    def add(self, frame: pd.DataFrame) -> Quarantined:
        """Check a chunk and return its rows that fail a rule which quarantines: row id -> the rules' names."""
        if self._missing is None and not self.num_rows:
            self._missing = guards.missing_columns(frame, self._suite)
        self.num_rows += len(frame)
        if self._missing is not None:
            return {}
        self._nulls -= {column for column in self._nulls if bool(frame[column].notna().any())}
        is_first = self.num_rows == len(frame)
        found = self._run(frame, [*self._row_rules, *(self._table_rules if is_first else ())])
        if self._whole_rules:
            self._kept.append(frame[_columns(self._whole_rules, frame, id_column=self._id_column)])
        return self._quarantined(found)

    def finish(
        self, *, subject: str, context: Mapping[str, Any] | None = None, statistics: Mapping[str, Any] | None = None
    ) -> tuple[CheckResult, Quarantined]:
        """Return the suite's answer, and the rows that a rule on all of them put aside beside those of the chunks."""
        late: Quarantined = {}
        stopped = stopped_before(self._suite, num_rows=self.num_rows, missing=self._missing, nulls=sorted(self._nulls))
        if stopped is None and self._kept:
            import pandas as pd

            late = self._quarantined(self._run(pd.concat(self._kept, ignore_index=True), self._whole_rules))
        rules = [stopped] if stopped else self._results()
        if not stopped:
            rules.extend(too_many_bad(self.num_quarantined, self._suite, self.num_rows))
        facts = {
            **(statistics or {}),
            "num_rows": self.num_rows,
            "num_rules": len(self._suite.rules),
            "seconds": round(time.perf_counter() - self._started, 3),
        }
        result = judge(
            self._suite,
            rules,
            subject=subject,
            suite_id=self._suite.suite_id(context),
            statistics=facts,
            num_quarantined=self.num_quarantined,
        )
        return result, late

    def _run(self, frame: pd.DataFrame, rules: list[Rule]) -> list[RuleResult]:
        answers = answers_of(frame, rules, self._id_column)
        found = [answers.get(rule.name) or unanswered(rule) for rule in rules]
        for one in found:
            self._tallies[one.name].add(one)
        return found

    def _quarantined(self, found: Iterable[RuleResult]) -> Quarantined:
        result = quarantined_rows(found)
        self.num_quarantined += len(result.keys() - self._seen)
        if self._quarantines_late:
            self._seen |= result.keys()
        return result

    def _results(self) -> list[RuleResult]:
        return [self._tallies[rule.name].result() or unanswered(rule) for rule in self._suite.rules]


def _kind(rule: Rule) -> str:
    name = rule.expectation if isinstance(rule.expectation, str) else type(rule.expectation).__name__
    if name in TABLE_EXPECTATIONS:
        return "table"
    return "row" if name in ROW_EXPECTATIONS and _argument(rule, "mostly") in (None, 1) else "whole"


def _argument(rule: Rule, name: str) -> Any:
    return rule.arguments.get(name) if isinstance(rule.expectation, str) else getattr(rule.expectation, name, None)


def _columns(rules: Iterable[Rule], frame: pd.DataFrame, *, id_column: str) -> list[str]:
    """Return the columns that the rules name; all of them for a rule that names none."""
    wanted = {id_column}
    for rule in rules:
        named = [_argument(rule, name) for name in ("column", "column_A", "column_B")]
        named += _argument(rule, "column_list") or []
        names = {name for name in named if isinstance(name, str)}
        conditional = _argument(rule, "row_condition") is not None
        wanted |= names if names and not conditional else set(frame.columns)
    return [name for name in frame.columns if name in wanted]
