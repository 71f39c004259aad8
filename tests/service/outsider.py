"""Another user of this machine, who sends orders to every port that a process listens on."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import psutil
import zmq

NOBODY = 65534
WAIT_MS = 1500


def listening(processes: list[psutil.Process]) -> set[int]:
    """Return every port that the processes listen on, on whichever address."""
    connections = [connection for process in processes for connection in process.net_connections("inet")]
    return {port.laddr.port for port in connections if port.status == psutil.CONN_LISTEN or port.type == 2}


def order(port: int, *, mark: Path) -> None:
    """Ask a process manager (circus) to run a command that writes a file, as nobody; returns when it had its time."""
    mark.parent.chmod(0o777)
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            _send(port, mark=mark)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _send(port: int, *, mark: Path) -> None:
    socket = zmq.Context().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(f"tcp://127.0.0.1:{port}")
    watcher = {"name": "outsider", "cmd": "/usr/bin/touch", "args": [str(mark)], "start": True}
    socket.send_json({"id": uuid.uuid4().hex, "command": "add", "properties": watcher})
    socket.poll(WAIT_MS)
