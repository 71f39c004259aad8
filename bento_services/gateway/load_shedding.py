"""While no slot is free, predictions are refused at once: nobody looks who asks, and the log is not filled."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from bento_services.gateway.errors import error_response
from bento_services.gateway.request_handler import RequestHandler
from bento_services.gateway.server_timing import TIMING_HEADER, format_timing
from bento_services.gateway.trace import no_slot

REFUSED = no_slot()
PREDICT = re.compile(r"/v1/projects/[a-z0-9_]{3,40}/predict")


class LoadShedding:
    """ASGI middleware: refuses predictions that come into a flood, before their bodies are read.

    A request whose id the caller chose is looked at: the id may be one that cannot be returned.
    """

    def __init__(self, app: ASGIApp, gateway: RequestHandler) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway = self._gateway
        if gateway.has_slots() or not PREDICT.fullmatch(scope["path"]) or _has_id(scope):
            await self._app(scope, receive, send)
            return
        gateway.metrics.add("dethrone_refused_total", code=REFUSED.code)
        gateway.metrics.observe(0.0)
        response = error_response(REFUSED, request_id=gateway.new_id())
        response.headers[TIMING_HEADER] = format_timing({}, total_seconds=0.0)
        await response(scope, receive, send)


def _has_id(scope: Scope) -> bool:
    return any(name == b"x-request-id" for name, _ in scope["headers"])
