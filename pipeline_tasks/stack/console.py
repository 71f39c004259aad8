"""The stack on the console: a live table on a terminal, one line per step elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline_tasks.stack.doctor import Check
from pipeline_tasks.stack.events import Event, OnEvent
from pipeline_tasks.stack.lifecycle import UpReport
from pipeline_tasks.stack.status import StackStatus

_STYLES: Mapping[str, str] = {
    "starting": "yellow", "note": "cyan", "ready": "green", "failed": "bold red", "stopped": "green",
}  # fmt: skip


@contextmanager
def progress(console: Console) -> Iterator[OnEvent]:
    """Yield a callback for `up` and `down` that shows each event as it comes; safe to call from threads."""
    if not console.is_terminal:
        yield lambda event: console.print(event_line(event), markup=False, highlight=False, soft_wrap=True)
        return
    board = _Board()
    with Live(get_renderable=board.table, console=console, refresh_per_second=4) as live:

        def show(event: Event) -> None:
            if event.state == "note":
                live.console.print(Text(event_line(event), style=_STYLES["note"]))
            else:
                board.add(event)

        yield show


def event_line(event: Event) -> str:
    """Return one event as one line."""
    took = f" after {event.seconds:.1f} s" if event.seconds >= 0.05 else ""
    detail = f": {event.detail}" if event.detail else ""
    return f"{event.part} {event.state}{took}{detail}"


def up_table(report: UpReport) -> Table:
    """Return where to look after `up`, with what moved and how long each part took."""
    table = Table(title="The stack is up", title_justify="left")
    for column in ("part", "address", "ready after"):
        table.add_column(column)
    keys = {"airflow": "airflow_url", "label-studio": "label_studio_url", "s3": "s3_endpoint", "gateway": "gateway_url"}
    for part, key in keys.items():
        seconds = report.seconds.get(part)
        if seconds is not None:
            table.add_row(part, str(report.stack[key]), f"{seconds:.1f} s")
    return table


def status_table(stack: StackStatus) -> Table:
    """Return each part's state, pid, uptime, address and health."""
    table = Table(title=f"{stack.home}: {'up' if stack.running else 'down'}", title_justify="left")
    for column in ("part", "state", "pid", "up for", "address", "health"):
        table.add_column(column)
    for part in stack.parts:
        health = Text("healthy", style="green") if part.healthy else Text(part.detail or part.state, style="red")
        pid, uptime = str(part.pid or ""), duration(part.uptime_seconds) if part.pid else ""
        table.add_row(part.name, part.state.lower(), pid, uptime, part.address or "", health)
    return table


def doctor_table(checks: Sequence[Check]) -> Table:
    """Return the findings with what to do about them."""
    table = Table(title="doctor", title_justify="left")
    for column in ("check", "", "found", "what to do"):
        table.add_column(column)
    for check in checks:
        mark = Text("ok", style="green") if check.ok else Text("bad", style="bold red")
        table.add_row(check.name, mark, check.detail, check.advice)
    return table


def duration(seconds: float) -> str:
    """Return a time span as a person says it: 42 s, 3 min, 5.2 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class _Board:
    """The last event of each part, for the live table."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: dict[str, tuple[Event, float]] = {}

    def add(self, event: Event) -> None:
        with self._lock:
            began = self._events.get(event.part, (event, time.monotonic()))[1]
            self._events[event.part] = (event, began)

    def table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        with self._lock:
            rows = list(self._events.items())
        for part, (event, began) in rows:
            waiting = event.state == "starting"
            seconds = time.monotonic() - began if waiting else event.seconds
            table.add_row(part, Text(event.state, style=_STYLES[event.state]), f"{seconds:.0f} s", event.detail)
        return table
