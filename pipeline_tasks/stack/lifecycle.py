"""`dethrone up` and `down`: effects in order, safe to interrupt, to repeat and to run twice at once."""

from __future__ import annotations

import dataclasses
import fcntl
import getpass
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline_tasks.adapters import local_ports
from pipeline_tasks.errors import ConfigError, ServiceUnavailable
from pipeline_tasks.stack import addresses, airflow_setup, processes, programs
from pipeline_tasks.stack.doctor import check_space
from pipeline_tasks.stack.events import Event, OnEvent, ignore_event
from pipeline_tasks.stack.layout import StackLayout, check_paths, source_root
from pipeline_tasks.stack.secrets import ensure_secrets, write_private
from pipeline_tasks.stack.start import POLL_SECONDS, PORTS_OF, PortTaken, Start, start_all
from pipeline_tasks.stack.supervisor_conf import (
    INFERENCE_PREFIX,
    Program,
    model_ports,
    model_programs,
    read_command,
    read_port,
    render_program,
    render_supervisord,
    with_command,
)
from pipeline_tasks.stack.supervisord import RUNNING_STATES, Supervisor, start_daemon

__all__ = ["Event", "OnEvent", "UpReport", "down", "ignore_event", "up"]

PORT_ATTEMPTS = 3
SHUTDOWN_SECONDS = 90.0  # the longest stop of one program is 40 s; on a busy machine the supervisor itself is slow
DEFAULT_TIMEOUT_SECONDS = 600.0  # 40 s are enough on two idle cores; a part that has died is told at once


@dataclasses.dataclass(frozen=True, slots=True)
class UpReport:
    """The report of `up`: the content of `stack.json`, moved ports and seconds until each part was ready."""

    stack: Mapping[str, Any]
    moved: Mapping[str, tuple[int, int]]
    seconds: Mapping[str, float]
    leftovers_ended: tuple[int, ...] = ()


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
    check_paths(layout)
    layout.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    space = check_space(shutil.disk_usage(layout.home).free)
    if not space.ok:
        on_event(Event("stack", "note", f"{space.detail} at {layout.home}. {space.advice}"))
    with exclusive(layout, on_event=on_event):
        for attempt in range(1, PORT_ATTEMPTS + 1):
            start, moved, ended = _prepare(
                layout, projects_dir=projects_dir.resolve(), environment=environment, on_event=on_event,
                timeout_seconds=timeout_seconds,
            )  # fmt: skip
            try:
                seconds = start_all(start)
            except PortTaken as error:
                if attempt == PORT_ATTEMPTS:
                    raise
                on_event(Event("stack", "note", f"trying other ports: {error}"))
            else:
                break
        stack = addresses.read_stack(layout.stack_file)
        return UpReport(stack=stack, moved=moved, seconds=seconds, leftovers_ended=tuple(ended))


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
        shutil.rmtree(layout.runtime_dir, ignore_errors=True)  # sockets only, and perhaps outside the home
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
) -> tuple[Start, Mapping[str, tuple[int, int]], list[int]]:
    """Write every file and have a supervisor that follows them; nothing is started that was not running."""
    bin_dir = Path(sys.executable).parent
    secrets = make_folders(layout)
    supervisor = Supervisor(layout.socket)
    ended = _end_orphans(layout, supervisor, on_event=on_event)
    require_model_ports(layout, supervisor)
    choice = choose_ports(layout, supervisor, on_event=on_event)
    stack = addresses.stack_document(choice.ports, projects_dir=projects_dir, home=layout.home)
    addresses.write_stack(layout.stack_file, stack)
    airflow_setup.write_airflow_files(layout, port=choice.ports["airflow"], secrets=secrets)
    write_private(layout.s3_identities_file, programs.s3_identities(secrets))
    wanted = programs.stack_programs(layout, ports=choice.ports, secrets=secrets, bin_dir=bin_dir)
    write_programs(layout, tuple(program for program in wanted if _installed(program, layout=layout)))
    base = programs.base_environment(environment, layout=layout, projects_dir=projects_dir, bin_dir=bin_dir)
    if supervisor.is_up():
        supervisor.update()
    else:
        start_daemon(layout, python=bin_dir / "python", environment=base)
    start = Start(
        layout=layout, supervisor=supervisor, ports=choice.ports, secrets=secrets, environment=base, bin_dir=bin_dir,
        on_event=on_event, timeout_seconds=timeout_seconds, cancel=threading.Event(),
    )  # fmt: skip
    return start, choice.moved, ended


def _installed(program: Program, *, layout: StackLayout) -> bool:
    return program.name != "gateway" or (layout.root / "bento_services" / "gateway" / "server.py").exists()


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


def require_model_ports(layout: StackLayout, supervisor: Supervisor) -> None:
    """Refuse a start beside a program that listens where a model's server belongs: the gateway would ask that program.

    Raises:
        ServiceUnavailable: MODEL_PORT_TAKEN.
    """
    infos = supervisor.processes() if supervisor.is_up() else {}
    for name, port in model_ports(layout.programs_dir).items():
        if name not in infos and not local_ports.port_is_free(port):
            raise ServiceUnavailable(
                f"port {port} must be free for {name}, since the route names it "
                f"(got {processes.port_owner(port)} there). Stop that program, then run `dethrone up` again.",
                code="MODEL_PORT_TAKEN",
            )


def choose_ports(layout: StackLayout, supervisor: Supervisor, *, on_event: OnEvent) -> addresses.PortChoice:
    """Pick the ports of this start and say which were taken, by whom, and what is used instead."""
    remembered = addresses.read_stack(layout.stack_file).get("ports", {})
    infos = supervisor.processes() if supervisor.is_up() else {}
    held = [
        port_name
        for program, names in PORTS_OF.items()
        if program in infos and infos[program].state in RUNNING_STATES
        for port_name in names
    ]
    choice = addresses.choose_ports(remembered, held=held, is_free=local_ports.port_is_free)
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
    _renew_servers(layout)


def _renew_servers(layout: StackLayout) -> None:
    """Have deployments of an earlier version start without the process manager and its open ports."""
    for path in model_programs(layout.programs_dir):
        words = read_command(path)
        if words[1:2] != ("serve",):
            continue
        service, host = words[2], words[words.index("--host") + 1]
        command = programs.serve_command(service, layout=layout, port=read_port(path), host=host)
        write_private(path, with_command(path.read_text(), command))


def _shut_down_supervisor(layout: StackLayout, *, on_event: OnEvent) -> None:
    supervisor = Supervisor(layout.socket)
    if not supervisor.is_up():
        return
    pid = supervisor.pid()
    on_event(Event("stack", "note", "stopping"))
    supervisor.shutdown()
    deadline = time.monotonic() + SHUTDOWN_SECONDS
    while time.monotonic() < deadline and any(process.pid == pid for process in processes.stack_processes(layout.home)):
        time.sleep(POLL_SECONDS)
