"""A network of machines on one kernel: a bridge without NAT, and a network namespace with an address for each machine.

Nothing routes out of it, and no machine has another's loopback: what a machine reaches, it reaches over the bridge.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

LOOPBACK = "127.0.0.1"
NAMES = re.compile(r"dn(\d+)(?:m\d+)?")  # dn<process id>: the bridge; dn<process id>m<number>: a machine
PROBE = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"


class CannotMakeNetwork(Exception):
    """Names what is missing."""


@dataclasses.dataclass(frozen=True)
class Namespace:
    """One machine's end of the network; `name` is that of the namespace and of its link on the bridge."""

    name: str
    address: str

    @property
    def inside(self) -> tuple[str, ...]:
        """The words before a command that make it run in this namespace."""
        return ("ip", "netns", "exec", self.name)

    def reaches(self, host: str, port: int) -> bool:
        """Return whether a connection from in here comes about."""
        done = subprocess.run(
            [*self.inside, sys.executable, "-c", PROBE, host, str(port)], capture_output=True, check=False
        )
        return done.returncode == 0

    def unplug(self) -> None:
        """Take the machine off the network as a cut cable does: nobody is told."""
        _ip("link", "set", self.name, "down")

    def kill(self) -> None:
        """End every process in here."""
        for pid in _ip("netns", "pids", self.name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


@dataclasses.dataclass(frozen=True)
class Network:
    """The bridge's own address, where the shared services are, and the machines."""

    address: str
    machines: tuple[Namespace, ...]


@contextlib.contextmanager
def network(num_machines: int) -> Iterator[Network]:
    """Make a network, and remove it whatever happens, with all that still runs in it.

    Raises:
        CannotMakeNetwork: a program, a right or a part of the kernel is missing.
    """
    if os.getuid() != 0:
        raise CannotMakeNetwork("network namespaces take root")
    if shutil.which("ip") is None:
        raise CannotMakeNetwork("ip (iproute2) is not installed")
    remove_leftovers()
    bridge, subnet = f"dn{os.getpid()}", f"198.18.{os.getpid() % 250}"
    machines = tuple(
        Namespace(f"{bridge}m{number}", f"{subnet}.{10 + number}") for number in range(1, num_machines + 1)
    )
    try:
        try:
            _ip("link", "add", bridge, "type", "bridge")
            _ip("addr", "add", f"{subnet}.1/24", "dev", bridge)
            _ip("link", "set", bridge, "up")
            for machine in machines:
                _plug_in(machine, bridge)
        except subprocess.CalledProcessError as error:
            raise CannotMakeNetwork(f"this kernel makes none: {error.stderr.strip()}") from error
        yield Network(f"{subnet}.1", machines)
    finally:
        _remove(bridge)


def _plug_in(machine: Namespace, bridge: str) -> None:
    _ip("netns", "add", machine.name)
    _ip("link", "add", machine.name, "type", "veth", "peer", "name", "eth0", "netns", machine.name)
    _ip("link", "set", machine.name, "master", bridge, "up")
    _ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", "eth0")
    _ip("-n", machine.name, "link", "set", "eth0", "up")
    _ip("-n", machine.name, "link", "set", "lo", "up")


def remove_leftovers() -> None:
    """Remove the networks of test runs that were killed."""
    pids = {match[1] for name in _names() if (match := NAMES.fullmatch(name))}
    for pid in pids:
        if not Path(f"/proc/{pid}").exists():
            _remove(f"dn{pid}")


def _remove(bridge: str) -> None:
    """Remove a bridge and its machines, as far as they were made."""
    names = _names()
    for name in sorted(names):
        if name.startswith(f"{bridge}m"):
            with contextlib.suppress(subprocess.CalledProcessError):
                Namespace(name, "").kill()
                _ip("netns", "del", name)
                _ip("link", "del", name)  # it goes with the namespace, but later
    with contextlib.suppress(subprocess.CalledProcessError):
        _ip("link", "del", bridge)


def _names() -> set[str]:
    links = {link["ifname"] for link in json.loads(_ip("-json", "link", "show", "type", "bridge") or "[]") if link}
    spaces = {space["name"] for space in json.loads(_ip("-json", "netns", "list") or "[]")}
    return links | spaces


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


class Relay:
    """Offers ports of this machine's loopback on another of its addresses, under the same numbers."""

    def __init__(self, address: str, *ports: int) -> None:
        self._address, self._ports = address, ports
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        for port in self._ports:
            asyncio.run_coroutine_threadsafe(self._listen(port), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _listen(self, port: int) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                answers, requests = await asyncio.open_connection(LOOPBACK, port)
            except OSError:
                writer.transport.abort()
                return
            with contextlib.suppress(asyncio.CancelledError):  # in the end; asyncio would report each connection
                await asyncio.gather(_copy(reader, requests), _copy(answers, writer))

        server = await asyncio.start_server(serve, self._address, port)
        self._loop.create_task(server.serve_forever())  # cancelled in the end, which closes it


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    except OSError:
        writer.transport.abort()
    finally:
        writer.close()
