"""Keep the memory that a pass has freed for the next one."""

from __future__ import annotations

import contextlib
import ctypes
import os

# Source: mallopt(3), and malloc.h for the numbers.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# Above what a batch's activations need on a CPU; a flood of large bodies still goes back to the system.
KEEP_BYTES, LARGEST_KEPT_BYTES = 1 << 28, 1 << 27
MOST_OF_OLD_GLIBC_BYTES = 1 << 25


def keep_freed_memory() -> None:
    """Let malloc keep up to 256 MiB between passes; without effect where it is not glibc's.

    Else each pass of a batch of 32 images faults in megabytes of activations anew: a third of the CPU time, measured
    with a convolutional network. What a pass needs is needed again. Takes a process that was started with
    MALLOC_ARENA_MAX=1 (`serve.py`): else a thread has an arena of its own, which gives back whole heaps of 64 MB.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_TRIM_THRESHOLD, KEEP_BYTES)
    if not mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES):
        mallopt(M_MMAP_THRESHOLD, MOST_OF_OLD_GLIBC_BYTES)


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
