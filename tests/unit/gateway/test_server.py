"""The bounds of the gateway's HTTP server, on the real one, and its limits of files."""

import asyncio
import contextlib
import resource
import socket
import threading
import time

import pytest

from bento_services.gateway import server as server_module
from bento_services.gateway.server import MAX_HEAD_BYTES, StartingApplication, main, raise_file_limit, server_of
from tests.reported.wire import ask, listens, running, serving
from tests.service.bent_http import statuses
from tests.services import free_ports, wait_until

GOOD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab"


async def app(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message.get("body", b""), message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    told = b"ok" if scope["path"] != "/long" else b"a" * 20_000_000
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(told))]})
    await send({"type": "http.response.body", "body": told})


@pytest.fixture(scope="module")
def port():
    with serving(app, head_seconds=0.5, max_connections=20) as port:
        yield port


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=8)


def rest(connection) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            got += chunk
    return got


def test_requests_one_after_another_on_a_kept_connection_are_answered(port):
    with connect(port) as connection:
        for _ in range(3):
            connection.sendall(GOOD)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.1)


def test_a_head_that_drips_is_cut_off_also_the_second_one(port):
    for before in (b"", GOOD):
        with connect(port) as connection:
            connection.sendall(before)
            if before:
                connection.recv(1000)
            began = time.monotonic()
            with contextlib.suppress(ConnectionError):
                for byte in b"GET / HTTP/1.1\r\nX: " + b"a" * 100:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.02)
            rest(connection)
            assert time.monotonic() - began < 4


@pytest.mark.parametrize("sent", [b"", GOOD], ids=["silent", "idle"])
def test_a_connection_that_says_nothing_is_closed(port, sent):
    with connect(port) as connection:
        connection.sendall(sent)
        assert statuses(rest(connection)) == ([200] if sent else [])


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\nX-A: ",
        b"GET /",
        GOOD + b"GET / HTTP/1.1\r\nX-A: ",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Trailer: ",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;ext=",
    ],
)
def test_a_head_or_trailer_without_end_is_refused_before_it_is_held(port, start):
    with connect(port) as connection:
        sent = 0
        connection.sendall(start)
        with contextlib.suppress(ConnectionError):
            while sent < 50_000_000:
                connection.sendall(b"a" * 65536)
                sent += 65536
        assert sent < 10_000_000  # what the kernel's buffers take on top
    assert statuses(ask(port, GOOD, num_answers=1)) == [200]


def test_a_head_that_is_too_long_is_told_so(port):
    long = b"GET / HTTP/1.1\r\nX-A: " + b"a" * (MAX_HEAD_BYTES + 1)
    many = b"GET / HTTP/1.1\r\n" + b"".join(b"a%d: b\r\n" % number for number in range(200)) + b"\r\n"
    for head in (long, many):
        assert statuses(ask(port, head)) == [431]


def test_a_long_body_in_many_small_chunks_is_no_head(port):
    chunk = b"100\r\n" + b"x" * 256 + b"\r\n"
    sent = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 500 + b"0\r\n\r\n"
    assert statuses(ask(port, sent, num_answers=1)) == [200]


