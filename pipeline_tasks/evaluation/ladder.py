"""Words of a verdict while its epoch is open: the ladder instead of the figures, and no item. Pure.

Whoever tunes by what verdicts tell climbs on the exam's chance. The ladder tells a difference only where it is a new
best by more than 1 / sqrt(n), and rounds it to that. The verdict's document stays exact.
Source: Blum and Hardt, "The Ladder: a reliable leaderboard for machine learning competitions" (2015).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from pipeline_tasks.evaluation import gate_rule, gate_rule_checks, gate_rule_slices, open_items
from pipeline_tasks.evaluation.reasons import points
from pipeline_tasks.project.gate_schema import ExamConfig

Document = Mapping[str, Any]
GAIN_CODES = frozenset({"GAIN_SHOWN", "GAIN_LIKELY", "NO_GAIN", "GAIN_UNCERTAIN"})
PLAIN_CODES = gate_rule.PLAIN | gate_rule_checks.PLAIN | gate_rule_slices.PLAIN | open_items.PLAIN
OPEN_ITEMS = "ITEMS_OPEN"
HIDDEN = "..."
LATER = "The figures are told when the next epoch opens"
_FIGURE = re.compile(r"[-+]?\d+(?:\.\d+)?(?: %| points?\b)|[-+]?\d+\.\d+")


@dataclasses.dataclass(frozen=True, slots=True)
class Rung:
    """The ladder after the newest verdict: its step, the best that was told so far, and what it tells of this one."""

    step: float
    best: float
    told: float | None

    @property
    def text(self) -> str:
        """The difference as it is told."""
        steps = f"in steps of {points(self.step)}"
        if self.told is None and not self.best:
            return f"less than {points(self.step)}, one step of what is told"
        if self.told is None:
            return f"not above the best told so far ({points(self.best)}, {steps})"
        return f"about {points(self.told)} more, the best so far ({steps})"


def climb(rung: Rung | None, difference: float, *, num_items: int) -> Rung:
    """Return the ladder after one more verdict; it begins at a difference of nothing."""
    best, step = rung.best if rung is not None else 0.0, 1 / math.sqrt(max(num_items, 1))
    if difference > best + step:
        best = round(difference / step) * step
        return Rung(step, best, best)
    return Rung(step, best, None)


def difference_of(document: Document) -> tuple[float, int] | None:
    """Return a verdict's difference and number of items; None where nothing was compared."""
    current = document["evidence"].get("current", {})
    gain = current.get("gain")
    return None if gain is None or gain["difference"] is None else (gain["difference"], current["num_items"])


def is_told_whole(document: Document) -> bool:
    """Return whether a verdict's policy tells everything at once; verdicts of older releases were told so."""
    exam = document["question"]["policy"].get("exam", {})
    return "tell" not in exam or ExamConfig.model_validate(exam).tell == "exact"


def told_reason(code: str, text: str, *, rung: Rung | None = None) -> str:
    """Return a reason's text with the ladder's answer instead of figures of the exam; names and counts stay."""
    if code in PLAIN_CODES:
        return text
    if code in GAIN_CODES:
        shown = "the gain is shown" if code in {"GAIN_SHOWN", "GAIN_LIKELY"} else "no gain is shown"
        return f"{shown}: {rung.text}." if rung is not None else f"{shown}."
    if code == OPEN_ITEMS:  # how many, and which share of the exam; not what that leaves of a model's figures
        return text.partition(" All of them")[0]
    return _FIGURE.sub(HIDDEN, text)


def tells_figures(document: Document) -> bool:
    """Return whether a verdict's figures are told while its epoch is open: those of a model without a champion to beat.

    It is compared with the constant answer, which nobody can climb on; items and labels are held back all the same.
    """
    return document["question"]["champion"] is None


def told(document: Document, *, rung: Rung | None) -> dict[str, Any]:
    """Return a verdict as it is told while its epoch is open: question, answer and reasons, without evidence."""
    decision = document["decision"]
    if tells_figures(document):
        return {name: document[name] for name in ("question", "measured", "decision")}
    reasons = [
        {**reason, "text": told_reason(reason["code"], reason["text"], rung=rung)} for reason in decision["reasons"]
    ]
    word = str(decision["headline"]).partition(": ")[0]
    headline = f"{word}: {reasons[0]['text']}" if reasons else word
    return {
        "question": document["question"],
        "measured": document["measured"],
        "decision": {**decision, "headline": headline, "reasons": reasons},
    }


def told_labels(document: Document) -> dict[str, Any] | None:
    """Return what is told of an exam's labels: their open share, without bounds, which would tell a figure."""
    labels = document["evidence"].get("labels")
    return None if labels is None else labels | dict.fromkeys(("contender", "champion", "difference"))
