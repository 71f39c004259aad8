"""A small HTTP proxy in front of one upstream that breaks requests on purpose (S3, Label Studio, W&B, a replica).

Each connection carries one request. Which requests break is decided by fault, count, probability and a seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import socket
import struct
import threading
from typing import Literal, Self

Mode = Literal[
    "refuse",  # the connection is reset before anything is read
    "reset",  # the request is read, not executed; the connection is reset
    "blackhole",  # the request is read, not executed; no answer ever
    "latency",  # executed after `seconds`
    "http5xx",  # not executed; the answer is 503
    "slowbody",  # executed; the answer comes in pieces with a pause of `seconds`
    "truncate",  # cut after `at` bytes of the request's or the answer's body
    "corrupt",  # one bit of byte `at` of the request's or the answer's body is flipped
    "exec_then_drop",  # executed; the answer is thrown away and the connection reset
    "duplicate",  # executed twice; the second answer is given
]
PIECES = 8
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclasses.dataclass
class Fault:
    """One planned fault: the next `count` matching requests (None = all), each with a probability."""

    mode: Mode
    count: int | None = None
    probability: float = 1.0
    method: str | None = None
    path: str = ""  # a part of the path
    side: Literal["request", "answer"] = "answer"
    at: int = 0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Request:
    head: bytes
    body: bytes

    @property
    def method(self) -> str:
        return self.head.split(b" ", 1)[0].decode()

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode()


class FaultProxy:
    """Runs in a thread of its own; `log` holds (method, path, mode or None) of each request."""

    def __init__(self, upstream_host: str, upstream_port: int, *, seed: int = 0) -> None:
        self.log: list[tuple[str, str, str | None]] = []
        self._upstream = (upstream_host, upstream_port)
        self._random = random.Random(seed)
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self._server: asyncio.Server | None = None
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20))
        self.port = self._server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._server.close()
        self._loop.close()

    def _take(self, method: str, path: str, *, at_connect: bool) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                fits = fault.method in {None, method} and fault.path in path
                if fault.count == 0 or (fault.mode == "refuse") != at_connect or not fits:
                    continue
                if self._random.random() >= fault.probability:
                    continue
                if fault.count is not None:
                    fault.count -= 1
                return fault
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            if self._take("", "", at_connect=True) is not None:
                self.log.append(("", "", "refuse"))
                _reset(writer)
                return
            request = await _read_request(reader, writer)
            fault = self._take(request.method, request.path, at_connect=False)
            self.log.append((request.method, request.path, fault.mode if fault else None))
            await self._answer(request, fault, reader, writer)
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()

    async def _answer(
        self, request: _Request, fault: Fault | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        mode = fault.mode if fault else None
        if mode == "reset":
            _reset(writer)
        elif mode == "blackhole":
            await reader.read()
        elif mode == "http5xx":
            writer.write(UNAVAILABLE)
            await writer.drain()
        elif fault is not None and mode == "truncate" and fault.side == "request":
            await self._forward(dataclasses.replace(request, body=request.body[: fault.at]), whole=False)
            _reset(writer)
        else:
            await self._execute(request, fault, writer)

    async def _execute(self, request: _Request, fault: Fault | None, writer: asyncio.StreamWriter) -> None:
        mode = fault.mode if fault else None
        if fault is not None and mode == "corrupt" and fault.side == "request":
            request = dataclasses.replace(request, body=_flipped(request.body, fault.at))
        if fault is not None and mode == "latency":
            await asyncio.sleep(fault.seconds)
        answer = await self._forward(request)
        if mode == "duplicate":
            answer = await self._forward(request)
        if mode == "exec_then_drop":
            _reset(writer)
        else:
            await _send(answer, fault, writer)

    async def _forward(self, request: _Request, *, whole: bool = True) -> bytes:
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            writer.write(request.head + request.body)
            await writer.drain()
            if not whole:
                _reset(writer)
                return b""
            return await reader.read()
        finally:
            writer.close()


async def _send(answer: bytes, fault: Fault | None, writer: asyncio.StreamWriter) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    if fault is not None and fault.side == "answer" and fault.mode in {"truncate", "corrupt"}:
        if fault.mode == "truncate":
            writer.write(head + b"\r\n\r\n" + body[: fault.at])
            await writer.drain()
            return
        body = _flipped(body, fault.at)
    if fault is not None and fault.mode == "slowbody":
        writer.write(head + b"\r\n\r\n")
        size = len(body) // PIECES + 1
        for start in range(0, len(body), size):
            await asyncio.sleep(fault.seconds)
            writer.write(body[start : start + size])
            await writer.drain()
        return
    writer.write(head + b"\r\n\r\n" + body)
    await writer.drain()


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Request:
    lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
    fields = {line.split(b":", 1)[0].lower(): line.split(b":", 1)[1].strip() for line in lines[1:]}
    if fields.get(b"expect", b"").lower() == b"100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        body = await _read_chunked(reader)
    else:
        body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
    dropped = (b"expect:", b"connection:")
    kept = [lines[0], *(line for line in lines[1:] if not line.lower().startswith(dropped)), b"Connection: close"]
    return _Request(head=b"\r\n".join(kept) + b"\r\n\r\n", body=body)


async def _read_chunked(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        line = await reader.readline()
        size = int(line.split(b";")[0], 16)
        if size:
            body += line + await reader.readexactly(size + 2)
            continue
        body += line
        while (line := await reader.readline()) != b"\r\n":
            body += line
        return body + line


def _flipped(body: bytes, at: int) -> bytes:
    return body if at >= len(body) else body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
