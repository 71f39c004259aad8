"""The labels of an exam beside its figures: what items that it lacks would make of them, and who looked. Pure."""

from __future__ import annotations

import dataclasses
import math

from pipeline_tasks.catalog.exam_window import ExamLabels
from pipeline_tasks.evaluation.evidence import ExamEvidence
from pipeline_tasks.evaluation.reasons import Reason, percent, points

PLAIN = frozenset({"LABELS_IMPORTED"})  # as in gate_rule


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """A figure with all open items against it, and with all of them for it."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True)
class LabelEvidence:
    """An exam's open items as a share of all that it could have, and accuracy with all of them wrong or right.

    `difference` is the contender's accuracy minus the champion's. `imported_share` is of the items that the exam has.
    """

    num_open: int
    share: float
    contender: Bounds
    champion: Bounds | None
    difference: Bounds | None
    imported_share: float


def label_evidence(labels: ExamLabels, exam: ExamEvidence) -> LabelEvidence:
    """Return what the labels of an exam leave open."""
    total = exam.num_items + labels.num_open
    accuracy = exam.contender.accuracy.estimate
    rival = exam.champion.accuracy.estimate if exam.champion is not None else None
    gain = math.nan if rival is None else accuracy - rival
    return LabelEvidence(
        num_open=labels.num_open,
        share=labels.num_open / total if total else 0.0,
        contender=share_bounds(accuracy, num_items=exam.num_items, num_open=labels.num_open),
        champion=None if rival is None else share_bounds(rival, num_items=exam.num_items, num_open=labels.num_open),
        difference=None if rival is None else _difference(gain, exam.num_items, labels.num_open),
        imported_share=min(labels.num_imported / exam.num_items, 1.0) if exam.num_items else 0.0,
    )


def share_bounds(share: float, *, num_items: float, num_open: float) -> Bounds:
    """Return a share of right answers with all open items wrong, and with all of them right."""
    total = num_items + num_open
    if not total:
        return Bounds(math.nan, math.nan)
    return Bounds(share * num_items / total, (share * num_items + num_open) / total)


def _difference(difference: float, num_items: int, num_open: int) -> Bounds:
    total = num_items + num_open
    low, high = difference * num_items - num_open, difference * num_items + num_open
    return Bounds(low / total, high / total) if total else Bounds(math.nan, math.nan)


def note_labels(labels: ExamLabels | None, exam: ExamEvidence) -> list[Reason]:
    """Tell of items that the exam lacks because people differed, and of labels that nobody looked at."""
    if labels is None:
        return []
    noted, notes = label_evidence(labels, exam), []
    if labels.num_open:
        bounds = f"of the contender's accuracy {percent(noted.contender.low)} to {percent(noted.contender.high)}"
        if noted.difference is not None:
            bounds += f", of the difference {points(noted.difference.low)} to {points(noted.difference.high)}"
        text = (
            f"{labels.num_open} more items belong to this exam and are open, {percent(noted.share)} of all: people "
            f"differed ({_kinds(labels)}). All of them wrong or right, that would make {bounds}."
        )
        notes.append(Reason("ITEMS_OPEN", "note", text))
    if labels.num_imported:
        text = (
            f"{labels.num_imported} of {exam.num_items} exam labels ({percent(noted.imported_share)}) came with the "
            "source and nobody looked at them (labels.imported_in_exam)."
        )
        notes.append(Reason("LABELS_IMPORTED", "note", text))
    return notes


def _kinds(labels: ExamLabels) -> str:
    counts = (
        (labels.num_asked, "asked of a further person"),
        (labels.num_disputed, "disputed to the end"),
        (labels.num_decided, "decided since, for the next epoch"),
    )
    return ", ".join(f"{count} {kind}" for count, kind in counts if count)
