"""Progress of a training: a bar on a terminal, one line every few seconds elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

EVERY_SECONDS = 5.0


class StepProgress(Protocol):
    """Told of each step."""

    def advance(self, *, done: int, note: str) -> None:
        """Say that so many steps are done, and what the last one looked like."""


class _Bar:
    def __init__(self, progress: Progress, *, label: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=total, note="")

    def advance(self, *, done: int, note: str) -> None:
        self._progress.update(self._task, completed=done, note=note)


class _Lines:
    def __init__(self, *, label: str, total: int, seconds: Callable[[], float], every_seconds: float) -> None:
        self._label, self._total = label, total
        self._seconds, self._every = seconds, every_seconds
        self._last = seconds()

    def advance(self, *, done: int, note: str) -> None:
        now = self._seconds()
        if now - self._last >= self._every:
            self._last = now
            logger.info("%s: step %d of %d, %s", self._label, done, self._total, note)


@contextmanager
def step_progress(
    label: str,
    *,
    total: int,
    console: Console | None = None,
    seconds: Callable[[], float] = time.monotonic,
    every_seconds: float = EVERY_SECONDS,
) -> Iterator[StepProgress]:
    """Show the progress of `total` steps while the block runs."""
    shown_on = console or Console(stderr=True)
    if not shown_on.is_terminal:
        yield _Lines(label=label, total=total, seconds=seconds, every_seconds=every_seconds)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=shown_on) as progress:
        yield _Bar(progress, label=label, total=total)
