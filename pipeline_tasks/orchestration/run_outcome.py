"""Outcome of a training run, and labelers who are in the middle of something: pure decisions."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Literal

from pipeline_tasks.contracts import ALARM_STANDS, Answer, Queue, RunOutcome

QUIET = dt.timedelta(minutes=10)
LONGEST_WAIT = dt.timedelta(hours=2)
OPEN_SHARE = 0.05
_QUEUE_WORDS: dict[Queue, str] = {"label": "training tasks", "exam": "exam tasks"}


@dataclasses.dataclass(frozen=True, slots=True)
class RunFacts:
    """The catalog's facts of one training run."""

    contender_version: str | None = None
    verdict_answer: Answer | None = None
    verdict_reasons: tuple[str, ...] = ()
    approval: Literal["approve", "reject", "expired"] | None = None
    promoted_generation: int | None = None
    rollout_ended: tuple[str, str] | None = None  # the code and the reason of a rollout that went back to the champion


@dataclasses.dataclass(frozen=True, slots=True)
class Ending:
    """A run's one ending, with a code for machines and a sentence for people."""

    outcome: RunOutcome
    reason_code: str
    reason: str


def ending_of(facts: RunFacts) -> Ending:
    """Return how the run ended, from the strongest fact down.

    It was promoted, refused by a person, by its rollout or by the gate, or it failed.
    """
    if facts.promoted_generation is not None:
        serves = f"{facts.contender_version} serves as generation {facts.promoted_generation}"
        alarm = next((text for text in facts.verdict_reasons if text.startswith(ALARM_STANDS)), None)
        judged = f". When it was judged, {alarm}" if alarm else ""
        return Ending("promoted", "PROMOTED", f"{serves}{judged}")
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
    )


def went_on(outcome: RunOutcome | None, ending: Ending) -> bool:
    """Return whether a closed run has come to something else since: a failure was cleared, a no became a yes."""
    if outcome == "failed":
        return ending.outcome != "failed"
    return outcome in {"rejected", "superseded"} and ending.outcome == "promoted"


@dataclasses.dataclass(frozen=True, slots=True)
class OpenTasks:
    """The labeling tasks of one queue that somebody may be working on, beside the labels that it has given already.

    `num_open` counts those that were asked for within `LONGEST_WAIT`; `num_needed` is the least that anything is done
    with.
    """

    queue: Queue
    num_open: int
    num_decided: int
    num_needed: int

    @property
    def matter(self) -> bool:
        """True where their labels would be a twentieth or more of what training has without them."""
        return self.num_open > 0 and self.num_open >= OPEN_SHARE * max(self.num_decided, self.num_needed)


def labelers_busy(
    queues: Sequence[OpenTasks], *, last_answer_at: dt.datetime | None, now: dt.datetime, project: str
) -> str | None:
    """Return why training should wait, or None: people answered just now, and what is open matters.

    Waiting gives a better contender and a whole exam; the next collect, or the sweep, asks again. It is bounded: by
    `QUIET` without an answer, by `LONGEST_WAIT` for a task that nobody answers.
    """
    waited_for = [queue for queue in queues if queue.matter]
    if not waited_for or last_answer_at is None or now - last_answer_at >= QUIET:
        return None
    counts = " and ".join(f"{queue.num_open:,} {_QUEUE_WORDS[queue.queue]}" for queue in waited_for)
    minutes, hours = QUIET.total_seconds() / 60, LONGEST_WAIT.total_seconds() / 3600
    return (
        f"people are labeling: {counts} are open and the last answer came {_ago(now - last_answer_at)}. Training waits "
        f"for them, until nobody has answered for {minutes:.0f} minutes, for {hours:.0f} hours at most; "
        f"`dethrone train {project} --force` does not wait."
    )


def _ago(span: dt.timedelta) -> str:
    minutes = int(span.total_seconds() // 60)
    return f"{minutes} minute{'s' * (minutes != 1)} ago" if minutes else "just now"
