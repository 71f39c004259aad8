"""Requests of callers, byte by byte, and the gateway's HTTP server to send them to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

from bento_services.gateway.server import server_of
from tests.services import free_ports, wait_until

H2C = (
    b"Connection: Upgrade, HTTP2-Settings\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n"
)
WEBSOCKET = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@contextlib.contextmanager
def serving(app, **bounds):
    """Serve an application behind the gateway's HTTP server, in a thread; yields the port."""
    with running(app, **bounds) as (port, _):
        yield port


@contextlib.contextmanager
def running(app, *, head_seconds=10.0, max_connections=500):
    """Do it; yields the port, and a function that tells the server to end."""
    (port,) = free_ports(1)
    server = server_of(app, "127.0.0.1", port, head_seconds=head_seconds, max_connections=max_connections)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=run, args=(server, loop), daemon=True)
    thread.start()
    try:
        wait_until(lambda: listens(port), timeout_seconds=10, what="the server")
        yield port, lambda: loop.call_soon_threadsafe(server.stop)
    finally:
        with contextlib.suppress(RuntimeError):  # it has ended
            loop.call_soon_threadsafe(server.stop)
        thread.join(timeout=15)


def run(server, loop):
    """Serve in this thread until told to end; who does not finish is waited for, for a moment."""

    async def bounded():
        await asyncio.wait({loop.create_task(server.serve())}, timeout=3600)

    asyncio.set_event_loop(loop)
    loop.run_until_complete(bounded())
    loop.close()


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ask(port: int, *pieces: bytes, seconds: float = 5.0, num_answers: int = 0) -> bytes:
    """Send pieces, each in a read of its own, and return what comes until there are so many answers, or the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        got = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
                if piece is not pieces[-1]:
                    threading.Event().wait(0.1)
            while not num_answers or num_whole(got) < num_answers:
                chunk = connection.recv(65536)
                if not chunk:
                    break
                got += chunk
        return got


def num_whole(got: bytes) -> int:
    """Return how many whole answers with a length these bytes hold."""
    count = 0
    while b"\r\n\r\n" in got:
        head, _, rest = got.partition(b"\r\n\r\n")
        sizes = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        size = int(sizes[0]) if sizes else 0
        if len(rest) < size:
            break
        count, got = count + (not head.startswith(b"HTTP/1.1 100")), rest[size:]
    return count


def chunks(body: bytes, *, size: int = 1 << 16) -> bytes:
    """Return a body in chunks."""
    cut = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in cut) + b"0\r\n\r\n"