def test_a_slow_body_is_the_applications_to_judge(port):
    with connect(port) as connection:
        connection.sendall(GOOD[:-1])
        time.sleep(0.8)
        connection.sendall(GOOD[-1:])
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_who_comes_beyond_the_bound_waits_for_a_place():
    with serving(app, head_seconds=30, max_connections=3) as port, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(port)) for _ in range(3)]
        for connection in held:
            connection.sendall(b"GET / HTTP/1.1\r\n")
        waiting = stack.enter_context(connect(port))
        waiting.sendall(GOOD)
        waiting.settimeout(0.3)
        with pytest.raises(TimeoutError):
            waiting.recv(1000)
        held[0].close()
        waiting.settimeout(8)
        assert waiting.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_at_the_end_requests_under_way_are_answered_and_nobody_else_comes_in():
    got = []
    with running(app) as (port, stop):
        threads = [
            threading.Thread(target=lambda: got.append(ask(port, GOOD.replace(b"/ ", b"/slow "), num_answers=1)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        stop()
        for thread in threads:
            thread.join(timeout=8)
        with pytest.raises(ConnectionRefusedError):
            connect(port)
    assert [statuses(answer) for answer in got] == [[200]] * 3


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nX: ", GOOD.replace(b"/ ", b"/long ")], ids=["half", "unread"])
def test_at_the_end_who_does_not_finish_a_head_or_read_an_answer_is_not_waited_for(sent):
    """Its port refuses everybody by then: one such caller would keep each restart for 20 s."""

    async def ended():
        (port,) = free_ports(1)
        later = StartingApplication()
        later.load(app)
        server = server_of(later, "127.0.0.1", port, head_seconds=60, max_connections=20)
        serving = asyncio.create_task(server.serve())
        await asyncio.to_thread(wait_until, lambda: listens(port), timeout_seconds=10, what="the server")
        with connect(port) as held:
            held.sendall(sent)
            asking = asyncio.create_task(asyncio.to_thread(ask, port, GOOD.replace(b"/ ", b"/slow "), num_answers=1))
            await asyncio.sleep(0.2)
            server.stop()
            began = time.monotonic()
            await later.drain(serving)
            return time.monotonic() - began, statuses(await asking), serving.done()

    seconds, answered, is_done = asyncio.run(ended())
    assert (seconds < 10, answered, is_done) == (True, [200], False)


async def drained_after(seconds: float) -> tuple[bool, bool]:
    """Drain while a request takes so long and the server never ends; return if the request and the drain have ended."""
    waiting = StartingApplication()

    async def long_request(scope, receive, send):
        await asyncio.sleep(seconds)

    waiting.load(long_request)
    serving = asyncio.create_task(asyncio.sleep(60))
    asking = asyncio.create_task(waiting({}, None, None))
    await asyncio.sleep(0)
    ending = asyncio.create_task(waiting.drain(serving))
    await asyncio.wait({ending}, timeout=3)
    ended = asking.done(), ending.done()
    for task in (serving, asking, ending):
        task.cancel()
    return ended


def test_at_the_end_a_long_request_is_waited_for(monkeypatch):
    monkeypatch.setattr(server_module, "FLUSH_SECONDS", 0.1)
    assert asyncio.run(drained_after(0.8)) == (True, True)


def test_at_the_end_a_request_without_end_is_given_up(monkeypatch):
    monkeypatch.setattr(server_module, "STOP_SECONDS", 0.3)
    assert asyncio.run(drained_after(60)) == (False, True)


def test_what_comes_while_the_gateway_is_loaded_waits_for_it():
    waiting = StartingApplication()

    async def loaded_soon(scope, receive, send):
        asyncio.get_running_loop().call_later(0.3, waiting.load, app)
        await waiting(scope, receive, send)

    with serving(loaded_soon) as port:
        began = time.monotonic()
        assert statuses(ask(port, GOOD, num_answers=1)) == [200]
        assert time.monotonic() - began >= 0.3


def test_a_port_that_is_taken_is_told_so(port):
    with pytest.raises(SystemExit, match=f"^port {port} of 127.0.0.1 must be free"):
        main(["--port", str(port)])


@pytest.mark.parametrize(
    ("limits", "allowed", "connections"),
    [
        ((1024, 1_048_576), 8192, 7168),
        ((1024, 4096), 4096, 3072),
        ((256, 300), 300, 150),
        ((100_000, 1_048_576), None, 7168),
        ((1024, resource.RLIM_INFINITY), 8192, 7168),
    ],
)
def test_connections_leave_files_for_the_rest(monkeypatch, limits, allowed, connections):
    taken = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: taken.append(wanted))
    assert raise_file_limit() == connections
    assert taken == ([] if allowed is None else [(allowed, limits[1])])


def test_where_the_system_allows_no_more_files_it_goes_on_with_what_it_has(monkeypatch, caplog):
    def refused(*_):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refused)
    assert raise_file_limit() == 512
    assert "no more than 1024 files can be open" in caplog.text
