"""The deployment target of one machine: each release is a server under the stack's supervisor."""

from __future__ import annotations

import fcntl
import functools
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline_tasks.adapters import http_health, local_ports
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.ports import ServerHandle
from pipeline_tasks.errors import ConfigError, ServiceUnavailable
from pipeline_tasks.stack.addresses import DEFAULT_PORTS
from pipeline_tasks.stack.layout import StackLayout, source_root
from pipeline_tasks.stack.logs import log_tail
from pipeline_tasks.stack.programs import serve_command
from pipeline_tasks.stack.secrets import write_private
from pipeline_tasks.stack.supervisor_conf import (
    INFERENCE_PREFIX,
    Program,
    model_ports,
    model_programs,
    read_port,
    render_program,
)
from pipeline_tasks.stack.supervisord import GAVE_UP_STATES, Supervisor

FIRST_PORT = 3000
STOP_WAIT_SECONDS = 40  # in-flight requests end within this time, then SIGKILL
MAX_STARTS = 3  # a server that ended this often while it was waited for will not become ready
_DEPLOYMENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

ServeCommand = Callable[[str, int], tuple[str, ...]]


class ProcessTarget:
    """Implements `ports.DeploymentTarget`; deployments come back after `dethrone down` and `up`.

    `host` is the address of this machine that servers listen on, and that a gateway elsewhere reaches them by; `told`
    returns what the environment of each server has beside that of its release.
    """

    def __init__(
        self,
        home: Path,
        *,
        host: str = local_ports.LOOPBACK,
        told: Callable[[], Mapping[str, str]] = dict,
        command: ServeCommand | None = None,
        poll_seconds: float = 0.1,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._layout = StackLayout(home=home.resolve(), root=source_root())
        self._supervisor = supervisor or Supervisor(self._layout.socket)
        self._host = host
        self._told = told
        self._command = command
        self._poll_seconds = poll_seconds

    def start(self, *, deployment_id: str, bento_tag: str, environment: Mapping[str, str]) -> ServerHandle:
        """Start (or adopt, by deployment id) a server; returns before it is ready.

        Raises:
            ConfigError: the id cannot name a program, or no port is free.
            ServiceUnavailable: the stack's supervisor does not answer.
        """
        name = _program_name(deployment_id)
        path = self._layout.program_file(name)
        with self._exclusive():
            port = read_port(path) if path.exists() else self._free_port()
            program = self._program(name, bento_tag=bento_tag, port=port, environment=environment)
            if not path.exists():
                write_private(path, render_program(program))
            crash_point("ship.program.after")
            self._supervisor.reread()
            self._supervisor.add(name)
            self._supervisor.start(name)
        return ServerHandle(deployment_id=deployment_id, address=local_ports.address(port, host=self._host))

    def remember(self, *, deployment_id: str, bento_tag: str, port: int, environment: Mapping[str, str]) -> None:
        """Have a server start with the next `dethrone up`, on a port that a route names already; nothing runs yet."""
        name = _program_name(deployment_id)
        program = self._program(name, bento_tag=bento_tag, port=port, environment=environment)
        with self._exclusive():
            write_private(self._layout.program_file(name), render_program(program))

    def forget(self, deployment_ids: Collection[str]) -> None:
        """Let deployments of a stack that is down not start with the next `dethrone up`."""
        with self._exclusive():
            for deployment_id in deployment_ids:
                self._layout.program_file(_program_name(deployment_id)).unlink(missing_ok=True)

    def remembered(self) -> tuple[str, ...]:
        """Return the deployments that start with the next `dethrone up`."""
        programs = model_programs(self._layout.programs_dir)
        return tuple(sorted(path.stem.removeprefix(INFERENCE_PREFIX) for path in programs))

    def is_down(self) -> bool:
        """Return whether no supervisor runs, so that nobody can be in the middle of anything."""
        return not self._supervisor.is_up()

    def wait_ready(self, deployment_id: str, *, timeout_seconds: float) -> None:
        """Return when the server says that it can predict.

        Raises:
            ServiceUnavailable: it gave up or took too long; the message holds its last log lines.
        """
        name = _program_name(deployment_id)
        url = f"{self.address(deployment_id)}/readyz"
        deadline = time.monotonic() + timeout_seconds
        reason = f"no answer in {timeout_seconds:.0f} s"
        pids: set[int] = set()
        while time.monotonic() < deadline:
            info = self._supervisor.processes().get(name)
            if info is None or info.state in GAVE_UP_STATES:
                reason = f"{info.state}: {info.description}" if info else "no such program"
                break
            pids |= {info.pid} if info.pid else set()
            if len(pids) > MAX_STARTS:
                reason = f"{MAX_STARTS} starts that ended by themselves"
                break
            if info.state == "RUNNING" and http_health.http_health(url, timeout_seconds=2).ok:
                return
            time.sleep(self._poll_seconds)
        raise ServiceUnavailable(
            f"deployment {deployment_id} must become ready (got {reason}). {self.describe(deployment_id)}",
            code="DEPLOYMENT_NOT_READY",
        )

    def stop(self, deployment_id: str) -> None:
        """SIGTERM, wait for in-flight requests, remove; no error if it is gone."""
        name = _program_name(deployment_id)
        with self._exclusive():
            self._layout.program_file(name).unlink(missing_ok=True)  # first, so that a kill here cannot revive it
        crash_point("ship.forget.after")
        self._supervisor.remove(name)

    def list(self) -> Mapping[str, str]:
        """Return deployment id -> supervisor state of everything this target runs."""
        return {
            name.removeprefix(INFERENCE_PREFIX): info.state
            for name, info in self._supervisor.processes().items()
            if name.startswith(INFERENCE_PREFIX)
        }

    def describe(self, deployment_id: str) -> str:
        """Return a server's last log lines."""
        tail = "\n".join(log_tail(self._layout.log_file(_program_name(deployment_id)), num_lines=15))
        return f"Its last log lines:\n{tail}"

    def address(self, deployment_id: str) -> str:
        """Return where a deployment listens.

        Raises:
            ConfigError: there is no such deployment.
        """
        port = read_port(self._layout.program_file(_program_name(deployment_id)))
        return local_ports.address(port, host=self._host)

    def _program(self, name: str, *, bento_tag: str, port: int, environment: Mapping[str, str]) -> Program:
        return Program(
            name=name,
            command=self._serve_command(bento_tag, port),
            environment={
                "OMP_NUM_THREADS": "1",
                "BENTOML_HOME": str(self._layout.bentoml_home),
                **self._told(),
                **environment,
            },
            directory=self._layout.bentoml_home,
            log_file=self._layout.log_file(name),
            autostart=True,  # serving needs nothing but its own disk: it comes back first
            stop_wait_seconds=STOP_WAIT_SECONDS,
            priority=5,
        )

    def _serve_command(self, bento_tag: str, port: int) -> tuple[str, ...]:
        if self._command is not None:
            return self._command(bento_tag, port)
        return serve_command(bento_tag, layout=self._layout, port=port, host=self._host)

    def _free_port(self) -> int:
        """Return a port that no deployment remembers, running or not, and nobody listens on."""
        avoid = {*model_ports(self._layout.programs_dir).values(), *DEFAULT_PORTS.values()}
        is_free = functools.partial(local_ports.port_is_free, host=self._host)
        return local_ports.next_free_port(FIRST_PORT, avoid=avoid, is_free=is_free)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Serialize port choices and file changes between the processes of this home."""
        self._layout.programs_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._layout.deploy_lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _program_name(deployment_id: str) -> str:
    if not _DEPLOYMENT_ID.fullmatch(deployment_id):
        raise ConfigError(
            f"deployment_id must be 1 to 100 letters, digits, dots, dashes or underscores (got {deployment_id!r})."
        )
    return f"{INFERENCE_PREFIX}{deployment_id}"
