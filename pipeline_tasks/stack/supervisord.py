"""The process supervisor: starting the daemon, and talking to it over its unix socket."""

from __future__ import annotations

import dataclasses
import http.client
import socket
import subprocess
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline_tasks.errors import ServiceUnavailable
from pipeline_tasks.stack.layout import StackLayout

RUNNING_STATES = frozenset({"STARTING", "RUNNING", "BACKOFF", "STOPPING"})
GAVE_UP_STATES = frozenset({"FATAL", "STOPPED", "UNKNOWN"})  # EXITED is a moment before the next start
_NOT_RUNNING_FAULT = 70
_ALREADY_STARTED_FAULT = 60
_BAD_NAME_FAULT = 10
_ALREADY_ADDED_FAULT = 90


@dataclasses.dataclass(frozen=True, slots=True)
class ProcessInfo:
    """One supervised process as the supervisor sees it."""

    name: str
    state: str
    pid: int | None
    uptime_seconds: float
    description: str


class _UnixTransport(xmlrpc.client.Transport):
    """XML-RPC over a unix socket: the supervisor listens on no port."""

    def __init__(self, path: Path, *, timeout_seconds: float) -> None:
        super().__init__()
        self._path = path
        self._timeout_seconds = timeout_seconds

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("localhost", timeout=self._timeout_seconds)
        self._connection = host, connection  # where the base class finds it to close it
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(self._timeout_seconds)
        connection.sock.connect(str(self._path))
        return connection


class Supervisor:
    """A client of one running supervisord. Every method raises ServiceUnavailable when it does not answer."""

    def __init__(self, socket_path: Path, *, timeout_seconds: float = 120.0) -> None:
        self._socket_path = socket_path
        self._timeout_seconds = timeout_seconds

    def is_up(self) -> bool:
        try:
            return bool(self._call("supervisor.getState")["statename"] == "RUNNING")
        except ServiceUnavailable:
            return False

    def pid(self) -> int:
        return int(self._call("supervisor.getPID"))

    def processes(self) -> dict[str, ProcessInfo]:
        """Return every process by name."""
        return {info["name"]: _process_info(info) for info in self._call("supervisor.getAllProcessInfo")}

    def start(self, name: str) -> None:
        """Start a program and return at once; no error if it runs already."""
        self._call("supervisor.startProcess", name, False, ignore=(_ALREADY_STARTED_FAULT,))  # noqa: FBT003 - wait=False

    def stop(self, name: str) -> None:
        """Send the stop signal and wait for the end, at most the program's stopwaitsecs; no error if it is stopped."""
        self._call("supervisor.stopProcess", name, ignore=(_NOT_RUNNING_FAULT, _BAD_NAME_FAULT))

    def update(self) -> tuple[list[str], list[str], list[str]]:
        """Read the files again and apply them; return the programs that were added, changed and removed."""
        added, changed, removed = self._call("supervisor.reloadConfig")[0]
        for name in (*changed, *removed):
            self.remove(name)
        for name in (*added, *changed):
            self.add(name)
        return list(added), list(changed), list(removed)

    def reread(self) -> None:
        """Read the files again without applying anything."""
        self._call("supervisor.reloadConfig")

    def add(self, name: str) -> None:
        self._call("supervisor.addProcessGroup", name, ignore=(_ALREADY_ADDED_FAULT,))

    def remove(self, name: str) -> None:
        """Stop a program and forget it; no error if it is unknown."""
        self.stop(name)
        self._call("supervisor.removeProcessGroup", name, ignore=(_BAD_NAME_FAULT,))

    def shutdown(self) -> None:
        self._call("supervisor.shutdown")

    def _call(self, method: str, *arguments: Any, ignore: Sequence[int] = ()) -> Any:
        transport = _UnixTransport(self._socket_path, timeout_seconds=self._timeout_seconds)
        proxy = xmlrpc.client.ServerProxy("http://localhost", transport=transport)
        try:
            function: Any = proxy
            for part in method.split("."):
                function = getattr(function, part)
            return function(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in ignore:
                return None
            raise ServiceUnavailable(
                f"{method} must succeed (got {fault.faultString}). See the supervisor's log.",
                code="SUPERVISOR_FAULT",
            ) from fault
        except (OSError, http.client.HTTPException) as error:
            raise ServiceUnavailable(
                f"the supervisor must answer on {self._socket_path} (got {error}). Run `dethrone up`.",
                code="SUPERVISOR_DOWN",
            ) from error
        finally:
            transport.close()


def start_daemon(
    layout: StackLayout, *, python: Path, environment: Mapping[str, str], timeout_seconds: float = 20
) -> None:
    """Start supervisord in the background and return when it answers.

    Raises:
        ServiceUnavailable: it ended at once or does not answer in time; the message holds what it said.
    """
    command = [str(python), "-m", "supervisor.supervisord", "-c", str(layout.supervisor_conf)]
    done = subprocess.run(  # noqa: S603 - our own interpreter and file
        command, env=dict(environment), capture_output=True, text=True, check=False, cwd=layout.home
    )
    supervisor = Supervisor(layout.socket)
    deadline = time.monotonic() + timeout_seconds
    while done.returncode == 0 and time.monotonic() < deadline:
        if supervisor.is_up():
            return
        time.sleep(0.05)
    raise ServiceUnavailable(
        f"supervisord must start (got exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-500:]}). "
        f"See {layout.log_file('supervisord')}."
    )


def _process_info(info: Mapping[str, Any]) -> ProcessInfo:
    running = info["statename"] == "RUNNING"
    return ProcessInfo(
        name=info["name"],
        state=info["statename"],
        pid=info["pid"] or None,
        uptime_seconds=float(info["now"] - info["start"]) if running else 0.0,
        description=info["spawnerr"] or info["description"],
    )
