"""The window of a project's exam: its newest epochs, which are judged together. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline_tasks.contracts import ExamRef


def window(exams: Sequence[ExamRef], *, items: int) -> list[ExamRef]:
    """Return the newest epochs that are judged together, newest first: as many as it takes to hold so many items."""
    chosen: list[ExamRef] = []
    for ref in sorted(exams, key=lambda ref: ref.epoch, reverse=True):
        if sum(one.num_items for one in chosen) >= items:
            break
        chosen.append(ref)
    return chosen
