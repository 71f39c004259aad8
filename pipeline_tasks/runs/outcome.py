"""How a training run ended, and whether the labelers are in the middle of something: pure decisions."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Literal

from pipeline_tasks.contracts import Answer, RunOutcome


@dataclasses.dataclass(frozen=True, slots=True)
class RunFacts:
    """What the catalog knows of one training run."""

    contender_version: str | None = None
    verdict_answer: Answer | None = None
    verdict_reasons: tuple[str, ...] = ()
    approval: Literal["approve", "reject", "expired"] | None = None
    promoted_generation: int | None = None
    rollout_ended: tuple[str, str] | None = None  # the code and the reason of a rollout that went back to the champion
    closed_outcome: RunOutcome | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Ending:
    """A run's one ending, with a code for machines and a sentence for people."""

    outcome: RunOutcome
    reason_code: str
    reason: str
    retryable: bool = False


def ending_of(facts: RunFacts) -> Ending:
    """Return how the run ended, from the strongest fact down.

    It was promoted, refused by a person, by its rollout or by the gate, or it failed.
    """
    if facts.promoted_generation is not None:
        serves = f"{facts.contender_version} serves as generation {facts.promoted_generation}"
        return Ending("promoted", "PROMOTED", serves)
    if facts.approval == "reject":
        return Ending("rejected", "REJECTED_BY_REVIEWER", "a reviewer said no; the champion stays")
    if facts.approval == "expired":
        return Ending("rejected", "APPROVAL_EXPIRED", "nobody answered in time; the champion stays")
    if facts.rollout_ended is not None:
        code, reason = facts.rollout_ended
        return Ending("rejected", code, f"{reason}; the champion stays")
    if facts.verdict_answer in {"keep", "inconclusive"}:
        code = "NOT_BETTER" if facts.verdict_answer == "keep" else "INCONCLUSIVE"
        sentences = [reason[:1].upper() + reason[1:] for reason in facts.verdict_reasons]
        return Ending("rejected", code, " ".join(sentences) or "the gate gave no reason")
    step = "ship" if facts.verdict_answer == "promote" else ("judge" if facts.contender_version else "train")
    return Ending(
        "failed",
        "TASK_FAILED",
        f"the run stopped before `{step}` was done; the champion stays. Look at the failed task's log, then clear it.",
        retryable=True,
    )


def went_on(outcome: RunOutcome | None, ending: Ending) -> bool:
    """Return whether a closed run has come to something else since: a failure was cleared, a no became a yes."""
    if outcome == "failed":
        return ending.outcome != "failed"
    return outcome in {"rejected", "superseded"} and ending.outcome == "promoted"


def labelers_busy(
    *, num_outstanding: int, last_activity_at: dt.datetime | None, patience: dt.timedelta, now: dt.datetime
) -> str | None:
    """Return why training should wait, or None: open labeling tasks, and something moved within `patience`.

    Waiting gives a better contender and a whole exam; the next collect, or the sweep, asks again.
    """
    if not num_outstanding or last_activity_at is None or now - last_activity_at >= patience:
        return None
    return (
        f"{num_outstanding} labeling tasks are open and labelers are at work; waiting for them "
        f"or for {patience.total_seconds() / 60:.0f} quiet minutes"
    )
