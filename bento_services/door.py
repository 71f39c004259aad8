"""Refuse at the door: a request that will be refused anyway costs no task, no ASGI messages and no reading of its body.

At three times its capacity a service refuses two requests for each that it answers, and what a refusal costs is taken
from the answers. uvicorn's own way to a refusal costs twice as much as this shortcut in its protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import uvicorn.protocols.http.auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Given the path and the headers of a POST: the whole HTTP response to refuse it with, or None to let it in.
Refuse = Callable[[bytes, list[tuple[bytes, bytes]]], bytes | None]


class _Refused:
    """Stands where uvicorn keeps the request that is being answered: this one is done, its body is passed over."""

    response_complete = True
    message_event = asyncio.Event()  # nobody waits for it


REFUSED = _Refused()


def door(refuse: Refuse) -> type[HttpToolsProtocol]:
    """Return uvicorn's HTTP protocol, asking before it takes a request in."""

    class Door(HttpToolsProtocol):
        cycle: Any

        def on_headers_complete(self) -> None:
            # Only the plain case: a request behind another one on its connection goes the ordinary way.
            first = (self.cycle is None or self.cycle.response_complete) and not self.pipeline
            plain = first and self.parser.get_method() == b"POST" and self.parser.should_keep_alive()
            response = refuse(self.url, self.headers) if plain else None
            if response is None:
                super().on_headers_complete()
                return
            self.cycle = REFUSED
            self.transport.write(response)
            self.on_response_complete()

    return Door


def guard_door(refuse: Refuse) -> None:
    """Have the HTTP servers that this process starts from now on ask before they take a request in.

    BentoML starts uvicorn with `http="auto"` and passes no protocol on (1.4.39), so this is where one can be named.
    """
    uvicorn.protocols.http.auto.AutoHTTPProtocol = door(refuse)
