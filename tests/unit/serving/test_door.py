"""What is refused at the door costs nothing behind it, and looks like any other refusal."""

import asyncio
import dataclasses

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from bento_services.door import door
from bento_services.inference.endpoint import OwnPaths
from tests.unit.serving.inference_model import Doubles, ask, endpoint_of


class Full:
    """A batcher without room for those who wait less than a minute."""

    def __init__(self):
        self.room = False

    def has_room(self, num_items, *, deadline):
        return self.room


class Wire(asyncio.Transport):
    """Remembers what was written."""

    def __init__(self):
        super().__init__()
        self.written = []
        self.closed = False

    def write(self, data):
        self.written.append(data)

    def get_extra_info(self, name, default=None):
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True

    def pause_reading(self): ...

    def resume_reading(self): ...


def request(*, path="/predict", method="POST", body=b"0.25", **headers):
    lines = [f"{method} {path} HTTP/1.1", "Host: h", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def send(*chunks, batcher=None):
    """Send bytes on one connection; return what came back, what was let in, and the endpoint."""
    endpoint, let_in = endpoint_of(Doubles()), []
    full = batcher or Full()
    real = endpoint.serving.batcher
    endpoint.serving = dataclasses.replace(endpoint.serving, batcher=full)

    async def app(scope, receive, sending):
        let_in.append(scope["path"])
        endpoint.serving = dataclasses.replace(endpoint.serving, batcher=real)
        await OwnPaths(None, endpoint=endpoint, first=False)(scope, receive, sending)
        endpoint.serving = dataclasses.replace(endpoint.serving, batcher=full)

    async def talk():
        config = Config(app=app, log_config=None, server_header=False, proxy_headers=False)
        config.load()
        protocol, wire = door(endpoint.refuse)(config, ServerState(), {}), Wire()
        protocol.connection_made(wire)
        for chunk in chunks:
            protocol.data_received(chunk)
            await asyncio.sleep(0.05)
        protocol.connection_lost(None)
        return b"".join(wire.written)

    return asyncio.run(talk()), let_in, endpoint


def test_a_flood_is_refused_as_everything_is_refused():
    answer, let_in, endpoint = send(request())
    full = endpoint_of(Doubles())
    full.serving = dataclasses.replace(full.serving, batcher=Full())
    status, headers, body = asyncio.run(ask(full, b"0.25"))
    head, _, got = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert (lines[0], got) == (b"HTTP/1.1 503 Service Unavailable", body)
    assert dict(line.split(b": ") for line in lines[1:]) == headers
    assert (status, let_in) == (503, [])
    assert endpoint.metrics.items == full.metrics.items
    assert endpoint.metrics.requests == full.metrics.requests


def test_its_body_is_passed_over_and_the_connection_goes_on():
    batcher = Full()
    whole = request(body=b"x" * 1000)
    answer, let_in, _ = send(whole[:200], whole[200:700], whole[700:], request(), batcher=batcher)
    assert answer.count(b"HTTP/1.1 503") == 2
    assert let_in == []


@pytest.mark.parametrize(
    "raw",
    [
        request(path="/docs.json", method="GET", body=b""),
        request(method="GET", body=b""),
        request(x_request_id="r1"),
        request(x_request_timeout_ms="soon"),
        request(connection="close"),
    ],
)
def test_what_is_no_plain_prediction_is_looked_at(raw):
    answer, let_in, _ = send(raw)
    assert len(let_in) == 1
    assert answer


def test_with_room_every_request_goes_in_also_after_a_refusal():
    batcher = Full()

    class Opening(Full):
        def has_room(self, num_items, *, deadline):
            self.room, had = True, self.room
            return had

    answer, let_in, _ = send(request(), request(), batcher=Opening())
    assert answer.count(b"HTTP/1.1 503") == 1
    assert answer.count(b"HTTP/1.1 200") == 1
    assert let_in == ["/predict"]
    assert not batcher.room


def test_pipelined_requests_are_answered_in_their_order():
    answer, let_in, _ = send(request(x_request_id="r1") + request())
    assert [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1")][:1] == [b"HTTP/1.1 200 OK"]
    assert answer.count(b"HTTP/1.1 ") == 2
    assert let_in == ["/predict", "/predict"]
