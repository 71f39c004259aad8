"""Requests that bend HTTP, to both services behind the HTTP servers that they are served with, in this process."""

from __future__ import annotations

import contextlib
import socket
import threading
import types

import bentoml
import pytest
import uvicorn

from bento_services import serve
from bento_services.inference.endpoint import PathRouter
from tests.reported import wire
from tests.service.bent_http import SMUGGLED, ambiguous, broken, half_open, raw, statuses
from tests.service.conftest import png, token_of
from tests.services import wait_until
from tests.unit.inference.inference_model import Doubles, endpoint_of

GATEWAY = (
    "POST /v1/projects/fashion/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    f"Authorization: Bearer {token_of('shop')}\r\n"
).encode()
INFERENCE = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"


class Running:
    """A server, and a good request to it."""

    def __init__(self, port: int, head: bytes, body: bytes) -> None:
        self.port = port
        self.head = head
        self.good = head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    def answers(self) -> bool:
        return statuses(raw(self.port, self.good)) == [200]


@contextlib.contextmanager
def as_bentoml_serves(app):
    """Serve an application as BentoML does with our service, in a thread; yields the port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=serve.bounded_head(), log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, timeout_seconds=10, what="the server")
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(timeout=10)


async def nothing_else(scope, receive, send):
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture(params=["gateway", "inference"])
def running(request, bench):
    if request.param == "gateway":
        with wire.serving(bench.client.app, head_seconds=1.0) as port:
            yield Running(port, GATEWAY, png())
    else:
        with as_bentoml_serves(PathRouter(nothing_else, endpoint=endpoint_of(Doubles()))) as port:
            yield Running(port, INFERENCE, b"0.5")


def test_a_message_that_can_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_answered(running):
    answers = {
        name: statuses(raw(running.port, data, timeout_seconds=3)) for name, data in ambiguous(running.head).items()
    }
    assert {name: status for name, status in answers.items() if status not in ([400], [408], [413], [415], [422])} == {}
    assert running.answers()


def test_a_length_that_is_said_twice_is_one_length_or_refused(running):
    """RFC 9112, 6.3: what follows the body is a request of its own, or nothing is answered."""
    sent = running.head + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello" + SMUGGLED
    first, *more = statuses(raw(running.port, sent, timeout_seconds=2))
    assert (400 <= first < 500, more) in [(True, []), (True, [401]), (True, [404])]


def test_what_is_no_request_is_refused_without_a_trace(running):
    for name, data in broken(running.head).items():
        got = raw(running.port, data, timeout_seconds=1.5)
        assert all(400 <= status < 500 for status in statuses(got)), (name, got[:500])
        assert b"Traceback" not in got, name
    assert running.answers()


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"GET / HTTP/1.1\r\nX: ", b"a"),
        (b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
        (b"GET /", b"a"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n"),
    ],
    ids=["value", "many", "target", "trailer"],
)
def test_a_head_without_end_and_without_a_key_is_closed_before_it_is_held(running, start, more):
    sent = 0
    with (
        socket.create_connection(("127.0.0.1", running.port), timeout=8) as connection,
        contextlib.suppress(ConnectionError),
    ):
        connection.sendall(start)
        while sent < 30_000_000:
            connection.sendall(more * 10_000)
            sent += len(more) * 10_000
    assert sent < 10_000_000  # what the kernel's buffers take on top
    assert running.answers()


def test_the_inference_service_is_read_with_a_bound_on_heads(monkeypatch):
    loaded = types.SimpleNamespace(name="inference", bento=None, apis={}, to_asgi=lambda: print)
    configs = []
    monkeypatch.setattr(bentoml, "server_context", types.SimpleNamespace())
    monkeypatch.setattr(bentoml, "load", lambda bento, **_: {"a:r1": loaded}[bento])
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: configs.append((server.config, sockets)))
    serve.answer("a:r1", "the socket")
    ((config, sockets),) = configs
    config.load()
    assert (config.http_protocol_class.__name__, sockets) == ("BoundedHead", ["the socket"])


def test_callers_who_do_not_finish_stop_nobody(running):
    with half_open(running.port, running.head + b"X-A: a", count=100):
        assert all(running.answers() for _ in range(5))


@pytest.mark.parametrize("name", ["Authorization", "X-User-Key", "X-Request-Id"])
def test_a_line_break_cannot_be_brought_into_a_header(running, name):
    for value in (b"a\rb", b"a\nX-Model-Version: B", b"a\x00", b"a\x0bb\x7f"):
        line = name.encode() + b": " + value + b"\r\n"
        answers = statuses(raw(running.port, running.head + line + b"Connection: close\r\nContent-Length: 0\r\n\r\n"))
        assert answers == [] or 400 <= answers[0] < 500
    assert running.answers()
