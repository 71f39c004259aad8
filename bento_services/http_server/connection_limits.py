"""Bounds what uvicorn leaves open: how long, and how slow, the head of an HTTP request may be, and idle connections.

Without it a caller without a key holds a connection for ever by sending a header a byte at a time, and fills the memory
with one header that does not end. And uvicorn closes an idle connection on a request that has arrived, when its loop is
behind: in an overload one request in 400.
"""

from __future__ import annotations

import asyncio
import select
from typing import Any

import uvicorn.protocols.http.auto

from bento_services.http_server.protocol_upgrades import StaysHttp

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100  # of a head that is not complete: an object each
HEAD_SECONDS = 10.0
LOOK_AGAIN_SECONDS = 0.1
MAX_LOOKS = 20  # at the end, for requests that have arrived
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedHeads(StaysHttp):
    """uvicorn's protocol; closes a connection whose next head, or trailer, is too long or too slow.

    Counted is what came since the last whole head or piece of a body; one read (at most 256 KiB) may come on top.
    It may stand in front of another protocol that is derived from uvicorn's.
    """

    max_head_bytes = MAX_HEAD_BYTES
    head_seconds = HEAD_SECONDS
    idle_seconds: int | None = None  # as the server was started
    _num_bytes = 0
    _num_looks = 0
    _timer: asyncio.TimerHandle | None = None
    _answering: Any = None  # uvicorn's cycle of the request that is being answered; its own is the last that came

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.idle_seconds is not None:
            self.timeout_keep_alive = self.idle_seconds
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)
        if self._answering is not None:  # or its answer would be an error in the log
            self._answering.disconnected = True
            self._answering.message_event.set()
        self._unset_keepalive_if_required()  # uvicorn leaves it, and with it all of this, after a reset

    def data_received(self, data: bytes) -> None:
        self._num_bytes += len(data)
        super().data_received(data)
        if self._is_too_large() and not self.transport.is_closing():
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

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.is_closing():  # its caller reads nothing any more
            self.transport.abort()
        elif _has_arrived(self.transport):  # the loop has not come to it yet, and will
            self.timeout_keep_alive_task = self.loop.call_later(LOOK_AGAIN_SECONDS, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    @property
    def is_idle(self) -> bool:
        """The state between two requests: the last is answered, the next has not begun."""
        return self.timeout_keep_alive_task is not None

    def make_room(self) -> None:
        """Close the connection, which is idle, unless a request has arrived: another needs its place."""
        if not _has_arrived(self.transport):
            self.transport.close()

    def shutdown(self) -> None:
        """End the connection with its request, also with one that has arrived and was not read yet."""
        is_asked = not self.transport.is_closing() and _has_arrived(self.transport)
        if is_asked and self._num_looks < MAX_LOOKS:
            self._num_looks += 1
            self.loop.call_later(LOOK_AGAIN_SECONDS, self.shutdown)
        else:
            super().shutdown()

    def _is_too_large(self) -> bool:
        """Return whether a head, or trailer, is too long for what it is made of; a complete one never is."""
        is_crowded = self._timer is not None and len(self.headers or ()) > MAX_HEADERS
        return is_crowded or self._num_bytes > self.max_head_bytes

    def _close_if_idle_later(self) -> None:
        """Start uvicorn's timer anew where bytes that are no request stopped it: a line break, the rest of a body."""
        is_idle = self.cycle is not None and self.cycle.response_complete and self.timeout_keep_alive_task is None
        if is_idle and not self.transport.is_closing():
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


def _has_arrived(transport: asyncio.Transport) -> bool:
    """Return whether there is anything to read on a connection."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def bound_heads(*, idle_seconds: int | None = None) -> None:
    """Have the HTTP servers that this process starts from now on use it, on top of what is set already.

    `idle_seconds`: how long a connection may be idle, where it is not what the server was started with.
    BentoML starts uvicorn with `http="auto"` and passes no protocol on (1.4.39), so this is where one can be named.
    """
    base = uvicorn.protocols.http.auto.AutoHTTPProtocol
    uvicorn.protocols.http.auto.AutoHTTPProtocol = type("Bounded", (BoundedHeads, base), {"idle_seconds": idle_seconds})
