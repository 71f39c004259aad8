"""Closed-loop load for `benchmarks/serving.py`: N connections, each sends its next request when it has its answer.

A program of its own, so that it can be pinned to a core: reads a JSON description from stdin, prints a JSON result.
Raw HTTP/1.1 on uvloop costs about 30 us a request, a tenth of the leanest server here.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

TICKS = os.sysconf("SC_CLK_TCK")
STUCK_SECONDS = 60
CHUNKED, LAST_CHUNK = -1, b"0\r\n\r\n"


class LoadConnection(asyncio.Protocol):
    """One client: sends a request, waits for its answer, sends the next."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._buffer = b""
        self._sent_at = 0.0
        self._expected: int | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.send()

    def send(self) -> None:
        self._buffer, self._expected, self._sent_at = b"", None, time.perf_counter()
        self._transport.write(self._run.next_request())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._expected is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end].lower()
            self._status = int(head[9:12])
            start = head.find(b"content-length:")
            self._expected = end + 4 + int(head[start + 15 :].partition(b"\r\n")[0]) if start >= 0 else CHUNKED
        whole = self._buffer.endswith(LAST_CHUNK) if self._expected == CHUNKED else len(self._buffer) >= self._expected
        if whole:
            self._run.answered(self._status, time.perf_counter() - self._sent_at)
            if not self._run.stopped:
                self.send()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (the protocol's)
        if not self._run.stopped:
            self._run.lost += 1
            self._run.reconnect()


class Run:
    """State that all connections share."""

    def __init__(self, requests: list[bytes], *, port: int) -> None:
        self._requests = requests
        self._port = port
        self._choice = random.Random(0)
        self.latencies: list[float] = []
        self.statuses: dict[int, int] = {}
        self.stopped = False
        self.lost = 0

    def next_request(self) -> bytes:
        return self._choice.choice(self._requests)

    def answered(self, status: int, seconds: float) -> None:
        self.latencies.append(seconds)
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def reconnect(self) -> None:
        self._task = asyncio.ensure_future(self.connect())

    async def connect(self) -> None:
        await asyncio.get_running_loop().create_connection(lambda: LoadConnection(self), "127.0.0.1", self._port)


def tree_of(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(folder.name)] = int(fields[1])
    tree = [pid]
    for member in tree:
        tree += [child for child, parent in parents.items() if parent == member]
    return tree


def cpu_seconds(pids: list[int]) -> float:
    """Return the CPU time that the processes have used so far."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def resident_mib(pid: int) -> float:
    """Return a process's resident memory, 0 if it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def http_request(path: str, headers: dict[str, str], body: bytes) -> bytes:
    """Return a whole HTTP/1.1 request."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def drive(plan: dict[str, Any]) -> dict[str, Any]:
    """Warm up, measure one window, and return what was seen in it."""
    requests = [
        http_request(plan["path"], request["headers"], base64.b64decode(request["body"]))
        for request in plan["requests"]
    ]
    run = Run(requests, port=plan["port"])
    await asyncio.gather(*(run.connect() for _ in range(plan["concurrency"])))
    await asyncio.sleep(plan["warm_seconds"])
    pids = tree_of(plan["pid"])
    run.latencies.clear()
    run.statuses.clear()
    cpu, began = cpu_seconds(pids), time.perf_counter()
    await asyncio.sleep(plan["seconds"])
    elapsed, cpu = time.perf_counter() - began, cpu_seconds(pids) - cpu
    run.stopped = True
    latencies = sorted(run.latencies)
    count = run.statuses.get(200, 0)
    return {
        "answers": count,
        "others": {str(status): number for status, number in run.statuses.items() if status != 200},
        "lost": run.lost,
        "per_second": count / elapsed,
        "cpu_seconds": cpu,
        "p50_ms": 1000 * latencies[len(latencies) // 2] if latencies else None,
        "p99_ms": 1000 * latencies[int(len(latencies) * 0.99)] if latencies else None,
    }


def main() -> None:
    plan = json.load(sys.stdin)
    result = uvloop.run(asyncio.wait_for(drive(plan), plan["seconds"] + plan["warm_seconds"] + STUCK_SECONDS))
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
