"""The window of a project's exam: its newest epochs, which are judged together, and facts of their labels. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipeline_tasks.contracts import ExamRef


@dataclasses.dataclass(frozen=True, slots=True)
class ExamLabels:
    """Facts of an exam's labels: the items that it lacks because people differed, and the labels that nobody looked at.

    When its epochs were opened, the items that it lacks were disputed: `num_asked` of them wait for a further person
    now, `num_disputed` are so to the end, `num_decided` were decided since and wait for the next epoch. `num_imported`
    of the items that it has were decided by the label that came with the source alone.
    """

    num_asked: int = 0
    num_disputed: int = 0
    num_decided: int = 0
    num_imported: int = 0

    @property
    def num_open(self) -> int:
        return self.num_asked + self.num_disputed + self.num_decided


def window(exams: Sequence[ExamRef], *, items: int) -> list[ExamRef]:
    """Return the newest epochs that are judged together, newest first: as many as it takes to hold so many items."""
    chosen: list[ExamRef] = []
    for ref in sorted(exams, key=lambda ref: ref.epoch, reverse=True):
        if sum(epoch.num_items for epoch in chosen) >= items:
            break
        chosen.append(ref)
    return chosen
