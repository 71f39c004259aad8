"""Priorities of the event loop and the model where they share a core."""

from __future__ import annotations

import contextlib
import os


def let_passes_finish() -> None:
    """Have the calling thread, the event loop's, not interrupt a running pass for each request that arrives.

    On one core every arrival costs the pass two switches of context; without them an overloaded service answers 5 %
    more (measured). It still gets its share of the core, and all of another one. Threads that it starts inherit this.
    """
    _set_policy("SCHED_BATCH")


def run_at_once() -> None:
    """Undo it for the calling thread, the model's."""
    _set_policy("SCHED_OTHER")


def _set_policy(name: str) -> None:
    policy = getattr(os, name, None)  # Linux only
    if policy is not None:
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, policy, os.sched_param(0))
