"""How a training run ended, and whether one should start: pure decisions on facts from the catalog."""

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
    closed_outcome: RunOutcome | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Ending:
    """A run's one ending, with a code for machines and a sentence for people."""

    outcome: RunOutcome
    reason_code: str
    reason: str
    retryable: bool = False


def ending_of(facts: RunFacts) -> Ending:
    """Return how the run ended, from the strongest fact down: promoted, refused by a person, by the gate, or failed."""
    if facts.promoted_generation is not None:
        return Ending("promoted", "PROMOTED", f"{facts.contender_version} serves as generation {facts.promoted_generation}")
    if facts.approval == "reject":
        return Ending("rejected", "REJECTED_BY_REVIEWER", "a reviewer said no; the champion stays")
    if facts.approval == "expired":
        return Ending("rejected", "APPROVAL_EXPIRED", "nobody answered in time; the champion stays")
    if facts.verdict_answer in {"keep", "inconclusive"}:
        code = "NOT_BETTER" if facts.verdict_answer == "keep" else "INCONCLUSIVE"
        return Ending("rejected", code, "; ".join(facts.verdict_reasons) or "the gate gave no reason")
    step = "ship" if facts.verdict_answer == "promote" else ("judge" if facts.contender_version else "train")
    return Ending(
        "failed",
        "TASK_FAILED",
        f"the run stopped before `{step}` was done; the champion stays. Look at the failed task's log, then clear it.",
        retryable=True,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class LabelState:
    """What a training run could work with."""

    num_new: int
    num_outstanding: int
    last_label_at: dt.datetime | None
    num_exam_new: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class TrainDecision:
    """Whether to train now, and why (not)."""

    train: bool
    reason: str


def should_train(
    state: LabelState,
    *,
    min_new_labels: int,
    patience: dt.timedelta,
    forced: bool,
    now: dt.datetime,
) -> TrainDecision:
    """Train when enough labels are new and the labelers are not in the middle of a batch.

    While labeling tasks are open and the newest label is younger than `patience`, waiting gives a better contender
    and a whole exam; the next collect, or the sweep, asks again.
    """
    if forced:
        return TrainDecision(train=True, reason=f"forced by hand, with {state.num_new} new labels")
    if state.num_new < min_new_labels:
        return TrainDecision(
            train=False, reason=f"new labels must be at least {min_new_labels} (got {state.num_new}); nothing to train on yet"
        )
    resting = state.last_label_at is None or now - state.last_label_at >= patience
    if state.num_outstanding and not resting:
        return TrainDecision(
            train=False,
            reason=f"{state.num_outstanding} labeling tasks are open and labels are still coming; waiting for them "
            f"or for {patience.total_seconds() / 60:.0f} quiet minutes",
        )
    return TrainDecision(train=True, reason=f"{state.num_new} new labels")
