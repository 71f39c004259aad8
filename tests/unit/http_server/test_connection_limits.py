"""What a caller can do to a connection before the application hears of a request, on a real uvicorn."""

import asyncio
import concurrent.futures
import contextlib
import gc
import socket
import struct
import threading
import time
import weakref

import pytest
import uvicorn
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bento_services.http_server import connection_limits
from bento_services.http_server.connection_limits import BoundedHeads, bound_heads
from bento_services.http_server.protocol_upgrades import StaysHttp
from tests.services import wait_until

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
    with serving(Quick) as (server, _):
        yield port_of(server)


@contextlib.contextmanager
def serving(protocol, application=None):
    """Run a server; yields it and what it told of its event loop."""
    loops = []

    async def told(scope, receive, send):
        loops.append(asyncio.get_running_loop())
        await (application or app)(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(told, port=0, http=protocol, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, timeout_seconds=10, what="the server")
        yield server, loops
    finally:
        server.should_exit = True
        thread.join(timeout=10)


def port_of(server):
    return server.servers[0].sockets[0].getsockname()[1]


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
        connection.sendall(b"GET / HTTP/1.1\r\nX-A: " + b"a" * (connection_limits.MAX_HEAD_BYTES + 1))
        assert rest(connection) == connection_limits.TOO_LARGE


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


def in_loop(loop, function):
    """Run a function in the event loop's thread and return what it returns."""
    future = concurrent.futures.Future()
    loop.call_soon_threadsafe(lambda: future.set_result(function()))
    return future.result(10)


@contextlib.contextmanager
def idle_too_long(*, sent):
    """Yield a connection on which bytes arrive while the loop is busy with the timer that is to close it."""
    with serving(BoundedHeads) as (server, loops), connected(port_of(server)) as connection:
        connection.sendall(GOOD)
        connection.recv(1000)
        (protocol,) = server.server_state.connections

        def time_is_over():
            connection.sendall(sent)
            protocol.timeout_keep_alive_handler()

        in_loop(loops[0], time_is_over)
        yield connection


def test_an_idle_connection_is_not_closed_on_a_request_that_has_arrived():
    with idle_too_long(sent=GOOD) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_an_idle_connection_is_closed():
    with idle_too_long(sent=b"") as connection:
        assert rest(connection) == b""


def test_a_connection_that_was_reset_is_not_kept():
    with serving(BoundedHeads) as (server, loops):
        connection = socket.create_connection(("127.0.0.1", port_of(server)), timeout=5)
        connection.sendall(GOOD)
        connection.recv(1000)
        (protocol,) = server.server_state.connections
        kept = weakref.ref(protocol)
        del protocol
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        wait_until(lambda: not server.server_state.connections, timeout_seconds=10, what="the end of the connection")
        assert in_loop(loops[0], lambda: (gc.collect(), kept())[1]) is None


def test_who_leaves_before_the_answers_to_requests_in_a_row_is_no_error(caplog):
    async def slow(scope, receive, send):
        await asyncio.sleep(0.05)
        await app(scope, receive, send)

    with serving(BoundedHeads, slow) as (server, loops), connected(port_of(server)) as connection:
        connection.sendall(GOOD * 5)
        connection.shutdown(socket.SHUT_WR)
        rest(connection)
        wait_until(lambda: loops and not server.server_state.tasks, timeout_seconds=10, what="the end of its requests")
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_who_reads_no_answer_and_has_closed_is_cut_off_when_its_time_is_over():
    async def much(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(50_000_000)})

    brief = type("Brief", (BoundedHeads,), {"idle_seconds": 1})
    with serving(brief, much) as (server, _), connected(port_of(server)) as connection:
        connection.sendall(GOOD)
        connection.recv(1000)
        connection.shutdown(socket.SHUT_WR)
        wait_until(lambda: not server.server_state.connections, timeout_seconds=10, what="the end of the connection")


def test_at_the_end_requests_that_have_arrived_are_answered():
    with serving(BoundedHeads) as (server, loops), contextlib.ExitStack() as stack:
        new, kept, idle = (stack.enter_context(connected(port_of(server))) for _ in range(3))
        for connection in (kept, idle):
            connection.sendall(GOOD)
            connection.recv(1000)
        wait_until(lambda: len(server.server_state.connections) == 3, timeout_seconds=10, what="the connections")

        def end():
            for connection in (new, kept):
                connection.sendall(GOOD)
            for protocol in list(server.server_state.connections):
                protocol.shutdown()

        in_loop(loops[0], end)
        assert [rest(connection)[:12] for connection in (new, kept, idle)] == [b"HTTP/1.1 200"] * 2 + [b""]


def test_an_unfinished_head_of_many_headers_is_refused(port):
    headers = b"".join(b"a%d: b\r\n" % number for number in range(connection_limits.MAX_HEADERS + 2))
    with connected(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + headers)
        assert rest(connection) == connection_limits.TOO_LARGE
    with connected(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + headers + b"\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_how_long_a_connection_may_be_idle_can_be_set():
    brief = type("Brief", (BoundedHeads,), {"idle_seconds": 1})
    with serving(brief) as (server, _), connected(port_of(server)) as connection:
        connection.sendall(GOOD)
        began = time.monotonic()
        assert rest(connection).startswith(b"HTTP/1.1 200 ")
        assert time.monotonic() - began < 4  # uvicorn's own is 5


def test_bentomls_server_takes_it_on_top_of_what_is_set(monkeypatch):
    class Other(HttpToolsProtocol):
        pass

    monkeypatch.setattr(auto, "AutoHTTPProtocol", Other)
    bound_heads(idle_seconds=75)
    loaded = uvicorn.Config(app)
    loaded.load()
    assert loaded.http_protocol_class.__mro__[1:5] == (BoundedHeads, StaysHttp, Other, HttpToolsProtocol)
    assert loaded.http_protocol_class.idle_seconds == 75
