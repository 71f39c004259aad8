"""The stack as somebody without a key sees it: every port and socket of its processes, tried, and what answers.

A port is closed when it refuses everything that is asked without a key: by 401, 403 or 404, by TLS that asks for a
certificate, by a question for the password, or by a way to the login. What each program shows to everybody on purpose
stands in `PUBLIC`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import ssl
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import httpx
import psutil

from pipeline_tasks.stack import processes
from pipeline_tasks.stack.supervisor_conf import INFERENCE_PREFIX

SECONDS = 2.0
UNASKED_SECONDS = 0.3
PAGE_SECONDS = 20.0  # a machine under load answers late: a page that is missed would count as closed
CLOSED_TLS = "TLS that asks for a certificate"
CLOSED_REDIS = "Redis that asks for a password"
CLOSED_POSTGRES = "PostgreSQL that asks for a password"
OTHERS = "airflow-task"  # of a process that the supervisor did not start itself
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS_FRAME = 4
# PostgreSQL's startup message of protocol 3.0: length, version, user and database. The answer `R` with 0 lets in.
_POSTGRES_STARTUP = bytes([0, 0, 0, 41, 0, 3, 0, 0]) + b"user\0postgres\0database\0postgres\0\0"
_POSTGRES_OPEN = b"R\0\0\0\x08\0\0\0\0"
_ZMTP_GREETING = (0xFF, 0x7F)  # first and tenth byte of what ZeroMQ says before it is asked
# Reads alone: a probe must change nothing, even where a port is open.
PATHS = (
    *("/", "/metrics", "/docs", "/docs.json", "/openapi.json", "/predict", "/status", "/stats/counter"),
    *("/cluster/status", "/dir/status", "/dir/lookup?volumeId=1", "/vol/status", "/ui/index.html", "/dethrone/"),
    *("/debug/pprof/", "/debug/vars", "/internal/targets", "/api/v2/dags", "/api/projects", "/api/users"),
    *("/v2/_catalog", "/api/v1/targets", "/api/v1/status/config", "/log/"),
)
NOWHERE = "/no-such-page-of-any-program"
_PUBLIC: Mapping[str, frozenset[str]] = {
    "gateway": frozenset({"/", "/docs", "/docs.json", "/openapi.json"}),
    "airflow-api-server": frozenset(
        {"/", "/docs", "/openapi.json"}
    ),  # the page that leads to the login, the API's text
    **dict.fromkeys(
        ("airflow-worker", "airflow-triggerer"), frozenset({"/docs", "/openapi.json"})
    ),  # of its logs' server
    "label-studio": frozenset({"/docs", "/openapi.json"}),
    "s3": frozenset({"/status"}),  # its name and version
}


@dataclasses.dataclass(frozen=True, slots=True)
class OpenPort:
    """A TCP port on which a process of the stack listens."""

    program: str
    ip: str
    port: int


@dataclasses.dataclass(frozen=True, slots=True)
class PortAnswer:
    """A port's answer to somebody without a key: the protocol, and for HTTP the status of each path."""

    protocol: str
    statuses: Mapping[str, int] = dataclasses.field(default_factory=dict)


def listeners(running: Iterable[psutil.Process]) -> tuple[OpenPort, ...]:
    """Return every TCP port that these processes listen on, with the program that the supervisor knows."""
    programs = {process.pid: _program(process) for process in running}
    listening = {OpenPort(programs[pid], ip, port) for pid, ip, port in processes.listening(programs)}
    return tuple(sorted(listening, key=lambda listener: (listener.program, listener.port, listener.ip)))


def sockets(running: Iterable[psutil.Process]) -> tuple[str, ...]:
    """Return the addresses of every UNIX socket that these processes listen on; abstract ones begin with `@`."""
    pids = {process.pid for process in running}
    paths = {
        str(connection.laddr)
        for connection in psutil.net_connections(kind="unix")
        if connection.pid in pids and connection.laddr
    }
    return tuple(sorted(address.replace("\0", "@") for address in paths))


def open_sockets(addresses: Iterable[str]) -> list[str]:
    """Return the sockets that another user could connect to."""
    return [address for address in addresses if address.startswith("@") or _writable_by_others(Path(address))]


def ask(listener: OpenPort, *, paths: Sequence[str] = PATHS) -> PortAnswer:
    """Try one port without a key."""
    unasked = _said(listener, b"", seconds=UNASKED_SECONDS)
    if unasked is None:
        return PortAnswer("closed")
    if unasked:
        return PortAnswer("ZeroMQ" if _is_zmtp(unasked) else "banner")
    said = _said(listener, _HTTP2_PREFACE, seconds=SECONDS) or b""
    if len(said) >= 9 and said[3] == _SETTINGS_FRAME:
        return PortAnswer("HTTP/2 or gRPC without TLS")
    secure = None if said.startswith(b"HTTP/") else _ask_tls(listener, paths)
    if secure is not None:
        return secure
    statuses = _statuses(listener, "http", paths)
    return PortAnswer(_ask_database(listener)) if statuses is None else PortAnswer("HTTP", statuses)


