"""Bounds what uvicorn leaves open: how long, and how slow, the head of an HTTP request may be, and idle connections.

Without it a caller without a key holds a connection for ever by sending a header a byte at a time, and fills the memory
with one header that does not end.
"""

from __future__ import annotations

import asyncio

import uvicorn.protocols.http.auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 10.0
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol; closes a connection whose next head, or trailer, is too long or too slow.

    Counted is what came since the last whole head or piece of a body; one read (at most 256 KiB) may come on top.
    It may stand in front of another protocol that is derived from uvicorn's.
    """

    max_head_bytes = MAX_HEAD_BYTES
    head_seconds = HEAD_SECONDS
    _num_bytes = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._num_bytes += len(data)
        super().data_received(data)
        if self._num_bytes > self.max_head_bytes and not self.transport.is_closing():
            self.transport.write(TOO_LARGE)
            self.transport.close()
        self._close_if_idle_later()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._timer is None:
            self._begin_head()

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._num_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._end_head()  # also of one that was refused before it
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._num_bytes = 0  # also of one that was answered before its end
        super().on_response_complete()

    def _close_if_idle_later(self) -> None:
        """Start uvicorn's timer anew where bytes that are no request stopped it: a line break, the rest of a body."""
        is_idle = self.cycle is not None and self.cycle.response_complete and self.timeout_keep_alive_task is None
        if is_idle and self in self.connections and not self.transport.is_closing():  # no WebSocket by now
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _begin_head(self) -> None:
        self._timer = self.loop.call_later(self.head_seconds, self.transport.close)

    def _end_head(self) -> None:
        self._num_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def bound_heads() -> None:
    """Have the HTTP servers that this process starts from now on use it, on top of what is set already.

    BentoML starts uvicorn with `http="auto"` and passes no protocol on (1.4.39), so this is where one can be named.
    """
    base = uvicorn.protocols.http.auto.AutoHTTPProtocol
    uvicorn.protocols.http.auto.AutoHTTPProtocol = type("Bounded", (BoundedHeads, base), {})
