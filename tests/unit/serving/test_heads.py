"""What a caller can do to a connection before the application hears of a request, on a real uvicorn."""

import contextlib
import socket
import threading
import time

import pytest
import uvicorn
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bento_services import heads
from bento_services.heads import BoundedHeads, bound_heads

GOOD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab"


class Quick(BoundedHeads):
    head_seconds = 0.3


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(scope="module")
def port():
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=Quick, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(timeout=10)


@contextlib.contextmanager
def connected(port):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        yield connection


def rest(connection) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            got += chunk
    return got


def test_requests_one_after_another_on_a_kept_connection_are_answered(port):
    with connected(port) as connection:
        for _ in range(3):
            connection.sendall(GOOD)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.15)


def test_a_head_that_drips_is_cut_off_also_the_second_one(port):
    for before in (b"", GOOD):
        with connected(port) as connection:
            connection.sendall(before)
            if before:
                connection.recv(1000)
            began = time.monotonic()
            with contextlib.suppress(ConnectionError):
                for byte in b"GET / HTTP/1.1\r\nX: " + b"a" * 50:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.02)
            assert rest(connection) == b""
            assert time.monotonic() - began < 2


def test_a_connection_that_says_nothing_is_closed(port):
    with connected(port) as connection:
        assert rest(connection) == b""


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\nX-A: ",
        b"GET /",
        GOOD + b"GET / HTTP/1.1\r\nX-A: ",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Trailer: ",
    ],
)
def test_a_head_or_trailer_without_end_is_refused_before_it_is_held(port, start):
    with connected(port) as connection:
        sent = 0
        connection.sendall(start)
        with contextlib.suppress(ConnectionError):
            while sent < 50_000_000:
                connection.sendall(b"a" * 65536)
                sent += 65536
        assert sent < 10_000_000  # what the kernel's buffers take on top
    with connected(port) as connection:
        connection.sendall(GOOD)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_the_refusal_says_why(port):
    with connected(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX-A: " + b"a" * (heads.MAX_HEAD_BYTES + 1))
        assert rest(connection) == heads.TOO_LARGE


def test_a_long_body_in_many_small_chunks_is_no_head(port):
    with connected(port) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(500):
            connection.sendall(b"100\r\n" + b"x" * 256 + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_a_slow_body_is_the_applications_to_judge(port):
    with connected(port) as connection:
        connection.sendall(GOOD[:-1])
        time.sleep(0.5)
        connection.sendall(GOOD[-1:])
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_bentomls_server_takes_it_on_top_of_what_is_set(monkeypatch):
    class Other(HttpToolsProtocol):
        pass

    monkeypatch.setattr(auto, "AutoHTTPProtocol", Other)
    bound_heads()
    loaded = uvicorn.Config(app)
    loaded.load()
    assert loaded.http_protocol_class.__mro__[1:4] == (BoundedHeads, Other, HttpToolsProtocol)
