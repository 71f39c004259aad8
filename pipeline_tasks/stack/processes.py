"""Processes of the stack found without the supervisor: by the marker that each one inherits."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import psutil

from pipeline_tasks.stack.supervisor_conf import MARKER


def stack_processes(home: Path) -> list[psutil.Process]:
    """Return every live process whose environment carries this home's marker, but not the caller or its parents."""
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    processes = []
    for process in psutil.process_iter():
        try:
            marked = process.environ().get(MARKER) == str(home)
            if marked and process.pid not in mine and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
        except (psutil.Error, OSError):
            continue  # it ended meanwhile, or belongs to somebody else
    return processes


def end_processes(processes: Sequence[psutil.Process], *, grace_seconds: float) -> list[psutil.Process]:
    """SIGTERM, wait, SIGKILL; return what is still alive after that (nothing, short of a hung disk)."""
    for process in processes:
        _signal(process, kill=False)
    _, alive = psutil.wait_procs(list(processes), timeout=grace_seconds)
    for process in alive:
        _signal(process, kill=True)
    _, alive = psutil.wait_procs(alive, timeout=10)
    return list(alive)


def end_leftovers(home: Path, *, grace_seconds: float, rounds: int = 5) -> list[int]:
    """End every process of a stack that has no supervisor any more; return the pids that were ended.

    Several rounds, because a process may start a child between the listing and its own end.
    """
    ended: list[int] = []
    for _ in range(rounds):
        leftovers = stack_processes(home)
        if not leftovers:
            break
        ended += [process.pid for process in leftovers]
        end_processes(leftovers, grace_seconds=grace_seconds)
    return ended


def listening(pids: Container[int]) -> Iterator[tuple[int, str, int]]:
    """Yield process id, address and port of every TCP socket that these processes listen on."""
    for connection in psutil.net_connections(kind="tcp"):
        pid = connection.pid
        if connection.status == psutil.CONN_LISTEN and pid is not None and pid in pids and connection.laddr:
            yield pid, connection.laddr.ip, connection.laddr.port


def listeners(pids: Container[int]) -> dict[int, set[str]]:
    """Return port -> addresses that these processes listen on."""
    sockets: dict[int, set[str]] = {}
    for _, ip, port in listening(pids):
        sockets.setdefault(port, set()).add(ip)
    return sockets


def port_owner(port: int) -> str:
    """Return `name (pid N)` of whoever listens on a port, or `another program` where that cannot be seen."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return "another program"
    for connection in connections:
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        if listens and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.Error:
                break
    return "another program"


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
    except psutil.NoSuchProcess:
        return
