"""What is refused at the door costs nothing behind it, and looks like any other refusal."""

import asyncio
import dataclasses

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from bento_services.http_server.admission import door
from bento_services.http_server.connection_limits import BoundedHeads
from bento_services.inference.endpoint import OwnPaths
from bento_services.inference.responses import OVERLOADED
from tests.unit.inference.inference_model import Doubles, ask, endpoint_of


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

    def set_protocol(self, protocol): ...

    def pause_reading(self): ...

    def resume_reading(self): ...


def request(*, path="/predict", method="POST", body=b"0.25", **headers):
    lines = [f"{method} {path} HTTP/1.1", "Host: h", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def send(*chunks, **options):
    """Send bytes on one connection; return what came back, what was let in, and the endpoint."""
    (answer,), let_in, endpoint = send_on_each(chunks, **options)
    return answer, let_in, endpoint


def send_on_each(*connections, batcher=None, stays_full=False, base=BoundedHeads):
    """Do it on one connection after the other; a function among the chunks is called.

    Who is let in finds room, unless it stays full.
    """
    endpoint, let_in = endpoint_of(Doubles()), []
    full = batcher or Full()
    real = full if stays_full else endpoint.serving.batcher
    endpoint.serving = dataclasses.replace(endpoint.serving, batcher=full)

    async def app(scope, receive, sending):
        let_in.append(scope["path"])
        endpoint.serving = dataclasses.replace(endpoint.serving, batcher=real)
        await OwnPaths(None, endpoint=endpoint, first=False)(scope, receive, sending)
        endpoint.serving = dataclasses.replace(endpoint.serving, batcher=full)

    async def talk():
        config = Config(app=app, log_config=None, server_header=False, proxy_headers=False)
        config.load()
        answers, protocol_class = [], door(endpoint.refuse, base)
        for chunks in connections:
            protocol, wire = protocol_class(config, ServerState(), {}), Wire()
            protocol.connection_made(wire)
            for chunk in chunks:
                if callable(chunk):
                    chunk()
                else:
                    protocol.data_received(chunk)
                await asyncio.sleep(0.05)
            protocol.connection_lost(None)
            answers.append(b"".join(wire.written))
        return answers

    return asyncio.run(talk()), let_in, endpoint


def statuses(answer):
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


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
    endpoint.metrics.settle()
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


def test_the_second_refusal_of_a_connection_is_the_same_and_nothing_is_set_up_for_it():
    batcher, seen = Full(), []

    class Watched(BoundedHeads):
        def on_headers_complete(self):
            seen.append("taken in")
            super().on_headers_complete()

        def on_message_begin(self):
            seen.append("begun")
            super().on_message_begin()

    answer, let_in, endpoint = send(*[request(body=b"x" * 1000)] * 5, batcher=batcher, base=Watched)
    parts = answer.split(b"HTTP/1.1 ")[1:]
    assert len(parts) == 5
    assert set(parts) == {parts[0]}
    assert (let_in, seen) == ([], ["begun"])
    text = endpoint.metrics.render({}, info={})
    assert 'dethrone_requests_total{status="503"} 5\n' in text
    assert f'dethrone_items_total{{code="{OVERLOADED.code}"}} 5\n' in text
    assert "dethrone_request_seconds_count 5\n" in text
    assert endpoint.metrics.render({}, info={}) == text


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (request(path="/docs.json", method="GET", body=b""), [200]),
        (request(x_request_id="r1"), [503]),
        (request(x_request_timeout_ms="soon"), [400]),
        (request(connection="close"), [503]),
        (request(content_type="application/x-pickle", x_request_id="r2"), [415]),
        (request() + request(), [503, 503]),
        (request(x_request_id="r1") + request(), [503, 503]),
        (request().replace(b"HTTP/1.1", b"HTTP/9"), [400]),
        (b"\x16\x03\x01 no HTTP", [400]),
        (request(connection="Upgrade", upgrade="websocket"), [503]),
        (request().replace(b"HTTP/1.1", b"HTTP/1.0"), [503]),
    ],
)
def test_in_a_flood_every_other_request_is_answered_as_if_there_were_none(raw, expected):
    answer, _, _ = send(request(), raw, stays_full=True)
    assert statuses(answer) == [503, *expected]
    alone, _, _ = send(raw, stays_full=True)
    assert answer.endswith(alone)
    assert statuses(alone) == expected


