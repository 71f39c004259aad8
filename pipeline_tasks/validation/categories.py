"""Values of categories that the stock recipe for rows does not know: they count as none of its values. Pure."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from data_checks.result import CheckResult
from data_checks.suites import KNOWN_CATEGORIES
from pipeline_tasks.models.tabular_mlp.preprocess import preprocessing_of, unmatched_categories
from pipeline_tasks.models.tabular_mlp.recipe import RECIPE
from pipeline_tasks.project.schema import Project

MAX_NAMED, MAX_COUNTED = 10, 20_000


def preprocessing_for(project: Project) -> dict[str, Any] | None:
    """Return what the stock recipe for rows decodes with; None for every other recipe."""
    if project.recipe.name != RECIPE.name:
        return None
    return preprocessing_of(RECIPE.resolve(project.recipe.params))


def category_facts(data: bytes, preprocessing: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return how many categories of a row have a value that is not known, and which."""
    if preprocessing is None:
        return {}
    unmatched = unmatched_categories([data], preprocessing=preprocessing)
    return {"num_unmatched": len(unmatched), "unmatched": unmatched}


class Unmatched:
    """Counts of the values that are not known, by category, over the chunks of a batch."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}

    def add(self, facts: Iterable[Mapping[str, Any]]) -> None:
        """Count what `category_facts` says of some rows; of many different values the commonest so far are kept."""
        for fact in facts:
            for name, values in fact.get("unmatched", {}).items():
                self._counts.setdefault(name, Counter()).update(values)
        for name, counts in self._counts.items():
            if len(counts) > MAX_COUNTED:
                self._counts[name] = Counter(dict(counts.most_common(MAX_COUNTED // 2)))

    def commonest(self) -> dict[str, dict[str, int]]:
        """Return by category the commonest values, with how many rows have them."""
        return {
            name: dict(sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_NAMED])
            for name, values in sorted(self._counts.items())
        }


def as_text(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return the values and how often each came, on one line."""
    parts = (f"{name}: {', '.join(f'{value} ({n})' for value, n in values.items())}" for name, values in counts.items())
    return "; ".join(parts)


def naming_values(result: CheckResult, counts: Mapping[str, Mapping[str, int]]) -> CheckResult:
    """Return the result with the values named where it only had their number."""
    if not counts:
        return result
    rules = (
        dataclasses.replace(rule, observed=as_text(counts)) if rule.name == KNOWN_CATEGORIES else rule
        for rule in result.rules
    )
    return dataclasses.replace(result, rules=tuple(rules))
