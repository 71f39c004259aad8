"""Runs of pytest in forks of one process that has the heavy libraries loaded, so that each costs its tests alone.

A fork sees the packages of one tree. Ours are loaded in the fork only; what is preloaded reads no settings of ours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.metadata
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tests.protections.protection import ROOT

OURS = ("tests", "pipeline_tasks", "bento_services", "data_checks", "dags")
HEAVY = (
    *("aiohttp", "alembic.command", "boto3", "cryptography.x509", "fastapi", "httpx", "hypothesis", "numpy"),
    *("pandas", "PIL.Image", "pyarrow.parquet", "pydantic", "scipy.stats", "sqlalchemy", "torch", "uvicorn"),
)
TIMEOUT_SECONDS = 300
TIMED_OUT = 124
# Without the repository's own options: a named test is run whatever its marker says.
OPTIONS = (
    *("-o", "addopts=-q --strict-markers --import-mode=importlib", "-p", "no:cacheprovider", "-p", "no:xdist"),
    *("--timeout", "120", "-rfE", "--tb", "short"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """Tests to run in a tree; `before` and `after` are called with the tree. It is ended after `seconds`."""

    name: str
    tests: Sequence[str]
    before: Callable[[Path], None] = lambda _tree: None
    after: Callable[[Path], None] = lambda _tree: None
    seconds: float = TIMEOUT_SECONDS


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """A piece of work with pytest's exit code and output, and how long it took."""

    work: Work
    code: int
    seconds: float
    output: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Running:
    work: Work
    tree: Path
    output: Path
    began: float


def preload() -> None:
    """Load what most tests load: the libraries and pytest's plugins."""
    plugins = importlib.metadata.entry_points(group="pytest11")
    for name in (*HEAVY, "pytest", *(plugin.module for plugin in plugins)):
        importlib.import_module(name)


def run(work: Iterable[Work], *, trees: Sequence[Path]) -> Iterator[Done]:
    """Yield the work as it is done, one piece at a time in each tree."""
    left, free, running = deque(work), list(trees), dict[int, _Running]()
    while left or running:
        while left and free:
            piece, tree = left.popleft(), free.pop()
            piece.before(tree)
            output = tree.with_suffix(".output")
            running[_fork(tree, piece.tests, output)] = _Running(piece, tree, output, time.monotonic())
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in running:
            ended = running.pop(pid)
            ended.work.after(ended.tree)
            free.append(ended.tree)
            code = os.waitstatus_to_exitcode(status)
            code = TIMED_OUT if code == -signal.SIGKILL else code
            yield Done(ended.work, code, time.monotonic() - ended.began, ended.output.read_text())
        elif not pid:
            _end_late(running)
            time.sleep(0.02)


def _end_late(running: dict[int, _Running]) -> None:
    for pid, child in running.items():
        if time.monotonic() - child.began > child.work.seconds:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def _fork(tree: Path, tests: Sequence[str], output: Path) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 3
    try:
        os.setsid()
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        code = _pytest(tree, tests)
    finally:
        sys.stdout.flush()
        os._exit(code)


def _pytest(tree: Path, tests: Sequence[str]) -> int:
    import pytest

    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    sys.path[:] = [str(tree), *(path for path in sys.path if path and Path(path).resolve() != ROOT)]
    os.chdir(tree)
    os.environ |= {"PYTHONPATH": str(tree), "DETHRONE_HOME": str(tree / ".dethrone")}
    return int(pytest.main([*OPTIONS, "--rootdir", str(tree), *tests]))
