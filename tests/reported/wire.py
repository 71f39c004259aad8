"""Requests of callers, byte by byte, and a server of the gateway's or of the inference service's kind to send it to."""

from __future__ import annotations

import contextlib
import socket
import threading

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bento_services.http_server.admission import door
from bento_services.http_server.connection_limits import BoundedHeads
from tests.services import wait_until

H2C = (
    b"Connection: Upgrade, HTTP2-Settings\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n"
)
WEBSOCKET = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@contextlib.contextmanager
def serving(app, *, refusal=None, **bounds):
    """Serve an application behind the protocol that both services put before theirs; yields the port."""
    bounded = type("Bounded", (BoundedHeads, HttpToolsProtocol), bounds)
    config = uvicorn.Config(
        app, port=0, http=door(lambda *_: refusal, bounded), ws="none", log_config=None, lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, timeout_seconds=10, what="the server")
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(timeout=10)


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
    found = 0
    while b"\r\n\r\n" in got:
        head, _, rest = got.partition(b"\r\n\r\n")
        sizes = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        size = int(sizes[0]) if sizes else 0
        if len(rest) < size:
            break
        found, got = found + (not head.startswith(b"HTTP/1.1 100")), rest[size:]
    return found


def chunks(body: bytes, *, size: int = 1 << 16) -> bytes:
    """Return a body in chunks."""
    cut = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in cut) + b"0\r\n\r\n"
