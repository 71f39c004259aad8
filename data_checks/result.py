"""The result of a check: frozen, JSON-ready, and able to close the gate."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from data_checks.rules import Policy, Stage
from pipeline_tasks.errors import GateClosed

Severity = Literal["ok", "warn", "quarantine", "stop"]
MAX_LISTED = 10
ERROR_CODE = "CHECK_ERROR"


@dataclasses.dataclass(frozen=True, slots=True)
class RuleResult:
    """One rule's answer; `failing_ids` are sorted row ids, where it looks at rows: all, or a hundred of rows in chunks.

    `examples` are a few of the values that failed.
    """

    name: str
    policy: Policy
    success: bool
    expected: str
    observed: str = ""
    table: str = "rows"
    num_checked: int = 0
    num_failed: int = 0
    failing_ids: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    error: str | None = None

    @property
    def stops(self) -> bool:
        """True where this rule alone ends the run: it failed and says stop, or it could not be evaluated at all."""
        return self.error is not None or (not self.success and self.policy == "stop")

    @property
    def line(self) -> str:
        """One sentence on a failure: what was expected, what came."""
        cause = self.error or self.observed
        return f"{self.name}: {self.expected} (got {cause})."


def quarantined_rows(rules: Iterable[RuleResult]) -> dict[str, tuple[str, ...]]:
    """Return row id -> names of the quarantine rules that it failed, both sorted."""
    reasons: dict[str, list[str]] = {}
    for rule in rules:
        if rule.policy == "quarantine" and not rule.success:
            for row_id in rule.failing_ids:
                reasons.setdefault(row_id, []).append(rule.name)
    return {row_id: tuple(sorted(reasons[row_id])) for row_id in sorted(reasons)}


@dataclasses.dataclass(frozen=True, slots=True)
class CheckResult:
    """A suite's answer on one subject; `success` means that nothing stops the run."""

    stage: Stage
    suite: str
    subject: str
    success: bool
    severity: Severity
    code: str | None
    rules: tuple[RuleResult, ...]
    statistics: Mapping[str, Any]

    @property
    def failures(self) -> tuple[RuleResult, ...]:
        return tuple(rule for rule in self.rules if not rule.success)

    @property
    def quarantined(self) -> dict[str, tuple[str, ...]]:
        """Row id -> names of the quarantine rules that it failed, both sorted."""
        return quarantined_rows(self.rules)

    def listed(self, limit: int = MAX_LISTED) -> list[str]:
        """Return at most `limit` failure sentences, the ones that stop first, each group sorted by name."""
        ordered = sorted(self.failures, key=lambda rule: (not rule.stops, rule.name))
        return [rule.line for rule in ordered[:limit]]

    def require(self, *, report: str) -> None:
        """Do nothing if nothing stops the run.

        Raises:
            GateClosed: the code names the first failed rule; the message lists ten and where the report is.
        """
        if self.success:
            return
        more = len(self.failures) - MAX_LISTED
        tail = f" and {more} more" if more > 0 else ""
        listed = " ".join(self.listed())
        raise GateClosed(
            f"{self.stage} of {self.subject} must pass the suite {self.suite}: {listed}{tail} "
            f"The champion stays; the full report is {report}.",
            code=self.code,
        )

    def failures_json(self) -> list[dict[str, Any]]:
        """Return the failures for the catalog: at most ten row ids each."""
        return [
            {
                "rule": rule.name,
                "policy": rule.policy,
                "expected": rule.expected,
                "observed": rule.error or rule.observed,
                "num_failed": rule.num_failed,
                "failing_ids": list(rule.failing_ids[:MAX_LISTED]),
            }
            for rule in sorted(self.failures, key=lambda rule: rule.name)
        ]
