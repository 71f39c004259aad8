"""Suites as plain values: a rule names a Great Expectations expectation, its arguments and what a failure means."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pipeline_tasks.contracts import content_id
from pipeline_tasks.errors import ConfigError

Stage = Literal["items", "labels", "dataset"]
Policy = Literal["quarantine", "warn", "stop"]

ROWS, CLASSES, FACTS = "rows", "classes", "facts"


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """One expectation on one table of a suite.

    `policy` says what a failure does: `quarantine` puts the failing rows aside, `warn` only tells, `stop` ends the run.
    `expectation` is the class name in `great_expectations.expectations`, or an expectation object of the user's own.
    """

    name: str
    expectation: Any
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    policy: Policy = "stop"
    table: str = ROWS
    expected: str = ""

    def identity(self) -> dict[str, Any]:
        """Return what the rule's meaning depends on, as JSON values."""
        return {
            "name": self.name,
            "expectation": _expectation_identity(self.expectation),
            "arguments": dict(self.arguments),
            "policy": self.policy,
            "table": self.table,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Suite:
    """The rules of one stage; `required` columns of the row table must hold at least one value each.

    `id_columns` names each table's row id. `min_classes` is the least number of different labels (0 = no labels here).
    """

    name: str
    stage: Stage
    rules: tuple[Rule, ...]
    required: tuple[str, ...]
    min_classes: int = 0
    max_quarantine_share: float = 1.0
    id_columns: Mapping[str, str | None] = dataclasses.field(
        default_factory=lambda: {ROWS: "item_id", CLASSES: "label", FACTS: None}
    )

    def suite_id(self, context: Mapping[str, Any] | None = None) -> str:
        """Return `<name>@<digest>`: other rules or another context (an exam, say) are another suite."""
        identity = {
            "rules": [rule.identity() for rule in self.rules],
            "required": list(self.required),
            "min_classes": self.min_classes,
            "max_quarantine_share": self.max_quarantine_share,
            "context": dict(context or {}),
        }
        return f"{self.name}@{content_id(identity)[:12]}"


def extend(suite: Suite, rules: Iterable[Rule]) -> Suite:
    """Return the suite with the rules added; a rule with a stock rule's name takes its place.

    Raises:
        ConfigError: two of the added rules have the same name.
    """
    added: dict[str, Rule] = {}
    for rule in rules:
        if rule.name in added:
            raise ConfigError(
                f"checks.py {suite.stage} rule names must be unique (got {rule.name!r} twice). Rename one."
            )
        added[rule.name] = rule
    kept = tuple(added.pop(rule.name, rule) for rule in suite.rules)
    return dataclasses.replace(suite, rules=kept + tuple(added.values()))


def _expectation_identity(expectation: Any) -> Any:
    if isinstance(expectation, str):
        return expectation
    configuration = dict(expectation.configuration.to_json_dict())
    configuration.pop("id", None)
    return configuration
