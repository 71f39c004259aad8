"""Callers that no one here wrote, by the bytes that they send; ids F1 and F2 of the reports of 2026-11-29."""

from __future__ import annotations

import contextlib
import json
import socket
import time

import pytest

from tests.reported.wire import H2C, WEBSOCKET, ask, chunks, serving
from tests.service.bent_http import SMUGGLED, ambiguous, statuses

BODY = b"one item, whole"
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"
WITH_LENGTH = b"Content-Length: %d\r\n\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
PLAIN = HEAD + WITH_LENGTH + BODY


async def echo(scope, receive, send):
    """Answer with what came: the path and the body."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    told = json.dumps([scope["path"], body.decode("latin-1")]).encode() + b"\n"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(told))]})
    await send({"type": "http.response.body", "body": told})


@pytest.fixture(scope="module")
def port():
    with serving(echo, head_seconds=1.0, idle_seconds=1) as port:
        yield port


OFFERS = {
    "F1-h2c": H2C,
    "F1-tls": b"Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n",
    "F1-without-connection": b"Upgrade: h2c\r\n",
    "F1-odd-case": b"UPGRADE: H2C\r\nconnection: uPgRaDe\r\n",
    "F1-two-offers": b"Connection: upgrade\r\nUpgrade: h2c, TLS/1.2\r\nUpgrade: foo/2\r\n",
    "F2-websocket": WEBSOCKET,
}
SENT = {
    "length": [WITH_LENGTH + BODY],
    "length in two reads": [WITH_LENGTH, BODY],
    "length, body cut": [WITH_LENGTH + BODY[:4], BODY[4:]],
    "chunked": [CHUNKED + chunks(BODY)],
    "chunked in two reads": [CHUNKED, chunks(BODY)],
    "chunked, body cut": [CHUNKED + chunks(BODY)[:5], chunks(BODY)[5:]],
    "head in two reads": [b"X-A: b", b"c\r\n" + WITH_LENGTH + BODY],
}


@pytest.mark.parametrize("pieces", SENT.values(), ids=SENT)
@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
def test_an_offer_of_another_protocol_is_passed_over_and_the_body_is_read(port, offer, pieces):
    """RFC 9110, 7.8; Java's HttpClient, Spring's RestClient and `curl --http2` offer h2c with each first POST."""
    got = ask(port, HEAD + offer + pieces[0], *pieces[1:], num_answers=1)
    assert statuses(got) == [200], got
    assert json.loads(got.partition(b"\r\n\r\n")[2]) == ["/predict", BODY.decode()]
    assert b"upgrade" not in got.lower()


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
def test_requests_before_and_after_an_offer_on_the_same_connection_are_answered(port, offer):
    offered = HEAD + offer + WITH_LENGTH + BODY
    in_chunks = HEAD + offer + CHUNKED + chunks(BODY)
    for pieces in ([PLAIN + offered + PLAIN + in_chunks], [PLAIN, offered, PLAIN, in_chunks]):
        got = ask(port, *pieces, num_answers=4)
        assert statuses(got) == [200] * 4
        assert got.count(BODY) == 4


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
def test_an_offer_without_a_body_is_an_ordinary_request(port, offer):
    got = ask(port, b"GET /docs HTTP/1.1\r\nHost: x\r\n" + offer + b"\r\n" + PLAIN, num_answers=2)
    assert statuses(got) == [200, 200]
    assert b'["/docs", ""]' in got
    last = b"GET /docs HTTP/1.0\r\n" + offer + b"\r\n"
    assert statuses(ask(port, last)) == [200]


@pytest.mark.parametrize("offer", [H2C, WEBSOCKET], ids=["F1", "F2"])
def test_an_offer_makes_no_message_readable_in_two_ways(port, offer):
    for name, data in ambiguous(HEAD + offer).items():
        got = ask(port, data, seconds=2)
        assert [400 <= status < 500 for status in statuses(got)] == [True], (name, got[:300])
    hidden = HEAD + offer + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED
    assert statuses(ask(port, hidden, seconds=1)) == [200], "what is in a body is never a request"
    assert statuses(ask(port, b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n" + offer + b"\r\n" + SMUGGLED, seconds=2)) == [400]


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
def test_who_offers_and_is_to_be_refused_is_refused_at_the_door(offer):
    refusal = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    with serving(echo, refusal=refusal) as port:
        got = ask(port, (HEAD + offer + WITH_LENGTH + BODY) * 3 + PLAIN, num_answers=4)
    assert statuses(got) == [503] * 4


def test_three_hundred_web_sockets_that_never_speak_are_closed_in_time_and_shut_nobody_out(port):
    """F2: without a body a request is answered, and its connection closed when it is idle; half of one is cut off."""
    whole = HEAD.replace(b"POST", b"GET") + WEBSOCKET + b"\r\n"
    half = HEAD + WEBSOCKET
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)) for _ in range(300)]
        for number, connection in enumerate(held):
            connection.sendall(half if number % 2 else whole)
        assert statuses(ask(port, PLAIN, num_answers=1)) == [200]
        for connection in held:
            while connection.recv(65536):
                pass
    assert time.monotonic() - began < 20
