"""A suite on rows that come chunk by chunk: memory for one chunk, and the same answer as on all rows at once.

A rule that looks at one row after the other is run on each chunk, and its counts are added up. For the rule that no two
values are alike eight bytes a row are sorted, and Great Expectations looks at the rows whose hashes are equal. What
another rule needs of all rows at once (a mean, say) is kept: the columns that it names, and nothing else.
"""

from __future__ import annotations

import dataclasses
import heapq
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data_checks import guards
from data_checks.result import CheckResult, RuleResult, quarantined_rows
from data_checks.rules import ROWS, Rule, Suite
from data_checks.runner import (
    MAX_EXAMPLES,
    answers_of,
    judge,
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
COLUMN_EXPECTATIONS = frozenset(
    (
        "ExpectTableColumnsToMatchSet",
        "ExpectTableColumnsToMatchOrderedList",
        "ExpectTableColumnCountToEqual",
        "ExpectTableColumnCountToBeBetween",
        "ExpectColumnToExist",
    )
)
COUNT_EXPECTATIONS = frozenset(("ExpectTableRowCountToBeBetween", "ExpectTableRowCountToEqual"))
UNIQUE_EXPECTATION = "ExpectColumnValuesToBeUnique"


@dataclasses.dataclass(slots=True)
class _Tally:
    """The results of the chunks so far for one rule; of the failing ids the first `max_ids`, None: all."""

    max_ids: int | None
    num_results: int = 0
    num_checked: int = 0
    num_failed: int = 0
    failing_ids: set[str] = dataclasses.field(default_factory=set)
    examples: dict[str, None] = dataclasses.field(default_factory=dict)
    failed: RuleResult | None = None
    first: RuleResult | None = None

    def add(self, result: RuleResult) -> None:
        self.first = self.first or result
        self.num_results += 1
        self.num_checked += result.num_checked
        if result.success:
            return
        if self.failed is None or (result.error is not None and self.failed.error is None):
            self.failed = result
        self.num_failed += result.num_failed
        self.failing_ids.update(result.failing_ids)
        if self.max_ids is not None and len(self.failing_ids) > self.max_ids:
            self.failing_ids = set(heapq.nsmallest(self.max_ids, self.failing_ids))
        for example in result.examples:
            if len(self.examples) < MAX_EXAMPLES:
                self.examples[example] = None

    def result(self) -> RuleResult | None:
        result = self.failed or self.first
        if result is None or result.error is not None:
            return result
        ids = tuple(sorted(self.failing_ids))
        if self.num_results == 1:
            return dataclasses.replace(result, failing_ids=ids)
        result = dataclasses.replace(result, failing_ids=ids, examples=tuple(self.examples))
        return _observed(dataclasses.replace(result, num_checked=self.num_checked, num_failed=self.num_failed))


class _Values:
    """The values of a column so far: the chunks' rows with one, and eight bytes for each."""

    def __init__(self) -> None:
        self._frames: list[pd.DataFrame] = []
        self._hashes: list[npt.NDArray[np.uint64]] = []

    def add(self, frame: pd.DataFrame, column: str) -> None:
        given = frame[column].notna()
        rows = frame if given.all() else frame[given]
        self._frames.append(rows)
        self._hashes.append(_hashes(rows[column]))

    def alike(self) -> pd.DataFrame | None:
        """Return the rows whose value may stand in another one too: all that do are among them; None: there is none."""
        ordered_n = np.sort(np.concatenate(self._hashes))
        repeated = np.unique(ordered_n[1:][ordered_n[1:] == ordered_n[:-1]])
        if not len(repeated):
            return None
        import pandas as pd

        pairs = zip(self._frames, self._hashes, strict=True)
        return pd.concat([rows[np.isin(hash_n, repeated)] for rows, hash_n in pairs], ignore_index=True)


def run_suite(
    rows: pd.DataFrame | Iterable[pd.DataFrame],
    suite: Suite,
    *,
    subject: str,
    extra: Mapping[str, pd.DataFrame] | None = None,
    context: Mapping[str, Any] | None = None,
    statistics: Mapping[str, Any] | None = None,
) -> CheckResult:
    """Check the rows, and the suite's further tables in `extra` (`classes`, `facts`); never raises on bad data.

    Rows in chunks are looked at one chunk after the other. `context` names what the answer depends on besides rows and
    rules (an exam, a reference snapshot).
    """
    import pandas as pd

    run = ChunkedRun(suite, max_ids=None)
    chunks = iter([rows] if isinstance(rows, pd.DataFrame) else rows)
    frame = next(chunks, None)
    while frame is not None:
        following = next(chunks, None)
        run.add(frame, is_all=following is None and not run.num_rows)
        frame = following
    return run.finish(subject=subject, extra=extra, context=context, statistics=statistics)[0]


class ChunkedRun:
    """One run of a suite; `add` each chunk, then `finish`. `max_ids`: so many failing ids are named, None: all."""

    def __init__(self, suite: Suite, *, max_ids: int | None = MAX_IDS) -> None:
        self._suite = suite
        self._names_all = max_ids is None
        self._id_column = suite.id_columns[ROWS] or ""
        self._tallies = {rule.name: _Tally(max_ids) for rule in suite.rules}
        self._rules: dict[str, list[Rule]] = {}
        for rule in suite.rules:
            if rule.table == ROWS:
                self._rules.setdefault(_kind(rule), []).append(rule)
        late = (*self._rules_of("whole"), *self._rules_of("unique"))
        self._quarantines_late = any(rule.policy == "quarantine" for rule in late)
        self._seen: set[str] = set()
        self._kept: list[pd.DataFrame] = []
        self._values: dict[str, _Values] = {}
        self._first: pd.DataFrame | None = None  # what a rule that needs several rows to fail is shown when all differ
        self._is_done = False
        self._nulls = set(suite.required)  # the required columns without a value so far
        self._labels: set[str] = set()
        self._missing: RuleResult | None = None
        self._started = time.perf_counter()
        self.num_rows = 0
        self.num_quarantined = 0

    def add(self, frame: pd.DataFrame, *, is_all: bool = False) -> Quarantined:
        """Check a chunk and return its rows that fail a rule which quarantines: row id -> the rules' names.

        `is_all`: no other chunk comes, and every rule on rows can be answered at once.
        """
        if self._missing is None and not self.num_rows:
            self._missing = guards.missing_columns(frame, self._suite)
        self.num_rows += len(frame)
        if self._missing is not None or not len(frame):
            return {}
        self._nulls -= {column for column in self._nulls if bool(frame[column].notna().any())}
        if self._suite.min_classes:
            self._labels.update(str(label) for label in frame["label"].dropna().unique())
        if is_all:
            self._is_done = True
            rules = [rule for rule in self._suite.rules if rule.table == ROWS]
            return {} if self._stopped() else self._quarantined(self._run(frame, rules))
        is_first = self.num_rows == len(frame)
        results = self._run(frame, [*self._rules_of("row"), *(self._rules_of("columns") if is_first else ())])
        self._keep(frame)
        return self._quarantined(results)

    def finish(
        self,
        *,
        subject: str,
        extra: Mapping[str, pd.DataFrame] | None = None,
        context: Mapping[str, Any] | None = None,
        statistics: Mapping[str, Any] | None = None,
    ) -> tuple[CheckResult, Quarantined]:
        """Return the suite's answer, and the rows that a rule on all of them put aside beside those of the chunks."""
        stopped = self._stopped()
        late = {} if stopped else self._quarantined(self._run_late(extra or {}))
        rules = [stopped] if stopped else self._results()
        if self._names_all:  # nothing is put aside before the answer
            self.num_quarantined = len(quarantined_rows(rules))
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

    def _rules_of(self, kind: str) -> list[Rule]:
        return self._rules.get(kind, [])

    def _stopped(self) -> RuleResult | None:
        nulls = sorted(self._nulls)
        return guards.stopped_before(
            self._suite, num_rows=self.num_rows, missing=self._missing, nulls=nulls, labels=self._labels
        )

    def _keep(self, frame: pd.DataFrame) -> None:
        """Keep of a chunk what the rules need that look at all rows."""
        if self._rules_of("whole"):
            self._kept.append(frame[_columns(self._rules_of("whole"), frame, id_column=self._id_column)])
        if self._first is None:
            self._first = frame[_columns(self._rules_of("unique"), frame, id_column=self._id_column)]
        for column in {str(_argument(rule, "column")) for rule in self._rules_of("unique")} & set(frame.columns):
            rows = frame[list(dict.fromkeys((self._id_column, column)))]
            self._values.setdefault(column, _Values()).add(rows, column)

    def _run_late(self, extra: Mapping[str, pd.DataFrame]) -> list[RuleResult]:
        """Run the rules that need all rows, and those on other tables."""
        import pandas as pd

        results = []
        if not self._is_done:
            if self._kept:
                results += self._run(pd.concat(self._kept, ignore_index=True), self._rules_of("whole"))
            for rule in self._rules_of("unique"):
                results += self._run_unique(rule)
            counted = pd.DataFrame(index=pd.RangeIndex(self.num_rows))
            results += self._run(counted, self._rules_of("count"), id_column=None)
        for table in dict.fromkeys(rule.table for rule in self._suite.rules if rule.table != ROWS):
            rules = [rule for rule in self._suite.rules if rule.table == table]
            results += self._run(extra.get(table), rules, id_column=self._suite.id_columns.get(table))
        return results

    def _run_unique(self, rule: Rule) -> list[RuleResult]:
        values = self._values.get(str(_argument(rule, "column")))
        alike = values.alike() if values else None
        (result,) = self._answers(self._first if alike is None else alike, [rule], self._id_column)
        if result.error is None:
            result = _observed(dataclasses.replace(result, num_checked=self.num_rows))
        self._tallies[rule.name].add(result)
        return [result]

    def _run(self, frame: pd.DataFrame | None, rules: list[Rule], *, id_column: str | None = "") -> list[RuleResult]:
        results = self._answers(frame, rules, self._id_column if id_column == "" else id_column) if rules else []
        for result in results:
            self._tallies[result.name].add(result)
        return results

    def _answers(self, frame: pd.DataFrame | None, rules: list[Rule], id_column: str | None) -> list[RuleResult]:
        answers = answers_of(frame, rules, id_column)
        return [answers.get(rule.name) or unanswered(rule) for rule in rules]

    def _quarantined(self, results: Iterable[RuleResult]) -> Quarantined:
        result = quarantined_rows(results)
        self.num_quarantined += len(result.keys() - self._seen)
        if self._quarantines_late:
            self._seen |= result.keys()
        return result

    def _results(self) -> list[RuleResult]:
        return [self._tallies[rule.name].result() or unanswered(rule) for rule in self._suite.rules]


def _kind(rule: Rule) -> str:
    """Return what a rule on rows is answered from: a `row`, the `columns`, their `count`, hashes, or the `whole`."""
    name = rule.expectation if isinstance(rule.expectation, str) else type(rule.expectation).__name__
    is_conditional = _argument(rule, "row_condition") is not None
    counts_all = _argument(rule, "mostly") not in (None, 1)
    if name in COLUMN_EXPECTATIONS:
        return "columns"
    if name in ROW_EXPECTATIONS and not counts_all:
        return "row"
    if is_conditional or counts_all:
        return "whole"
    return "count" if name in COUNT_EXPECTATIONS else "unique" if name == UNIQUE_EXPECTATION else "whole"


def _observed(result: RuleResult) -> RuleResult:
    """Return a rule's answer with its counts in words."""
    if not result.num_failed:
        return result
    return dataclasses.replace(
        result, observed=f"{result.num_failed} of {result.num_checked}: {', '.join(result.examples)}"
    )


def _hashes(values: pd.Series[Any]) -> npt.NDArray[np.uint64]:
    """Return eight bytes for each value, the same for equal ones: a number is the same whatever its type."""
    import pandas as pd

    plain = values.astype(float) if pd.api.types.is_numeric_dtype(values) else values
    try:
        hashes = pd.util.hash_pandas_object(plain, index=False, categorize=False)
    except (TypeError, ValueError):  # values without a hash: Great Expectations looks at them all
        return np.zeros(len(values), dtype=np.uint64)
    return np.asarray(hashes, dtype=np.uint64)


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
