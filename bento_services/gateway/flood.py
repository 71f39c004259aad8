"""While no slot is free, predictions are refused at the door: nobody looks who asks, and the log is not filled."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

from bento_services.gateway.core import Gateway
from bento_services.gateway.errors import error_response
from bento_services.gateway.timing import TIMING_HEADER, format_timing

PREDICT = re.compile(rb"/v1/projects/[a-z0-9_]{3,40}/predict")


def refuse(gateway: Gateway, url: bytes, headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return the HTTP response to a prediction request that comes into a flood; None for any other.

    A request whose id the caller chose is looked at: the id may be one that cannot be returned.
    """
    if gateway.is_free() or not PREDICT.fullmatch(url) or b"x-request-id" in headers:
        return None
    error = gateway.no_slot()
    gateway.metrics.add("dethrone_refused_total", label=f'code="{error.code}"')
    gateway.metrics.observe(0.0)
    response = error_response(error, request_id=gateway.new_id())
    response.headers[TIMING_HEADER] = format_timing({}, total_seconds=0.0)
    lines = [b"HTTP/1.1 %d %s" % (error.status, HTTPStatus(error.status).phrase.encode())]
    return b"\r\n".join([*lines, *(b"%s: %s" % header for header in response.raw_headers), b"", bytes(response.body)])
