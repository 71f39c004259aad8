"""Printed lines of the demo: one for each event, a table at the end. Plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table


class Narrator:
    """Prints what happens, with the seconds since the start."""

    def __init__(self, console: Console | None = None) -> None:
        chosen = console or Console(highlight=False)
        self._console = chosen if chosen.is_terminal else Console(highlight=False, width=140)
        self._began = time.monotonic()
        self._facts: list[tuple[str, str]] = []

    @property
    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._began

    def chapter(self, title: str, text: str) -> None:
        """Begin a part of the story."""
        self._console.print()
        self._console.rule(f"[bold]{title}[/bold]", align="left")
        self._console.print(f"[dim]{text}[/dim]")

    def step(self, text: str) -> None:
        """Say that something is done or seen."""
        self._console.print(f"[dim]{self.seconds:6.1f} s[/dim]  {escape(text)}", soft_wrap=True)

    def fact(self, name: str, value: str) -> None:
        """Keep a number of this run for the table at the end."""
        self._facts = [fact for fact in self._facts if fact[0] != name]
        self._facts.append((name, value))

    def table(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """Print two columns."""
        table = Table(title=title, title_justify="left", show_header=False, title_style="bold")
        for name, value in rows:
            table.add_row(escape(name), escape(value))
        self._console.print()
        self._console.print(table)

    def closing(self) -> None:
        """Print every kept number."""
        self.table("What this run measured", self._facts)
