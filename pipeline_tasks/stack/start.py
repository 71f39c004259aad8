"""Starting the parts side by side, and waiting until each one is healthy."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path

import httpx
import tenacity
from botocore.exceptions import BotoCoreError, ClientError

from pipeline_tasks.adapters import http_health, local_ports
from pipeline_tasks.errors import ServiceUnavailable
from pipeline_tasks.stack import addresses, airflow_setup, health, label_studio_setup, processes, programs, s3_setup
from pipeline_tasks.stack.events import Event, OnEvent, StartCancelled
from pipeline_tasks.stack.layout import StackLayout
from pipeline_tasks.stack.logs import log_tail
from pipeline_tasks.stack.supervisord import GAVE_UP_STATES, RUNNING_STATES, Supervisor

POLL_SECONDS = 0.2
SETUP_PAUSE_SECONDS = 1.0
PORT_CHECK_SECONDS = 2.0
MAX_STARTS = 3  # a program that ended this often while it was waited for will not come up by waiting longer
AIRFLOW_PROGRAMS = tuple(f"airflow-{part}" for part in programs.AIRFLOW_PARTS)
# Which ports are busy because this program of ours holds them.
PORTS_OF: Mapping[str, tuple[str, ...]] = {
    "s3": tuple(name for name in addresses.DEFAULT_PORTS if name == "s3" or name.startswith("s3_")),
    "label-studio": ("label_studio",),
    "airflow-api-server": ("airflow",),
    "gateway": ("gateway",),
}


class PortTaken(ServiceUnavailable):
    """Another program took a port between its choice and its use: another choice helps."""

    code = "PORT_TAKEN"


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """State that the starting threads share."""

    layout: StackLayout
    supervisor: Supervisor
    ports: Mapping[str, int]
    secrets: Mapping[str, str] = dataclasses.field(repr=False)
    environment: Mapping[str, str] = dataclasses.field(repr=False)
    bin_dir: Path
    on_event: OnEvent
    timeout_seconds: float
    cancel: threading.Event


def start_all(start: Start) -> dict[str, float]:
    """Start the parts side by side; the first failure or Ctrl-C stops the waiting, not the parts."""
    jobs: dict[str, Callable[[Start], None]] = {
        "s3": _start_s3, "label-studio": _start_label_studio, "airflow": _start_airflow, "gateway": _start_gateway,
    }  # fmt: skip
    seconds: dict[str, float] = {}

    def timed(part: str) -> None:
        began = time.monotonic()
        jobs[part](start)
        seconds[part] = time.monotonic() - began
        start.on_event(Event(part, "ready", seconds=seconds[part]))

    with ThreadPoolExecutor(max_workers=len(jobs)) as pool:
        futures: list[Future[None]] = [pool.submit(timed, part) for part in jobs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            start.cancel.set()  # without effect on those that are done
        for future in futures:
            if (error := future.exception()) is not None and not isinstance(error, StartCancelled):
                raise error
    return seconds


def _start_s3(start: Start) -> None:
    start.supervisor.start("s3")
    wait_healthy(start, "s3")
    despite_restarts(start, lambda: s3_setup.check_s3(start.layout, port=start.ports["s3"], secrets=start.secrets))


def _start_label_studio(start: Start) -> None:
    if start.supervisor.processes()["label-studio"].state not in RUNNING_STATES:
        label_studio_setup.prepare_database(start.layout)
    start.supervisor.start("label-studio")
    wait_healthy(start, "label-studio")
    port, token = start.ports["label_studio"], start.secrets["label_studio_token"]
    despite_restarts(start, lambda: label_studio_setup.confirm_token(start.layout, port=port, token=token))


def _start_airflow(start: Start) -> None:
    states = start.supervisor.processes()
    if not any(states[name].state in RUNNING_STATES for name in AIRFLOW_PROGRAMS):
        start.on_event(Event("airflow", "starting", "bringing its database to this version"))
        airflow = start.bin_dir / "airflow"
        airflow_setup.migrate(start.layout, airflow=airflow, environment=start.environment, cancel=start.cancel)
    for name in (*AIRFLOW_PROGRAMS, "watchdog"):
        start.supervisor.start(name)
    for name in AIRFLOW_PROGRAMS:
        wait_healthy(start, name)
    port, password = start.ports["airflow"], start.secrets["airflow_admin_password"]
    despite_restarts(start, lambda: airflow_setup.ensure_pools(port, username="admin", password=password))


def _start_gateway(start: Start) -> None:
    if "gateway" not in start.supervisor.processes():
        start.on_event(Event("gateway", "note", "not part of this checkout"))
        return
    start.supervisor.start("gateway")
    wait_healthy(start, "gateway")


def despite_restarts(start: Start, step: Callable[[], object]) -> None:
    """Run one setup step of a healthy program, again while it fails as a program does that just starts once more.

    That is a lost connection or an answer of 500 or above; a refusal (4xx) is final.

    Raises:
        StartCancelled: another part failed meanwhile.
        Exception: the step's own error, when it is final or `timeout_seconds` have passed.
    """
    tries = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_may_pass),
        stop=tenacity.stop_after_delay(start.timeout_seconds) | tenacity.stop_when_event_set(start.cancel),
        wait=tenacity.wait_fixed(SETUP_PAUSE_SECONDS),
        sleep=tenacity.sleep_using_event(start.cancel),
        reraise=True,
    )
    try:
        tries(step)
    except ServiceUnavailable as error:
        if start.cancel.is_set() and _may_pass(error):
            raise StartCancelled from error
        raise


def _may_pass(error: BaseException) -> bool:
    cause = error.__cause__ or error
    if isinstance(cause, httpx.HTTPStatusError):
        return cause.response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR
    if isinstance(cause, ClientError):
        status = int(cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return status >= httpx.codes.INTERNAL_SERVER_ERROR
    return isinstance(cause, httpx.TransportError | BotoCoreError)


def wait_healthy(start: Start, program: str) -> None:
    """Return when the program runs and answers.

    Raises:
        ServiceUnavailable: it gave up or took too long; the message holds its last log lines.
        PortTaken: another program listens on one of its ports.
        StartCancelled: another part failed meanwhile.
    """
    start.on_event(Event(program, "starting"))
    deadline = time.monotonic() + start.timeout_seconds
    answer = http_health.Health(ok=False, detail="not asked yet")
    pids: set[int] = set()
    look_at_ports = time.monotonic() + PORT_CHECK_SECONDS
    while time.monotonic() < deadline:
        info = start.supervisor.processes()[program]
        pids |= {info.pid} if info.pid else set()
        if len(pids) > MAX_STARTS:
            _check_ports(start, program)
            raise _not_up(start, program, f"{MAX_STARTS} starts that ended by themselves")
        if info.state in GAVE_UP_STATES:
            _check_ports(start, program)
            raise _not_up(start, program, f"{info.state}: {info.description}")
        if info.state == "RUNNING":
            answer = health.probe(program, ports=start.ports)
        if time.monotonic() >= look_at_ports or answer.ok:
            _check_ports(start, program)
            look_at_ports = time.monotonic() + PORT_CHECK_SECONDS
        if info.state == "RUNNING" and answer.ok and _is_own_heartbeat(answer, uptime_seconds=info.uptime_seconds):
            return
        if start.cancel.wait(POLL_SECONDS):
            raise StartCancelled
    raise _not_up(start, program, f"no health after {start.timeout_seconds:.0f} s: {answer.detail}")


def _is_own_heartbeat(answer: http_health.Health, *, uptime_seconds: float) -> bool:
    """Return whether the heartbeat is of this process: for 30 s the api-server also shows the one before it."""
    return answer.heartbeat_at is None or time.time() - answer.heartbeat_at.timestamp() <= uptime_seconds + 1


def _check_ports(start: Start, program: str) -> None:
    """Refuse to wait for, or to believe, another program that took one of this program's ports meanwhile.

    Label Studio then goes to the next port without a word; the others end.

    Raises:
        PortTaken: who listens there is not of this stack; the program is stopped.
    """
    busy = [port for name in PORTS_OF.get(program, ()) if not local_ports.port_is_free(port := start.ports[name])]
    if not busy:
        return
    ours = processes.listeners({process.pid for process in processes.stack_processes(start.layout.home)})
    taken = [port for port in busy if port not in ours and not local_ports.port_is_free(port)]
    if taken:
        start.supervisor.stop(program)
        raise PortTaken(
            f"port {taken[0]} must stay free for {program} (got {processes.port_owner(taken[0])}, which took it "
            "while the stack started). Run `dethrone up` again: it finds another."
        )


def _not_up(start: Start, program: str, reason: str) -> ServiceUnavailable:
    start.on_event(Event(program, "failed", reason))
    tail = "\n".join(log_tail(start.layout.log_file(program), num_lines=15))
    return ServiceUnavailable(
        f"{program} must become healthy (got {reason}). Last lines of {start.layout.log_file(program)}:\n{tail}"
    )