def test_a_request_in_pieces_is_refused_once_and_its_body_is_never_taken_for_a_request():
    inner = request()
    outer = request(body=inner)
    cut = len(outer) - len(inner)
    answer, let_in, _ = send(request(), outer[:cut], outer[cut:], outer[: cut - 9], outer[cut - 9 :], request())
    assert statuses(answer) == [503] * 4
    assert let_in == []


def test_half_a_request_is_forgotten_with_its_connection():
    half = request(body=b"x" * 100)[:-50]
    first, second = send_on_each([request(), half], [request(), request()])[0]
    assert statuses(first) == [503, 503]  # its head was whole
    assert statuses(second) == [503, 503]


def test_a_flood_ends_with_the_first_who_is_let_in():
    batcher = Full()

    def make_room():
        batcher.room = True

    answers, let_in, _ = send_on_each(
        [request(), request(), make_room, request(), request()], [request()], batcher=batcher
    )
    assert [statuses(answer) for answer in answers] == [[503, 503, 200, 200], [200]]
    assert len(let_in) == 3


def test_a_head_of_many_bytes_is_refused_once_when_its_body_comes_later():
    whole = request(body=b"x" * 100, x_long="y" * 70_000)
    answer, _, _ = send(whole[:-100], whole[-100:], request())
    assert statuses(answer) == [503, 503]


def in_a_flood(talk, *, keep_alive=0.3, app=None):
    """Run `talk(protocol, wire, endpoint)` on a connection of a full endpoint."""
    endpoint = endpoint_of(Doubles())
    endpoint.serving = dataclasses.replace(endpoint.serving, batcher=Full())

    async def run():
        config = Config(app=app or OwnPaths(None, endpoint=endpoint), log_config=None, timeout_keep_alive=keep_alive)
        config.load()
        protocol_class = door(endpoint.refuse, BoundedHeads)
        connections = [(protocol_class(config, ServerState(), {}), Wire()) for _ in range(2)]
        for protocol, wire in connections:
            protocol.connection_made(wire)
        return await talk(*connections)

    return asyncio.run(run())


def test_a_request_behind_a_refused_one_is_answered_in_its_turn_and_in_its_time():
    """Also when the flood goes on meanwhile, and longer than an idle connection may last."""

    async def slow(scope, receive, send_):
        await asyncio.sleep(0.5)
        await send_({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send_({"type": "http.response.body", "body": b""})

    async def talk(one, other):
        (protocol, wire), (elsewhere, _) = one, other
        protocol.data_received(request() + request(x_request_id="r1"))
        elsewhere.data_received(request())  # the flood is on
        protocol.data_received(request())
        await asyncio.sleep(0.8)
        return statuses(b"".join(wire.written))

    assert in_a_flood(talk, app=slow)[:2] == [503, 200]


def test_who_does_not_read_the_refusals_is_not_read_either():
    async def talk(one, _):
        protocol, wire = one
        protocol.data_received(request())
        protocol.data_received(request())
        assert len(wire.written) == 2
        protocol.pause_writing()
        for _ in range(5):
            protocol.data_received(request())
        await asyncio.sleep(0.05)
        held = len(wire.written)
        protocol.resume_writing()
        await asyncio.sleep(0.05)
        return held, statuses(b"".join(wire.written))

    assert in_a_flood(talk) == (2, [503] * 7)


@pytest.mark.parametrize(
    "pieces", [[request()[:-4], request()[-4:]], [request(), b"\r\n"], [request(x_request_id="r"), b"\r\n"]]
)
def test_an_idle_connection_is_closed_whatever_came_last(pieces):
    async def talk(one, _):
        protocol, wire = one
        for piece in pieces:
            protocol.data_received(piece)
            await asyncio.sleep(0.05)
        assert not wire.closed
        await asyncio.sleep(0.5)
        return wire.closed

    assert in_a_flood(talk)


def test_a_connection_that_is_refused_again_and_again_stays_open_and_an_idle_one_does_not():
    async def talk(one, _):
        protocol, wire = one
        for _ in range(6):
            protocol.data_received(request())
            await asyncio.sleep(0.1)
        open_after, num_answers = not wire.closed, len(wire.written)
        await asyncio.sleep(0.4)
        return open_after, num_answers, wire.closed

    assert in_a_flood(talk, keep_alive=0.2) == (True, 6, True)
