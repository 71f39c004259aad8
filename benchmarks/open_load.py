"""Open-loop load for `benchmarks/overload.py`: Poisson arrivals that wait for nobody, in phases of a rate each.

A program of its own, so that it can be pinned to a core: reads a JSON plan from stdin, prints a JSON result. A request
takes an idle connection or opens one, as independent callers do; its latency counts from when it was due, so that a
generator that falls behind is seen and not hidden. It costs about 50 us a request, which `generator_cpu` tells.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import random
import sys
import time
from typing import Any

import uvloop
from serving_load import http_request, resident_mib, tree_of

SAMPLE_SECONDS = 0.5
GIVE_UP_SECONDS = 5.0  # after the end of a phase
MAX_CONNECTIONS = 8000


@dataclasses.dataclass(slots=True)
class Asked:
    """One request: when it was due, when it was answered (seconds of the monotonic clock), and how (0: not at all)."""

    due: float
    answered: float = 0.0
    status: int = 0


class OpenConnection(asyncio.Protocol):
    """One caller's connection: a request at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._buffer = b""
        self._asked: Asked | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def send(self, asked: Asked, request: bytes) -> None:
        self._asked, self._buffer = asked, b""
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._asked is None:
            return
        head = self._buffer[:end].lower()
        start = head.find(b"content-length:") + 15
        if len(self._buffer) < end + 4 + int(head[start:].partition(b"\r\n")[0]):
            return
        self._asked.status, self._asked.answered = int(head[9:12]), time.monotonic()
        self._asked = None
        if b"connection: close" not in head:
            self._pool.idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (the protocol's)
        self._pool.num_connections -= 1
        if self in self._pool.idle:
            self._pool.idle.remove(self)


class Pool:
    """The connections to one server."""

    def __init__(self, *, port: int) -> None:
        self._port = port
        self.idle: list[OpenConnection] = []
        self.num_connections = 0
        self.most_connections = 0

    async def open(self, asked: Asked, request: bytes) -> None:
        """Send a request on a new connection; without one it stays unanswered."""
        self.num_connections += 1
        self.most_connections = max(self.most_connections, self.num_connections)
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: OpenConnection(self), "127.0.0.1", self._port)
        except OSError:
            self.num_connections -= 1
            return
        connection.send(asked, request)


async def phase(
    pool: Pool, requests: list[bytes], *, rate: float, seconds: float, choose: random.Random
) -> list[Asked]:
    """Send requests at a mean rate per second, whatever becomes of them."""
    sent: list[Asked] = []
    tasks: set[asyncio.Task[None]] = set()
    began = due = time.monotonic()
    while due - began < seconds:
        now = time.monotonic()
        while due <= now and due - began < seconds:
            asked = Asked(due)
            sent.append(asked)
            if pool.idle:
                pool.idle.pop().send(asked, choose.choice(requests))
            elif pool.num_connections < MAX_CONNECTIONS:
                task = asyncio.ensure_future(pool.open(asked, choose.choice(requests)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            due += choose.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    return sent


async def watch(pids: list[int], samples: list[float]) -> None:
    """Note the server's memory again and again."""
    while True:
        samples.append(round(sum(resident_mib(pid) for pid in pids), 1))
        await asyncio.sleep(SAMPLE_SECONDS)


async def drive(plan: dict[str, Any]) -> dict[str, Any]:
    """Run the phases one right after the other and return what was seen in each."""
    requests = [
        http_request(plan["path"], request["headers"], base64.b64decode(request["body"]))
        for request in plan["requests"]
    ]
    pool, choose, phases = Pool(port=plan["port"]), random.Random(0), []
    for each_phase in plan["phases"]:
        memory: list[float] = []
        watching = asyncio.ensure_future(watch(tree_of(plan["pid"]), memory))
        cpu, began = time.process_time(), time.monotonic()
        sent = await phase(pool, requests, rate=each_phase["rate"], seconds=each_phase["seconds"], choose=choose)
        share = (time.process_time() - cpu) / (time.monotonic() - began)
        watching.cancel()
        phases.append({"began": began, "sent": sent, "memory_mib": memory, "generator_cpu": share})
    await asyncio.sleep(GIVE_UP_SECONDS)
    return {"phases": [told(each_phase) for each_phase in phases], "most_connections": pool.most_connections}


def told(driven: dict[str, Any]) -> dict[str, Any]:
    """Return a phase as JSON has it: [second within the phase, status, latency in seconds] of each request."""
    asked = [
        [round(each.due - driven["began"], 4), each.status, round(each.answered - each.due, 5)]
        for each in driven["sent"]
    ]
    return {**driven, "sent": asked}


def main() -> None:
    sys.stdout.write(json.dumps(uvloop.run(drive(json.load(sys.stdin)))) + "\n")


if __name__ == "__main__":
    main()
