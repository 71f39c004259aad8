"""Refuse at the door: a request that will be refused anyway costs no task, no ASGI messages and no reading of its body.

At three times its capacity a service refuses two requests for each that it answers, and what a refusal costs is taken
from the answers. The first of a flood is refused when its head is complete; those after it, as long as nothing is let
in, before uvicorn sets up anything for them: by a parser of the same kind that notes nothing but the head.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import httptools
import uvicorn.protocols.http.auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Given the path and the headers of a POST: the whole HTTP response to refuse it with, or None to let it in.
Refuse = Callable[[bytes, Mapping[bytes, bytes]], bytes | None]


class _Refused:
    """Stands where uvicorn keeps the request that is being answered: this one is done, its body is passed over."""

    response_complete = True
    message_event = asyncio.Event()  # nobody waits for it


REFUSED = _Refused()


class Reader:
    """Reads whole requests that keep their connection, of any connection, one after the other."""

    def __init__(self) -> None:
        self._begin()

    def head(self, data: bytes) -> tuple[bytes, Mapping[bytes, bytes]] | None:
        """Return path and headers if the bytes are one whole POST and nothing else; None for whatever else they are."""
        self._num_begun = self._num_complete = 0
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._begin()
            return None
        if self._num_begun != 1 or self._num_complete != 1 or not self._is_plain:
            self._begin()  # it may hold a part of another request, or take no other after this one
            return None
        return self._url, self._headers

    def _begin(self) -> None:
        self._parser = httptools.HttpRequestParser(self)

    def on_message_begin(self) -> None:
        self._num_begun += 1
        self._url = b""
        self._headers: dict[bytes, bytes] = {}

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._is_plain = _is_plain(self._parser)

    def on_message_complete(self) -> None:
        self._num_complete += 1


def _is_plain(parser: Any) -> bool:
    """Return whether the head that was just read is that of a POST on a connection that stays an HTTP/1.1 one."""
    if parser.get_method() != b"POST" or parser.get_http_version() != "1.1":
        return False
    return parser.should_keep_alive() and not parser.should_upgrade()


class Flood:
    """The answer to the last caller, refused or not, for all connections of a process."""

    is_on = False


class Door(HttpToolsProtocol):
    """uvicorn's protocol, asking before it takes a request in; stands in front of another that is derived from it."""

    cycle: Any
    refuse: Refuse
    flood: Flood
    reader: Reader
    _is_between = False  # the last request has wholly arrived, and nothing of the next
    _refused_at = 0.0

    def data_received(self, data: bytes) -> None:
        # While uvicorn's timer runs, the last request is answered and no other waits.
        if self.flood.is_on and self._is_between and self.timeout_keep_alive_task is not None and self._is_heard():
            head = self.reader.head(data)
            response = self.refuse(*head) if head is not None else None
            if response is not None:
                self._refused_at = self.loop.time()
                self.transport.write(response)
                return
        super().data_received(data)

    def _is_heard(self) -> bool:
        """Return whether the caller reads what is sent; uvicorn's own way stops reading from one who does not."""
        return not self.flow.write_paused

    def on_message_begin(self) -> None:
        self._is_between = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        # Only the plain case: a request behind another one on its connection goes the ordinary way.
        first = (self.cycle is None or self.cycle.response_complete) and not self.pipeline
        plain = first and self._is_heard() and _is_plain(self.parser)
        response = self.refuse(self.url, dict(self.headers)) if plain else None
        self.flood.is_on = response is not None
        if response is None:
            self._unset_keepalive_if_required()  # set by a refusal in the same read
            super().on_headers_complete()
            return
        self.cycle = REFUSED
        self.transport.write(response)
        self.on_response_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_between = True

    def timeout_keep_alive_handler(self) -> None:
        idle_until = self._refused_at + self.timeout_keep_alive
        if self.loop.time() < idle_until:
            self.timeout_keep_alive_task = self.loop.call_at(idle_until, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()


def door(refuse: Refuse, base: type[HttpToolsProtocol] = HttpToolsProtocol) -> type[HttpToolsProtocol]:
    """Return uvicorn's HTTP protocol, or one derived from it, behind a door of its own."""
    parts = {"refuse": staticmethod(refuse), "flood": Flood(), "reader": Reader()}
    return type("Guarded", (Door, base), parts)


def guard_door(refuse: Refuse) -> None:
    """Have the HTTP servers that this process starts from now on ask before they take a request in.

    Call it last: what it stands in front of hears nothing of most requests in a flood. BentoML starts uvicorn with
    `http="auto"` and passes no protocol on (1.4.39), so this is where one can be named.
    """
    base: Any = uvicorn.protocols.http.auto.AutoHTTPProtocol
    uvicorn.protocols.http.auto.AutoHTTPProtocol = door(refuse, base)
