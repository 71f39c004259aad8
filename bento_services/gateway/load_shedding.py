"""While no slot is free, predictions are refused at the door: nobody looks who asks, and the log is not filled."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Mapping
from http import HTTPStatus

from bento_services.gateway.auth import is_known
from bento_services.gateway.errors import error_response
from bento_services.gateway.request_handler import RequestHandler
from bento_services.gateway.server_timing import TIMING_HEADER, format_timing
from bento_services.gateway.trace import no_slot

REFUSED_LABEL = f'code="{no_slot().code}"'
PREDICT = re.compile(rb"/v1/projects/[a-z0-9_]{3,40}/predict")


class Entrance:
    """Refuses predictions while no slot is free; lives in one event loop.

    Whoever is let in takes a slot only when the loop comes to the request and its body is there. So those of the same
    turn are counted here, if they have a key: a turn of a loaded loop has hundreds. A body that comes in a later turn
    is not waited for, so that slow callers hold no slots; it may be refused behind the door.
    """

    def __init__(self) -> None:
        self._num_let_in = 0

    def refuse(self, gateway: RequestHandler, url: bytes, headers: Mapping[bytes, bytes]) -> bytes | None:
        """Return the HTTP response to a prediction request that comes into a flood; None for any other.

        A request whose id the caller chose is looked at: the id may be one that cannot be returned.
        """
        if not PREDICT.fullmatch(url):
            return None
        if b"x-request-id" in headers or gateway.has_slots(self._num_let_in + 1):
            self._let_in(gateway, headers)
            return None
        gateway.metrics.add("dethrone_refused_total", label=REFUSED_LABEL)
        gateway.metrics.observe(0.0)
        request_id = gateway.new_id()
        return request_id.encode().join(_around_id(len(request_id)))

    def _let_in(self, gateway: RequestHandler, headers: Mapping[bytes, bytes]) -> None:
        snapshot = gateway.follower.snapshot
        if snapshot is None or not is_known(snapshot, headers.get(b"authorization", b"").decode("latin-1")):
            return
        if not self._num_let_in:
            asyncio.get_running_loop().call_soon(self._turn_over)
        self._num_let_in += 1

    def _turn_over(self) -> None:
        self._num_let_in = 0


@functools.lru_cache(maxsize=1)
def _around_id(length: int) -> tuple[bytes, ...]:
    """Return the parts of the response between which the request's id stands; ids of one length share them."""
    placeholder = "?" * length
    error = no_slot()
    response = error_response(error, request_id=placeholder)
    response.headers[TIMING_HEADER] = format_timing({}, total_seconds=0.0)
    lines = [b"HTTP/1.1 %d %s" % (error.status, HTTPStatus(error.status).phrase.encode())]
    lines += [b"%s: %s" % header for header in response.raw_headers]
    return tuple(b"\r\n".join([*lines, b"", bytes(response.body)]).split(placeholder.encode()))
