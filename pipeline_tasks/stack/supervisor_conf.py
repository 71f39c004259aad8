"""The supervisor's configuration as text: pure functions from programs to ini files."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline_tasks.errors import ConfigError
from pipeline_tasks.stack.layout import StackLayout

MARKER = "DETHRONE_STACK"  # in the environment of every process of the stack: how `down` finds them
INFERENCE_PREFIX = "inference-"  # programs that come and go with deployments; their files outlive `down`
_UNSAFE = re.compile(r"[\n\r\0]|\s[;#]")


@dataclasses.dataclass(frozen=True, slots=True)
class Program:
    """One supervised process: what to run, and how it starts and stops."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = dataclasses.field(repr=False)
    directory: Path
    log_file: Path
    autostart: bool = False
    stop_wait_seconds: int = 10
    stop_signal: str = "TERM"
    start_seconds: int = 1
    priority: int = 100


def render_program(program: Program) -> str:
    """Return the `[program:...]` section.

    Raises:
        ConfigError: a value cannot be written in the supervisor's format (line break, ` ;`, ` #`, two kinds of quotes).
    """
    environment = ",".join(f"{key}={_quoted(key, value)}" for key, value in sorted(program.environment.items()))
    lines = {
        "command": shlex.join(program.command),
        "directory": str(program.directory),
        "autostart": str(program.autostart).lower(),
        "autorestart": "true",
        "startsecs": str(program.start_seconds),
        "startretries": "20",
        "stopsignal": program.stop_signal,
        "stopwaitsecs": str(program.stop_wait_seconds),
        "stopasgroup": "true",
        "killasgroup": "true",
        "priority": str(program.priority),
        "stdout_logfile": str(program.log_file).replace("%", "%%"),  # the supervisor expands this one twice
        "stdout_logfile_maxbytes": "10MB",
        "stdout_logfile_backups": "3",
        "redirect_stderr": "true",
    }
    body = "".join(f"{key}={_plain(key, value)}\n" for key, value in lines.items())
    return f"[program:{program.name}]\n{body}environment={environment}\n"


def render_supervisord(layout: StackLayout, *, user: str | None) -> str:
    """Return the main file; `user` names the account to stay under when started by root, which is asked for there."""
    account = f"user={_plain('user', user)}\n" if user else ""
    return (
        f"[unix_http_server]\nfile={_plain('file', str(layout.socket))}\nchmod=0700\n\n"
        f"[supervisord]\nlogfile={_plain('logfile', str(layout.log_file('supervisord')))}\n"
        f"logfile_maxbytes=10MB\nlogfile_backups=2\npidfile={_plain('pidfile', str(layout.supervisor_pid_file))}\n"
        f"directory={_plain('directory', str(layout.home))}\nidentifier=dethrone\numask=077\nstrip_ansi=true\n"
        f"{account}\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\n"
        f"[supervisorctl]\nserverurl=unix://{_plain('serverurl', str(layout.socket))}\n\n"
        # Relative to this file: the supervisor splits the list of patterns at blanks.
        f"[include]\nfiles={layout.programs_dir.name}/*.conf\n"
    )


def model_programs(programs_dir: Path) -> list[Path]:
    """Return the files of the models' servers, which come and go with releases."""
    return sorted(programs_dir.glob(f"{INFERENCE_PREFIX}*.conf"))


def model_ports(programs_dir: Path) -> dict[str, int]:
    """Return the port of each model's server by the name of its program; ConfigError as `read_port`."""
    return {path.stem: read_port(path) for path in model_programs(programs_dir)}


def read_port(path: Path) -> int:
    """Return the port in a program's file: the word after `--port` of its command.

    Raises:
        ConfigError: the file is missing or names no port.
    """
    words = read_command(path)
    for flag, value in itertools.pairwise(words):
        if flag == "--port" and value.isdigit():
            return int(value)
    raise ConfigError(
        f"{path} must name a port after --port (got {shlex.join(words)!r}). Stop and start the deployment."
    )


def read_command(path: Path) -> tuple[str, ...]:
    """Return the words of the command in a program's file; none of a file that is missing."""
    return tuple(shlex.split(_read_value(path, "command").replace("%%", "%")))


def with_command(text: str, command: Sequence[str]) -> str:
    """Return a program's file with another command, and everything else as it was."""
    line = f"command={_plain('command', shlex.join(command))}"
    return "".join(f"{line}\n" if old.startswith("command=") else f"{old}\n" for old in text.splitlines())


def _read_value(path: Path, key: str) -> str:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        lines = []
    return next((line.partition("=")[2] for line in lines if line.startswith(f"{key}=")), "")


def _plain(key: str, value: str) -> str:
    if _UNSAFE.search(value):
        raise ConfigError(f"{key} must have no line break and no ` ;` or ` #` (got {value!r}). Use another path.")
    return value.replace("%", "%%")


def _quoted(key: str, value: str) -> str:
    """Quote a value the way the supervisor reads it: it strips quotes and knows no escapes."""
    quote = "'" if '"' in value else '"'
    if _UNSAFE.search(value) or quote in value or value != value.strip("'\""):
        raise ConfigError(
            f"{key} must have no line break, no ` ;` or ` #`, no quotes at its ends and one kind of quotes inside "
            f"(got a value of {len(value)} characters). Change the variable, or unset it."
        )
    return f"{quote}{value.replace('%', '%%')}{quote}"
