"""`dethrone up` and `down`: effects in order, safe to interrupt, to repeat and to run twice at once."""

from __future__ import annotations

import dataclasses
import fcntl
import getpass
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline_tasks.errors import ConfigError, ServiceUnavailable
from pipeline_tasks.stack import addresses, airflow_setup, health, processes, programs, s3_setup
from pipeline_tasks.stack.layout import StackLayout, source_root
from pipeline_tasks.stack.logs import log_tail
from pipeline_tasks.stack.secret_files import ensure_secrets, write_private
from pipeline_tasks.stack.supervisor_conf import INFERENCE_PREFIX, Program, render_program, render_supervisord
from pipeline_tasks.stack.supervisord import RUNNING_STATES, Supervisor, start_daemon

POLL_SECONDS = 0.2
DEFAULT_TIMEOUT_SECONDS = 600.0  # 40 s are enough on two idle cores; a part that has died is told at once
MAX_STARTS = 3  # a program that ended this often while it was waited for will not come up by waiting longer
AIRFLOW_PROGRAMS = tuple(f"airflow-{part}" for part in programs.AIRFLOW_PARTS)
# Which ports are busy because this program of ours holds them.
PORTS_OF: Mapping[str, tuple[str, ...]] = {
    "s3": tuple(name for name in addresses.DEFAULT_PORTS if name == "s3" or name.startswith("s3_")),
    "label-studio": ("label_studio",),
    "airflow-api-server": ("airflow",),
    "gateway": ("gateway",),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened while the stack starts or stops."""

    part: str
    state: str  # starting | ready | note | failed | stopped
    detail: str = ""
    seconds: float = 0.0


OnEvent = Callable[[Event], None]


@dataclasses.dataclass(frozen=True, slots=True)
class UpReport:
    """What `up` found and did: the content of `stack.json`, moved ports and seconds until each part was ready."""

    stack: Mapping[str, Any]
    moved: Mapping[str, tuple[int, int]]
    seconds: Mapping[str, float]
    leftovers_ended: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class _Start:
    """What the starting threads share."""

    layout: StackLayout
    supervisor: Supervisor
    ports: Mapping[str, int]
    secrets: Mapping[str, str] = dataclasses.field(repr=False)
    environment: Mapping[str, str] = dataclasses.field(repr=False)
    bin_dir: Path
    on_event: OnEvent
    timeout_seconds: float
    cancel: threading.Event


def ignore_event(event: Event) -> None:
    """Do nothing with an event."""
    del event


def up(
    home: Path,
    *,
    projects_dir: Path,
    environment: Mapping[str, str],
    root: Path | None = None,
    on_event: OnEvent = ignore_event,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
) -> UpReport:
    """Start what is not running and return when every part is healthy.

    Raises:
        ConfigError: no free port, or a path that cannot be used.
        ServiceUnavailable: a part did not become healthy; the message holds its last log lines.
    """
    layout = StackLayout(home=home.resolve(), root=root or source_root())
    layout.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with exclusive(layout, on_event=on_event):
        start, moved, ended = _prepare(
            layout, projects_dir=projects_dir.resolve(), environment=environment, on_event=on_event,
            timeout_seconds=timeout_seconds,
        )  # fmt: skip
        seconds = _start_all(start)
        return UpReport(
            stack=addresses.read_stack(layout.stack_file), moved=moved, seconds=seconds, leftovers_ended=tuple(ended)
        )


def down(home: Path, *, root: Path | None = None, on_event: OnEvent = ignore_event) -> list[int]:
    """Stop everything that `up` or a deployment started here; return the pids that had to be ended without it.

    Raises:
        ServiceUnavailable: a process outlived even SIGKILL.
    """
    layout = StackLayout(home=home.resolve(), root=root or source_root())
    if not layout.home.exists():
        return []
    with exclusive(layout, on_event=on_event):
        began = time.monotonic()
        _shut_down_supervisor(layout, on_event=on_event)
        ended = processes.end_leftovers(layout.home, grace_seconds=10)
        left = [process.pid for process in processes.stack_processes(layout.home)]
        if left:
            raise ServiceUnavailable(f"every process of the stack must end (got pids {left} alive). End them by hand.")
        layout.socket.unlink(missing_ok=True)
        layout.supervisor_pid_file.unlink(missing_ok=True)
        on_event(Event("stack", "stopped", "nothing of it is left", time.monotonic() - began))
        return ended


@contextmanager
def exclusive(layout: StackLayout, *, on_event: OnEvent, timeout_seconds: float = 600.0) -> Iterator[None]:
    """Hold the one lock of this home: a second `up` or `down` waits for the first.

    Raises:
        ServiceUnavailable: it was not free in time.
    """
    descriptor = os.open(layout.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _wait_for_lock(descriptor, layout=layout, on_event=on_event, timeout_seconds=timeout_seconds)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, *, layout: StackLayout, on_event: OnEvent, timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = layout.lock_file.read_text() or "unknown"
            if time.monotonic() > deadline:
                raise ServiceUnavailable(
                    f"{layout.lock_file} must become free (got pid {holder} holding it for {timeout_seconds:.0f} s)."
                ) from None
            if not told:
                on_event(Event("stack", "note", f"another dethrone up or down is at work (pid {holder}): waiting"))
                told = True
            time.sleep(POLL_SECONDS)
        else:
            return


def _prepare(
    layout: StackLayout,
    *,
    projects_dir: Path,
    environment: Mapping[str, str],
    on_event: OnEvent,
    timeout_seconds: float,
) -> tuple[_Start, Mapping[str, tuple[int, int]], list[int]]:
    """Write every file and have a supervisor that follows them; nothing is started that was not running."""
    bin_dir = Path(sys.executable).parent
    secrets = make_folders(layout)
    supervisor = Supervisor(layout.socket)
    ended = _end_orphans(layout, supervisor, on_event=on_event)
    choice = _choose_ports(layout, supervisor, on_event=on_event)
    stack = addresses.stack_document(choice.ports, projects_dir=projects_dir, home=layout.home)
    addresses.write_stack(layout.stack_file, stack)
    airflow_setup.write_airflow_files(layout, port=choice.ports["airflow"], secrets=secrets)
    wanted = programs.stack_programs(layout, ports=choice.ports, secrets=secrets, bin_dir=bin_dir)
    write_programs(layout, tuple(program for program in wanted if _installed(program, layout=layout)))
    base = programs.base_environment(environment, layout=layout, projects_dir=projects_dir, bin_dir=bin_dir)
    if supervisor.is_up():
        supervisor.update()
    else:
        start_daemon(layout, python=bin_dir / "python", environment=base)
    start = _Start(
        layout=layout, supervisor=supervisor, ports=choice.ports, secrets=secrets, environment=base, bin_dir=bin_dir,
        on_event=on_event, timeout_seconds=timeout_seconds, cancel=threading.Event(),
    )  # fmt: skip
    return start, choice.moved, ended


def _installed(program: Program, *, layout: StackLayout) -> bool:
    return program.name != "gateway" or (layout.root / "bento_services" / "gateway" / "service.py").exists()


def make_folders(layout: StackLayout) -> dict[str, str]:
    """Make every folder, for the owner only, and every secret that has no file yet; return the secrets.

    Raises:
        ConfigError: the folder of the sockets belongs to another user.
    """
    folders = (
        layout.logs_dir, layout.supervisor_dir, layout.programs_dir, layout.runtime_dir, layout.s3_dir,
        layout.label_studio_dir, layout.airflow_home, layout.bentoml_home,
    )  # fmt: skip
    for folder in folders:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if layout.runtime_dir.stat().st_uid != os.getuid():
        raise ConfigError(
            f"{layout.runtime_dir} must belong to you (got user id {layout.runtime_dir.stat().st_uid}). "
            "Set DETHRONE_HOME to a shorter path."
        )
    return ensure_secrets(layout.secrets_dir)


def _end_orphans(layout: StackLayout, supervisor: Supervisor, *, on_event: OnEvent) -> list[int]:
    """End what a killed supervisor left behind: nothing would restart it, and it holds ports and databases."""
    if supervisor.is_up():
        return []
    ended = processes.end_leftovers(layout.home, grace_seconds=10)
    if ended:
        on_event(Event("stack", "note", f"ended {len(ended)} processes of a stack that has no supervisor any more"))
    return ended


def _choose_ports(layout: StackLayout, supervisor: Supervisor, *, on_event: OnEvent) -> addresses.PortChoice:
    remembered = addresses.read_stack(layout.stack_file).get("ports", {})
    infos = supervisor.processes() if supervisor.is_up() else {}
    held = [
        port_name
        for program, names in PORTS_OF.items()
        if program in infos and infos[program].state in RUNNING_STATES
        for port_name in names
    ]
    choice = addresses.choose_ports(remembered, held=held)
    for name, (wanted, chosen) in choice.moved.items():
        owner = processes.port_owner(wanted)
        on_event(Event(name, "note", f"port {wanted} is taken by {owner}: using {chosen}"))
    return choice


def write_programs(layout: StackLayout, wanted: tuple[Program, ...]) -> None:
    """Write the supervisor's files; programs that no longer exist lose theirs, deployments keep theirs."""
    user = getpass.getuser() if os.getuid() == 0 else None
    write_private(layout.supervisor_conf, render_supervisord(layout, user=user))
    names = {f"{program.name}.conf" for program in wanted}
    for path in layout.programs_dir.glob("*.conf"):
        if path.name not in names and not path.name.startswith(INFERENCE_PREFIX):
            path.unlink()
    for program in wanted:
        write_private(layout.program_file(program.name), render_program(program))


def _start_all(start: _Start) -> dict[str, float]:
    """Start the parts side by side; the first failure or Ctrl-C stops the waiting, not the parts."""
    jobs: dict[str, Callable[[_Start], None]] = {
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
            if (error := future.exception()) is not None and not isinstance(error, _CancelledError):
                raise error
    return seconds


class _CancelledError(Exception):
    """Another part failed, or the person pressed Ctrl-C."""


def _start_s3(start: _Start) -> None:
    start.supervisor.start("s3")
    _wait_healthy(start, "s3")
    s3_setup.check_s3(start.layout, port=start.ports["s3"], secrets=start.secrets)


def _start_label_studio(start: _Start) -> None:
    start.supervisor.start("label-studio")
    _wait_healthy(start, "label-studio")


def _start_airflow(start: _Start) -> None:
    states = start.supervisor.processes()
    if not any(states[name].state in RUNNING_STATES for name in AIRFLOW_PROGRAMS):
        start.on_event(Event("airflow", "starting", "bringing its database to this version"))
        airflow = start.bin_dir / "airflow"
        airflow_setup.migrate(start.layout, airflow=airflow, environment=start.environment, cancel=start.cancel)
    for name in (*AIRFLOW_PROGRAMS, "watchdog"):
        start.supervisor.start(name)
    for name in AIRFLOW_PROGRAMS:
        _wait_healthy(start, name)
    airflow_setup.ensure_pools(
        start.ports["airflow"], username="admin", password=start.secrets["airflow_admin_password"]
    )


def _start_gateway(start: _Start) -> None:
    if "gateway" not in start.supervisor.processes():
        start.on_event(Event("gateway", "note", "not part of this checkout"))
        return
    start.supervisor.start("gateway")
    _wait_healthy(start, "gateway")


def _wait_healthy(start: _Start, program: str) -> None:
    """Return when the program runs and answers.

    Raises:
        ServiceUnavailable: it gave up or took too long; the message holds its last log lines.
    """
    start.on_event(Event(program, "starting"))
    deadline = time.monotonic() + start.timeout_seconds
    answer = health.Health(ok=False, detail="not asked yet")
    pids: set[int] = set()
    while time.monotonic() < deadline:
        info = start.supervisor.processes()[program]
        pids |= {info.pid} if info.pid else set()
        if len(pids) > MAX_STARTS:
            raise _not_up(start, program, f"{MAX_STARTS} starts that ended by themselves")
        if info.state in {"FATAL", "EXITED", "UNKNOWN", "STOPPED"}:
            raise _not_up(start, program, f"{info.state}: {info.description}")
        if info.state == "RUNNING":
            answer = health.probe(program, ports=start.ports)
            if answer.ok and _is_own_heartbeat(answer, uptime_seconds=info.uptime_seconds):
                _check_listener(start, program)
                return
        if start.cancel.wait(POLL_SECONDS):
            raise _CancelledError
    raise _not_up(start, program, f"no health after {start.timeout_seconds:.0f} s: {answer.detail}")


def _is_own_heartbeat(answer: health.Health, *, uptime_seconds: float) -> bool:
    """Return whether the heartbeat is of this process: for 30 s the api-server also shows the one before it."""
    return answer.heartbeat_at is None or time.time() - answer.heartbeat_at.timestamp() <= uptime_seconds + 1


def _check_listener(start: _Start, program: str) -> None:
    """Refuse an answer that came from another program: Label Studio goes to the next port when its own is taken.

    Raises:
        ServiceUnavailable: who listens on the port is not of this stack.
    """
    names = PORTS_OF.get(program)
    if not names:
        return
    port = start.ports[names[0]]
    pids = {process.pid for process in processes.stack_processes(start.layout.home)}
    if port not in processes.listeners(pids):
        owner = processes.port_owner(port)
        start.supervisor.stop(program)
        raise _not_up(start, program, f"port {port} taken meanwhile by {owner}; `dethrone up` again finds another")


def _not_up(start: _Start, program: str, reason: str) -> ServiceUnavailable:
    start.on_event(Event(program, "failed", reason))
    tail = "\n".join(log_tail(start.layout.log_file(program), num_lines=15))
    return ServiceUnavailable(
        f"{program} must become healthy (got {reason}). Last lines of {start.layout.log_file(program)}:\n{tail}"
    )


def _shut_down_supervisor(layout: StackLayout, *, on_event: OnEvent) -> None:
    supervisor = Supervisor(layout.socket)
    if not supervisor.is_up():
        return
    pid = supervisor.pid()
    on_event(Event("stack", "note", "stopping"))
    supervisor.shutdown()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and any(found.pid == pid for found in processes.stack_processes(layout.home)):
        time.sleep(POLL_SECONDS)
