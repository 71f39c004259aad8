"""What goes in and out over HTTP: one item's raw bytes, one JSON answer, no per-request schema building.

BentoML's own descriptors rebuild a pydantic schema for every response and parse bodies without a limit; these two
replace them. An item is read and decoded here, before any batch: a bad one becomes a Refusal and can fail nobody else.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from typing import Any, ClassVar

import anyio.to_thread
from _bentoml_sdk.io_models import IODescriptor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from pipeline_tasks.errors import InputError
from pipeline_tasks.models.base import Array

MAX_BODY_BYTES = 64 * 1024 * 1024
DECODE_IN_THREAD_BYTES = 32 * 1024

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """Why one item has no prediction; the HTTP status says whose fault it is."""

    status: int
    code: str
    message: str
    field: str | None = None

    def body(self) -> dict[str, Any]:
        return {"error": {"code": self.code, "message": self.message, "field": self.field, "request_id": None}}


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """One item's probabilities, in the order of `labels`."""

    model_version: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]

    def body(self) -> dict[str, Any]:
        return {"model_version": self.model_version, "labels": self.labels, "probabilities": self.probabilities}


Row = Prediction | Refusal

MODEL_FAILED = Refusal(
    503, "MODEL_FAILED", "the model must answer with finite numbers (got an error). Try again later."
)


async def read_body(request: Request, *, limit_bytes: int) -> bytes:
    """Return the request's body.

    Raises:
        InputError: BODY_TOO_LARGE, told from the header or while it arrives, before it is held whole.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise _too_large(int(declared), limit_bytes)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit_bytes:
            raise _too_large(size, limit_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(size: int, limit_bytes: int) -> InputError:
    return InputError(
        f"the body must have at most {limit_bytes} bytes (got {size} or more). Send a smaller item.",
        code="BODY_TOO_LARGE",
    )


async def decode_item(data: bytes, *, decode: Callable[[bytes], Array]) -> Array | Refusal:
    """Return the decoded item, or why it cannot be used; big ones are decoded outside the event loop."""
    try:
        if len(data) > DECODE_IN_THREAD_BYTES:
            return await anyio.to_thread.run_sync(decode, data)
        return decode(data)
    except InputError as error:
        return Refusal(422, error.code, str(error), "body")
    except MemoryError:
        return MODEL_FAILED
    except Exception:  # the decoder is pure: what breaks it is in the bytes
        logger.exception("decoding failed")
        return Refusal(422, "ITEM_INVALID", "the item must decode (got an error in its bytes).", "body")


class RawItem(IODescriptor):  # type: ignore[misc]  # BentoML is untyped
    """The body of a request: one encoded item. `decoder` is set by the service when its model is loaded."""

    media_type: ClassVar[str | None] = "application/octet-stream"
    __root_input__: ClassVar[bool] = True
    decoder: ClassVar[Callable[[bytes], Array] | None] = None

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> Any:  # noqa: ARG003  (BentoML's signature)
        """Return the decoded item or its refusal."""
        if cls.decoder is None:
            return Refusal(503, "NOT_READY", "the model must be loaded first (got a request before). Try again.")
        try:
            data = await read_body(request, limit_bytes=MAX_BODY_BYTES)
        except InputError as error:
            return Refusal(413, error.code, str(error), "body")
        except ClientDisconnect:
            return Refusal(400, "CLIENT_GONE", "the body must arrive whole (got a closed connection).", "body")
        return await decode_item(data, decode=cls.decoder)


class JsonAnswer(IODescriptor):  # type: ignore[misc]  # BentoML is untyped
    """The answer to one request: a prediction or an error, as JSON."""

    media_type: ClassVar[str | None] = "application/json"

    @classmethod
    async def to_http_response(cls, obj: Any, serde: Any) -> Response:  # noqa: ARG003  (BentoML's signature)
        """Return a row's response."""
        row: Row = obj
        status = row.status if isinstance(row, Refusal) else 200
        headers = {"Retry-After": "1"} if status == 503 else None
        content = json.dumps(row.body(), allow_nan=False, separators=(",", ":"))
        return Response(content, status_code=status, headers=headers, media_type="application/json")
