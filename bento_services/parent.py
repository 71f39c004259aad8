"""A worker of a killed `bentoml serve` must not live on: it would keep the port from the next start."""

from __future__ import annotations

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1  # Source: prctl(2)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends, however that happens.

    BentoML starts each worker in a session of its own, so a signal to the server's process group does not reach it.
    Without effect where prctl does not exist (not Linux).
    """
    parent = os.getppid()
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:  # it ended in between
        os.kill(os.getpid(), signal.SIGKILL)
