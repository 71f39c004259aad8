"""Ports and addresses of servers on this machine."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable

from pipeline_tasks.errors import ConfigError

LOOPBACK = "127.0.0.1"
LAST_PORT = 32767


def port_is_free(port: int, *, host: str = LOOPBACK) -> bool:
    """Return whether a server could listen on this port of an address of this machine now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def next_free_port(wanted: int, *, avoid: Iterable[int], is_free: Callable[[int], bool] = port_is_free) -> int:
    """Return the wanted port or the first free one above it, never one of those to avoid.

    Raises:
        ConfigError: every port from there up to 32767 is taken.
    """
    taken = set(avoid)
    for port in range(wanted, LAST_PORT + 1):
        if port not in taken and is_free(port):
            return port
    raise ConfigError(
        f"port must be a free one from {wanted} to {LAST_PORT} (got none). Stop a program that listens there."
    )


def address(port: int, *, host: str = LOOPBACK) -> str:
    """Return the address of a server on this machine."""
    return f"http://{host}:{port}"
