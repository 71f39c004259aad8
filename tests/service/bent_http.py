"""Requests that bend HTTP itself, over a raw socket: two readings of one message, heads that are none, slow callers."""

from __future__ import annotations

import contextlib
import re
import socket

STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")  # anywhere: the body of the answer before need not end in a line break
SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


def raw(port: int, data: bytes, *, timeout_seconds: float = 8.0) -> bytes:
    """Send bytes and return what comes until the other side closes, falls silent or resets."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_seconds) as connection:
        got = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            connection.sendall(data)
            while chunk := connection.recv(65536):
                got += chunk
        return got


def statuses(got: bytes) -> list[int]:
    return [int(status) for status in STATUS.findall(got)]


def ambiguous(head: bytes) -> dict[str, bytes]:
    """Return messages whose end a proxy in front could see elsewhere; `head` lacks its length and empty line."""
    chunked = b"Transfer-Encoding: chunked\r\n"
    none = b"0\r\n\r\n"
    return {
        "length and chunked": head + b"Content-Length: 5\r\n" + chunked + b"\r\n" + none + SMUGGLED,
        "chunked and length": head + chunked + b"Content-Length: 5\r\n\r\n" + none + SMUGGLED,
        "two lengths": head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!" + SMUGGLED,
        "a list of lengths": head + b"Content-Length: 5, 5\r\n\r\nhello" + SMUGGLED,
        "negative length": head + b"Content-Length: -5\r\n\r\nhello" + SMUGGLED,
        "signed length": head + b"Content-Length: +5\r\n\r\nhello" + SMUGGLED,
        "hexadecimal length": head + b"Content-Length: 0x5\r\n\r\nhello" + SMUGGLED,
        "length beyond 64 bits": head + b"Content-Length: 99999999999999999999\r\n\r\nhello" + SMUGGLED,
        "no chunk size": head + chunked + b"\r\nzz\r\nhello\r\n" + none + SMUGGLED,
        "chunk size beyond 64 bits": head + chunked + b"\r\nfffffffffffffffff\r\nhello\r\n" + none + SMUGGLED,
        "chunk longer than said": head + chunked + b"\r\n2\r\nhello\r\n" + none + SMUGGLED,
        "not chunked last": head + b"Transfer-Encoding: chunked, identity\r\n\r\n" + none + SMUGGLED,
        "almost chunked": head + b"Transfer-Encoding: xchunked\r\n\r\n" + none + SMUGGLED,
        "blank before the colon": head + b"Transfer-Encoding : chunked\r\n\r\n" + none + SMUGGLED,
        "return in a value": head + b"X-User-Key: a\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello",
        "null in a value": head + b"X-User-Key: a\x00b\r\nContent-Length: 0\r\n\r\n" + SMUGGLED,
        "folded value": head + b"X-User-Key: a\r\n Transfer-Encoding: chunked\r\nContent-Length: -1\r\n\r\n" + SMUGGLED,
    }


def broken(head: bytes) -> dict[str, bytes]:
    """Return what is no request, or one that asks for what is not there."""
    return {
        "huge header": head + b"X-A: " + b"a" * 400_000 + b"\r\nContent-Length: 0\r\n\r\n",
        "many headers": head + b"".join(b"X-%d: a\r\n" % number for number in range(40_000)) + b"\r\n",
        "long target": b"GET /" + b"a" * 400_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        "body cut short": head + b"Content-Length: 100\r\n\r\nslow",
        "line break in a key": head + b"X-User-Key: a\r\nX-Business-Key: \xff\r\nContent-Length: 0\r\n\r\n",
        "another host": b"GET http://169.254.169.254/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "a proxy's tunnel": b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        "a web socket": head + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nContent-Length: 0\r\n\r\n",
        "target in bytes": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "nulls": b"\x00" * 1000,
    }


@contextlib.contextmanager
def half_open(port: int, head: bytes, *, count: int):
    """Hold connections that have sent half a head."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            connection.sendall(head)
        yield
