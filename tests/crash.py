"""Run a stage in a child process and kill it at a crash point, as kill -9 would; then the test runs it again.

The function gets picklable-free arguments (the child is forked) and must open its own catalog engine and store in the
child: a connection must not cross the fork. Keep objects in a `FolderObjectStore`, which outlives the child.
"""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline_tasks.core import crash_points

TIMEOUT_SECONDS = 600
_FORK = multiprocessing.get_context("fork")


def run_in_child(function: Callable[..., Any], *args: Any) -> None:
    """Run to the end in a child process; an exception there fails the test here, with its traceback."""
    exit_code, error = _child(function, args, armed=None, trace_path=None)
    assert exit_code == 0, error


def crash_at(point: str, function: Callable[..., Any], *args: Any) -> None:
    """Run in a child process with one point armed; it must die there by SIGKILL."""
    exit_code, error = _child(function, args, armed=point, trace_path=None)
    assert exit_code == -signal.SIGKILL, f"{point} was not hit: exit code {exit_code}\n{error}"


def points_passed(function: Callable[..., Any], *args: Any) -> list[str]:
    """Run to the end in a child process and return the crash points that it passed, in order, each once."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace"
        exit_code, error = _child(function, args, armed=None, trace_path=str(trace))
        assert exit_code == 0, error
        return list(dict.fromkeys(trace.read_text().splitlines())) if trace.exists() else []


def crash_everywhere(
    points: Iterable[str], *, world: Callable[[], Any], run: Callable[[Any], Any], check: Callable[[Any], None]
) -> None:
    """For each point: a new world, a run that dies there, a run that must end well, and the test's own check."""
    for point in points:
        state = world()
        crash_at(point, run, state)
        run_in_child(run, state)
        check(state)


def _child(
    function: Callable[..., Any], args: tuple[Any, ...], *, armed: str | None, trace_path: str | None
) -> tuple[int | None, str]:
    receiver, sender = _FORK.Pipe(duplex=False)
    child = _FORK.Process(target=_run, args=(sender, function, args, armed, trace_path))
    child.start()
    sender.close()
    child.join(TIMEOUT_SECONDS)
    if child.is_alive():
        child.kill()
        child.join()
        return None, f"the child ran longer than {TIMEOUT_SECONDS} s"
    try:
        return child.exitcode, receiver.recv()
    except EOFError:
        return child.exitcode, ""


def _run(
    sender: Any, function: Callable[..., Any], args: tuple[Any, ...], armed: str | None, trace: str | None
) -> None:
    crash_points.arm(armed, trace_path=trace)
    try:
        function(*args)
    except BaseException:  # noqa: BLE001 - the parent reports whatever went wrong
        sender.send(traceback.format_exc())
        raise SystemExit(1) from None
