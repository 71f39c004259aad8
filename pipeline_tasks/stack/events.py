"""Events of the stack while it starts and stops."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened while the stack starts or stops."""

    part: str
    state: str  # starting | ready | note | failed | stopped
    detail: str = ""
    seconds: float = 0.0


OnEvent = Callable[[Event], None]


def ignore_event(event: Event) -> None:
    """Do nothing with an event."""
    del event


class StartCancelled(Exception):
    """Another part failed, or the person pressed Ctrl-C: stop waiting."""