def open_to_all(program: str, answer: PortAnswer) -> str:
    """Return what is wrong with a port's answer, or nothing."""
    if answer.protocol in {"HTTP", "HTTPS"}:
        public = _PUBLIC.get(INFERENCE_PREFIX if program.startswith(INFERENCE_PREFIX) else program, frozenset())
        served = [path for path, status in answer.statuses.items() if status < 300 and path not in public]
        return f"hands out {', '.join(served)}" if served else ""
    if answer.protocol in {"closed", CLOSED_TLS, CLOSED_REDIS, CLOSED_POSTGRES}:
        return ""
    return f"speaks {answer.protocol} with everybody"


def findings(running: Sequence[psutil.Process]) -> tuple[int, list[str]]:
    """Return how many ports and sockets were tried, and a line for each that is open to all."""
    ports, unix = listeners(running), sockets(running)
    lines = [
        f"{port.program} on {port.ip}:{port.port} {wrong}"
        for port in ports
        if (wrong := open_to_all(port.program, ask(port)))
    ]
    lines += [f"socket {address} can be written by everybody" for address in open_sockets(unix)]
    return len(ports) + len(unix), lines


def _program(process: psutil.Process) -> str:
    try:
        return process.environ().get("SUPERVISOR_PROCESS_NAME") or OTHERS
    except (psutil.Error, OSError):
        return OTHERS


def _said(listener: OpenPort, data: bytes, *, seconds: float) -> bytes | None:
    """Return what the port says to these bytes; None where it takes no connection."""
    try:
        connection = socket.create_connection((listener.ip, listener.port), timeout=SECONDS)
    except OSError:
        return None
    with connection:
        connection.settimeout(seconds)
        try:
            connection.sendall(data)
            return connection.recv(64)
        except OSError:
            return b""


def _is_zmtp(data: bytes) -> bool:
    return data[0] == _ZMTP_GREETING[0] and (len(data) < 10 or data[9] == _ZMTP_GREETING[1])


def _ask_database(listener: OpenPort) -> str:
    """Return whether Redis or PostgreSQL asks for a password."""
    said = _said(listener, b"PING\r\n", seconds=SECONDS) or b""
    if said.startswith((b"-NOAUTH", b"+PONG")):
        return CLOSED_REDIS if said.startswith(b"-NOAUTH") else "Redis"
    said = _said(listener, _POSTGRES_STARTUP, seconds=SECONDS) or b""
    if said[:2] in {b"R\0", b"E\0"}:
        return "PostgreSQL" if said.startswith(_POSTGRES_OPEN) else CLOSED_POSTGRES
    return "an unknown protocol"


def _ask_tls(listener: OpenPort, paths: Sequence[str]) -> PortAnswer | None:
    """Return what a port with TLS says; None where it speaks no TLS."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    speaks, said = False, b""
    try:
        with (
            socket.create_connection((listener.ip, listener.port), timeout=SECONDS) as plain,
            context.wrap_socket(plain) as secure,
        ):
            speaks = True
            secure.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            said = secure.recv(64)  # with TLS 1.3 the missing certificate is told only now
    except OSError as error:  # TLS 1.2 and older tell it within the handshake
        speaks = speaks or "ALERT_HANDSHAKE_FAILURE" in str(error) or "CERTIFICATE_REQUIRED" in str(error)
    if not speaks:
        return None
    return PortAnswer("HTTPS", _statuses(listener, "https", paths) or {}) if said else PortAnswer(CLOSED_TLS)


def _statuses(listener: OpenPort, scheme: str, paths: Sequence[str]) -> dict[str, int] | None:
    """Return the status of each path that has one, without empty pages and those that a path that cannot exist gets.

    None where that path gets no answer.
    """
    host = f"[{listener.ip}]" if ":" in listener.ip else listener.ip
    with httpx.Client(trust_env=False, timeout=PAGE_SECONDS, verify=False) as client:  # noqa: S501
        got = {}
        for path in (NOWHERE, *paths):
            with contextlib.suppress(httpx.HTTPError):
                got[path] = client.get(f"{scheme}://{host}:{listener.port}{path}")
            if NOWHERE not in got:
                return None
    nowhere = got.pop(NOWHERE)
    return {
        path: answer.status_code
        for path, answer in got.items()
        if (answer.content or not answer.is_success)
        and (answer.status_code, answer.content) != (nowhere.status_code, nowhere.content)
    }


def _writable_by_others(path: Path) -> bool:
    """Return whether a user who is neither the owner nor of the group can reach a file and write to it."""
    try:
        return bool(path.stat().st_mode & stat.S_IWOTH) and all(
            parent.stat().st_mode & stat.S_IXOTH for parent in path.parents
        )
    except OSError:
        return False
