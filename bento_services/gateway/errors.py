"""The error contract: every refusal is `{"error": {"code", "message", "field", "request_id"}}` and a status."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

if TYPE_CHECKING:
    from bento_services.gateway.api.schemas import ErrorDetailBody


class ApiError(Exception):
    """A request that gets no prediction. The message names what was expected, never the payload or a secret."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.retry_after_seconds = retry_after_seconds


def json_response(
    body: Any, *, status: int = 200, request_id: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    """Return a JSON response; a NaN in it is a defect and raises here instead of reaching a caller."""
    content = json.dumps(body, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    extra = {"X-Request-Id": request_id} if request_id else {}
    return Response(content, status_code=status, media_type="application/json", headers={**extra, **(headers or {})})


def error_body(error: ApiError, *, request_id: str) -> ErrorDetailBody:
    """Return what the contract says of an error, in characters that every reader takes."""
    message = error.message.encode(errors="backslashreplace").decode()
    return {"code": error.code, "message": message, "field": error.field, "request_id": request_id}


def error_response(error: ApiError, *, request_id: str) -> Response:
    """Return an error as the contract has it."""
    body = {"error": error_body(error, request_id=request_id)}
    headers = {}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in {408, 413}:  # the rest of the body is not wanted: do not wait for it on this connection
        headers["Connection"] = "close"
    return json_response(body, status=error.status, request_id=request_id, headers=headers)
