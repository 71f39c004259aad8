"""Callers that no one here wrote, by the bytes that they send.

Their bytes: RFC 9110 and 9112, and what Java 17, curl 7.88, Go 1.19, nginx 1.22 and .NET's HttpClient send. The real
programs, but for .NET, send it themselves in test_callers_served.py.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import time

import pytest

from tests.reported.wire import H2C, WEBSOCKET, ask, chunks, serving
from tests.service import conftest
from tests.service.bent_http import SMUGGLED, ambiguous, statuses
from tests.service.conftest import png, token_of

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
    with serving(echo, head_seconds=1.0) as port:
        yield port


OFFERS = {
    "F1-h2c": H2C,
    "F1-tls": b"Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n",
    "F1-without-connection": b"Upgrade: h2c\r\n",
    "F1-odd-case": b"UPGRADE: H2C\r\nconnection: uPgRaDe\r\n",
    "F1-proxy-without-an-offer": b"Connection: upgrade\r\n",  # what many an nginx adds to each request
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


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
def test_who_offers_and_is_refused_before_the_body_is_read_is_refused(offer):
    async def full(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 503, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    with serving(full) as port:
        got = ask(port, (HEAD + offer + WITH_LENGTH + BODY) * 3 + PLAIN, num_answers=4)
    assert statuses(got) == [503] * 4


def test_three_hundred_web_sockets_that_never_speak_are_closed_in_time_and_shut_nobody_out(port):
    """Without a body a request is answered, and its connection closed when it is idle; half of one is cut off."""
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


bench = conftest.bench
AS_KNOWN = b"Authorization: Bearer %s\r\n" % token_of("shop").encode()
PNG = png()
SIZE = b"%d" % len(PNG)
TARGET = b"/v1/projects/fashion/predict"
CALLERS = {
    "java": [
        b"POST %s HTTP/1.1\r\n" % TARGET + H2C.replace(b"Upgrade: h2c\r\n", b"") + b"Content-Length: " + SIZE + b"\r\n"
        b"Host: 127.0.0.1:8000\r\nUpgrade: h2c\r\nUser-Agent: Java-http-client/17.0.15\r\n"
        + AS_KNOWN
        + b"Content-Type: image/png\r\n\r\n",
        PNG,
    ],
    "curl --http2": [
        b"POST %s HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n" % TARGET
        + H2C
        + AS_KNOWN
        + b"Content-Type: image/png\r\nContent-Length: "
        + SIZE
        + b"\r\n\r\n"
        + PNG
    ],
    "curl --http1.0": [
        b"POST %s HTTP/1.0\r\nHost: 127.0.0.1:8000\r\nUser-Agent: curl/7.88.1\r\n" % TARGET
        + AS_KNOWN
        + b"Content-Type: image/png\r\nContent-Length: "
        + SIZE
        + b"\r\n\r\n"
        + PNG
    ],
    "go": [
        b"POST %s HTTP/1.1\r\nHost: gateway:8000\r\nUser-Agent: Go-http-client/1.1\r\nTransfer-Encoding: chunked\r\n"
        % TARGET
        + AS_KNOWN
        + b"Content-Type: image/png\r\nAccept-Encoding: gzip\r\n\r\n"
        + chunks(PNG, size=512)
    ],
    ".net with a length": [
        b"POST %s HTTP/1.1\r\nHost: gateway:8000\r\n" % TARGET
        + AS_KNOWN
        + b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\nRequest-Id: |0af76519.\r\n"
        b"Content-Type: image/png\r\nContent-Length: " + SIZE + b"\r\n\r\n",
        PNG,
    ],
    ".net in chunks": [
        b"POST %s HTTP/1.1\r\nHost: gateway:8000\r\n" % TARGET
        + AS_KNOWN
        + b"Transfer-Encoding: chunked\r\nContent-Type: image/png\r\n\r\n",
        b"%X\r\n%s\r\n" % (len(PNG), PNG),
        b"0\r\n\r\n",
    ],
    "nginx in front": [
        b"POST %s HTTP/1.0\r\nHost: gateway\r\nConnection: close\r\nContent-Length: %s\r\n" % (TARGET, SIZE)
        + AS_KNOWN
        + b"Content-Type: image/png\r\nX-Forwarded-For: 10.0.0.9\r\n\r\n"
        + PNG
    ],
    "names in small letters": [
        b"POST %s HTTP/1.1\r\nhost: x\r\n" % TARGET
        + AS_KNOWN.replace(b"Authorization", b"authorization")
        + b"content-type: image/png\r\ncontent-length: "
        + SIZE
        + b"\r\n\r\n"
        + PNG
    ],
    "names in capitals, no and much space": [
        b"POST %s HTTP/1.1\r\nHOST:x\r\n" % TARGET
        + AS_KNOWN.replace(b"Authorization: Bearer", b"AUTHORIZATION:bearer")
        + b"CONTENT-TYPE:\t image/png; charset=binary \t\r\nCONTENT-LENGTH:   "
        + SIZE
        + b"  \r\n\r\n"
        + PNG
    ],
    "a whole address": [
        b"POST http://127.0.0.1:8000%s HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nProxy-Connection: Keep-Alive\r\n" % TARGET
        + AS_KNOWN
        + b"Content-Type: image/png\r\nContent-Length: "
        + SIZE
        + b"\r\n\r\n"
        + PNG
    ],
    "a question mark": [
        b"POST %s?api-version=1&x=%%20 HTTP/1.1\r\nHost: x\r\n" % TARGET
        + AS_KNOWN
        + b"Content-Type: image/png\r\nContent-Length: "
        + SIZE
        + b"\r\n\r\n"
        + PNG
    ],
    "line breaks before and single ones after": [
        b"\r\n\r\nPOST %s HTTP/1.1\r\nHost: x\r\n" % TARGET
        + AS_KNOWN
        + b"Content-Type: image/png\r\nContent-Length: "
        + SIZE
        + b"\r\n\r\n"
        + PNG
        + b"\r\n"
    ],
    "chunks with extensions and a trailer": [
        b"POST %s HTTP/1.1\r\nHost: x\r\nTrailer: X-Sum\r\nTransfer-Encoding: Chunked\r\n" % TARGET
        + AS_KNOWN
        + b"Content-Type: image/png\r\n\r\n%x;a=b\r\n%s\r\n0\r\nX-Sum: 1\r\n\r\n" % (len(PNG), PNG)
    ],
}


@pytest.mark.parametrize("offer", [H2C, WEBSOCKET], ids=["F1", "F2"])
def test_an_offer_makes_no_message_readable_in_two_ways(bench, offer):
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n" % TARGET + AS_KNOWN + offer
    with serving(bench.client.app) as port:
        for name, data in ambiguous(head).items():
            got = ask(port, data, seconds=2)
            assert [400 <= status < 500 for status in statuses(got)] == [True], (name, got[:300])
        hidden = head + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED
        assert statuses(ask(port, hidden, seconds=1)) == [422], "what is in a body is never a request"
        tunnel = b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n" + offer + b"\r\n" + SMUGGLED
        got = ask(port, tunnel, seconds=2)
        assert statuses(got) in ([400], [404], [405])


@pytest.mark.parametrize("pieces", CALLERS.values(), ids=CALLERS)
def test_the_gateway_answers_what_callers_send(bench, pieces):
    with serving(bench.client.app) as port:
        got = ask(port, *pieces, num_answers=1)
    assert statuses(got) == [200], got
    assert json.loads(got.partition(b"\r\n\r\n")[2])["label"] == "bag"
    (record,) = bench.records()
    assert record.payload == PNG


def test_the_gateway_answers_a_batch_with_an_offer(bench):
    items = json.dumps({"items": [{"base64": base64.b64encode(PNG).decode()}] * 3}).encode()
    head = b"POST %s:batch HTTP/1.1\r\nHost: x\r\n" % TARGET + AS_KNOWN + H2C + b"Content-Type: application/json\r\n"
    with serving(bench.client.app) as port:
        got = ask(port, head + b"Content-Length: %d\r\n\r\n" % len(items), items, num_answers=1)
    assert json.loads(got.partition(b"\r\n\r\n")[2])["num_ok"] == 3


@pytest.mark.parametrize("offer", [b"", H2C], ids=["plain", "h2c"])
@pytest.mark.parametrize("expect", [b"100-continue", b"100-Continue"])
def test_who_waits_for_100_continue_gets_it_or_an_answer(bench, expect, offer):
    """`Expect: 100-continue`: .NET, curl above 1 MiB and Go on request hold the body back until they are told."""
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n" % TARGET + offer
    head += b"Expect: %s\r\nContent-Length: %s\r\n" % (expect, SIZE)
    with serving(bench.client.app) as port:
        for known, expected in ((AS_KNOWN, [100, 200]), (b"", [401])):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(head + known + b"\r\n")
                first = connection.recv(65536)
                assert statuses(first) == expected[:1]
                if expected[0] == 100:
                    connection.sendall(PNG)
                    assert statuses(connection.recv(65536)) == expected[1:]


def test_what_has_no_path_is_no_request_of_ours(bench):
    with serving(bench.client.app) as port:
        for target in (b"http://127.0.0.1:8000", b"http://127.0.0.1:8000/", b"*", b"//", b"/%00", b"/%ff"):
            got = ask(port, b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target, seconds=3)
            assert [400 <= status < 500 for status in statuses(got)] == [True], (target, got)
