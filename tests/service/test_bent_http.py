"""Requests that bend HTTP, to both services behind the HTTP protocol that they are served with, in this process."""

from __future__ import annotations

import threading
import time
from typing import Self

import pytest
import uvicorn

from bento_services.http_server.connection_limits import BoundedHeads
from bento_services.inference.endpoint import OwnPaths
from tests.service.bent_http import ambiguous, broken, half_open, raw, statuses
from tests.service.conftest import png, token_of
from tests.unit.inference.inference_model import Doubles, endpoint_of

GATEWAY = (
    "POST /v1/projects/fashion/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    f"Authorization: Bearer {token_of('shop')}\r\n"
).encode()
INFERENCE = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"


class Impatient(BoundedHeads):
    head_seconds = 1.0


class Running:
    """A uvicorn in a thread, and a good request to it."""

    def __init__(self, app, head: bytes, body: bytes) -> None:
        self.head = head
        self.good = head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, http=Impatient, log_config=None, lifespan="off"))
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(timeout=10)

    def answers(self) -> bool:
        return statuses(raw(self.port, self.good)) == [200]


async def nothing_else(scope, receive, send):
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture(params=["gateway", "inference"])
def running(request, bench):
    if request.param == "gateway":
        app, head, body = bench.client.app, GATEWAY, png()
    else:
        app, head, body = OwnPaths(nothing_else, endpoint=endpoint_of(Doubles())), INFERENCE, b"0.5"
    with Running(app, head, body) as running:
        yield running


def test_a_message_that_can_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_answered(running):
    found = {name: statuses(raw(running.port, data)) for name, data in ambiguous(running.head).items()}
    assert {name: status for name, status in found.items() if status not in ([400], [408], [413], [415], [422])} == {}
    assert running.answers()


def test_what_is_no_request_is_refused_without_a_trace(running):
    for name, data in broken(running.head).items():
        got = raw(running.port, data, timeout_seconds=1.5)
        assert all(400 <= status < 500 for status in statuses(got)), (name, got[:500])
        assert b"Traceback" not in got, name
    assert running.answers()


def test_callers_who_do_not_finish_stop_nobody(running):
    with half_open(running.port, running.head + b"X-A: a", count=100):
        assert all(running.answers() for _ in range(5))


@pytest.mark.parametrize("name", ["Authorization", "X-User-Key", "X-Request-Id"])
def test_a_line_break_cannot_be_brought_into_a_header(running, name):
    for value in (b"a\rb", b"a\nX-Model-Version: B", b"a\x00", b"a\x0bb\x7f"):
        line = name.encode() + b": " + value + b"\r\n"
        found = statuses(raw(running.port, running.head + line + b"Connection: close\r\nContent-Length: 0\r\n\r\n"))
        assert found == [] or 400 <= found[0] < 500
    assert running.answers()
