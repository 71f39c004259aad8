"""Waiting for something outside, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], bool],
    *,
    timeout_seconds: float,
    otherwise: Exception,
    interval_seconds: float = 0.2,
) -> None:
    """Return once the condition holds; raise `otherwise` when it has not within the time."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() >= deadline:
            raise otherwise
        time.sleep(interval_seconds)
