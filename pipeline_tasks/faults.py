"""Crash points: places where a test kills the process, three per side effect.

Names are `<stage>.<effect>.<moment>` with moment `before`, `after` (the effect) or `recorded`. Each name is a literal
in the source, so that a test can list them all and fail when one is never hit.
"""

from __future__ import annotations

import os
import signal

_state: dict[str, str | None] = {"armed": None, "trace": None}


def arm(name: str | None, *, trace_path: str | None = None) -> None:
    """Choose the one point that kills; with a trace file, each point that is passed appends its name."""
    _state.update(armed=name, trace=trace_path)


def crash_point(name: str) -> None:
    """Die here, as from kill -9, when this point is armed; otherwise do nothing."""
    if _state["trace"] is not None:
        descriptor = os.open(_state["trace"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, f"{name}\n".encode())
        os.close(descriptor)
    if _state["armed"] == name:
        os.kill(os.getpid(), signal.SIGKILL)
