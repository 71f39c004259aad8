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

    def due(self) -> bool:
        """Tell whether a line would be printed now: what costs time to say is found out only then."""

    def advance(self, *, done: int, note: str) -> None:
        """Say that so many steps are done, and what the last one looked like."""


class _Bar:
    def __init__(self, progress: Progress, *, label: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=total, note="")

    def due(self) -> bool:
        return False

    def advance(self, *, done: int, note: str) -> None:
        self._progress.update(self._task, completed=done, note=note)


class _Lines:
    def __init__(self, *, label: str, total: int, seconds: Callable[[], float], every_seconds: float) -> None:
        self._label, self._total = label, total
        self._seconds, self._every = seconds, every_seconds
        self._last = seconds()
        self._first: tuple[float, int] | None = None

    def due(self) -> bool:
        return self._seconds() - self._last >= self._every

    def advance(self, *, done: int, note: str) -> None:
        now = self._seconds()
        self._first = self._first or (now, done)  # a resumed run begins beyond 0
        if now - self._last >= self._every:
            self._last = now
            parts = [f"step {done:,} of {self._total:,}", note, *self._pace(now, done)]
            logger.info("%s: %s", self._label, ", ".join(part for part in parts if part))

    def _pace(self, now: float, done: int) -> list[str]:
        began, before = self._first or (now, done)
        if done <= before or now <= began:
            return []
        rate = (done - before) / (now - began)
        return [f"{rate:,.1f} a second", f"{duration((self._total - done) / rate)} left"]


def duration(seconds: float) -> str:
    """Return a time span as text: 8 s, 3 m 20 s, 2 h 5 m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} m"


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
