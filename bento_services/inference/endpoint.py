"""POST /predict as a plain ASGI application: what lies between the HTTP server and the batcher.

BentoML keeps the process, its life cycle, /readyz and /metrics; a request of its own API costs it 3 to 10 times what
this does (benchmarks/serving), most of it for spans, schemas and timers that nobody here uses.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
import hmac
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import anyio.to_thread
from starlette.types import ASGIApp, Receive, Scope, Send

from bento_services.inference.batcher import MicroBatcher, PredictedRows, QueueFullError, TooLateError
from bento_services.inference.isolated_prediction import Model
from bento_services.inference.metrics import InferenceMetrics
from bento_services.inference.openapi import document
from bento_services.inference.request_decoding import Content, Item, read_content
from bento_services.inference.responses import (
    CONTENT_JSON,
    CONTENT_TENSOR,
    NOT_READY,
    OVERLOADED,
    TOO_LATE,
    Answers,
    PredictionError,
    Row,
    error_body,
)
from pipeline_tasks.errors import InputError
from pipeline_tasks.models.base import Array, Signature

MAX_BODY_BYTES = 64 * 1024 * 1024
BODY_SECONDS = 10.0
DECODE_IN_THREAD_BYTES = 32 * 1024
DEADLINE_SECONDS = 5.0  # what the gateway waits for an answer
MAX_DEADLINE_SECONDS = 60.0
TIMEOUT_HEADER = b"x-request-timeout-ms"
MAX_TIMEOUT_DIGITS = 9
REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")
# A refusal may come before the body was read: closing spares both sides the rest of it.
CLOSE = (b"connection", b"close")
MORE_HEADERS = {
    400: [CLOSE],
    401: [(b"www-authenticate", b"Bearer"), CLOSE],
    405: [(b"allow", b"POST"), CLOSE],
    408: [CLOSE],
    413: [CLOSE],
    415: [CLOSE],
    503: [(b"retry-after", b"1")],
}
STATUS_OF = {"BODY_TOO_LARGE": 413, "BATCH_TOO_LARGE": 413, "BODY_TOO_SLOW": 408, "CLIENT_GONE": 400}

UNUSABLE_TYPE = PredictionError(
    415, "MEDIA_TYPE_INVALID", "the body must be a plain item, batch or tensor (got a pickle or a coding).", "body"
)
NOT_POST = PredictionError(405, "METHOD_NOT_ALLOWED", "the method must be POST here.")
KEY_UNKNOWN = PredictionError(
    401, "KEY_UNKNOWN", "Authorization must be `Bearer <inference key>`. Ask the gateway instead.", "Authorization"
)
NOT_FOUND = PredictionError(404, "NOT_FOUND", "the path must be one of the service's. See /docs.json.")
# BentoML's other pages say what is inside and load scripts from the internet.
HEALTH = frozenset({"/healthz", "/livez", "/readyz"})
LEFT_TO_BENTOML = HEALTH | {"/metrics"}
BEARER = b"Bearer "
INTERNAL = PredictionError(500, "INTERNAL", "the service must answer (got an error of its own). Report the request id.")
BAD_TIMEOUT = PredictionError(
    400, "HEADER_INVALID", "x-request-timeout-ms must be a whole number of milliseconds from 1."
)

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model version and what answers for it."""

    model: Model
    signature: Signature
    batcher: MicroBatcher[Array, Row]
    answers: Answers
    max_items: int


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """The head of a request, before its body: `seconds` is the caller's remaining time."""

    media_type: str
    declared_bytes: int
    seconds: float


class RefusedRequest(Exception):
    """The request as a whole has no prediction."""

    def __init__(self, refusal: PredictionError, *, num_items: int = 1) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal
        self.num_items = num_items


class Endpoint:
    """Answers POST /predict and GET /docs.json; `serving` is set when the model is loaded.

    `key_digest` is the SHA-256 of the key that its callers have to send.
    """

    def __init__(self, *, key_digest: bytes | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.serving: ServedModel | None = None
        self.key_digest = key_digest
        self.metrics = InferenceMetrics()
        self._monotonic = monotonic

    def admits(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Return whether a request's headers have the key."""
        if self.key_digest is None:
            return True
        given = next((value for name, value in headers if name == b"authorization"), b"")
        digest = hashlib.sha256(given.removeprefix(BEARER)).digest()
        return given.startswith(BEARER) and hmac.compare_digest(digest, self.key_digest)

    async def predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        began = self._monotonic()
        given = dict(scope["headers"])
        request_id = _request_id(given)
        headers = [CONTENT_JSON]
        try:
            status = 200
            headers[0], body, timing = await self._answer(
                scope["method"], given, receive, began=began, request_id=request_id
            )
            headers.append((b"server-timing", timing))
        except RefusedRequest as refused:
            status, body = refused.refusal.status, error_body(refused.refusal, request_id=request_id)
            self.metrics.items[refused.refusal.code] += refused.num_items
            headers += MORE_HEADERS.get(status, ())
        except Exception:
            logger.exception("a request failed")
            status, body = INTERNAL.status, error_body(INTERNAL, request_id=request_id)
            self.metrics.items[INTERNAL.code] += 1
        headers.append((b"content-length", b"%d" % len(body)))
        if request_id is not None:
            headers.append((b"x-request-id", request_id.encode()))
        self.metrics.answered(status, seconds=self._monotonic() - began)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(
        self, method: str, given: Mapping[bytes, bytes], receive: Receive, *, began: float, request_id: str | None
    ) -> tuple[tuple[bytes, bytes], bytes, bytes]:
        """Return the answer's content type, body and where its time went, or raise RefusedRequest with an error."""
        serving = self.serving
        if serving is None:
            raise RefusedRequest(NOT_READY)
        if method != "POST":
            raise RefusedRequest(NOT_POST)
        head = read_head(given)
        deadline = began + head.seconds
        if not serving.batcher.has_room(1, deadline=deadline):  # before any work on it: a flood must stay cheap
            raise RefusedRequest(OVERLOADED)
        try:
            data = await read_body(receive, declared_bytes=head.declared_bytes)
            arrived = self._monotonic()
            content = await _content(serving, data, media_type=head.media_type)
        except InputError as error:
            raise RefusedRequest(
                PredictionError(STATUS_OF.get(error.code, 422), error.code, str(error), "body")
            ) from None
        decode_seconds = self._monotonic() - arrived
        done = await _rows(serving, content.items, deadline=deadline)
        timing = b"decode;dur=%.3f, queue;dur=%.3f, model;dur=%.3f" % (
            1000 * decode_seconds,
            1000 * done.queue_seconds,
            1000 * done.model_seconds,
        )
        if not content.single:
            for row in done.rows:
                self.metrics.items[row.code if isinstance(row, PredictionError) else "OK"] += 1
            return CONTENT_JSON, serving.answers.batch(done.rows, request_id=request_id), timing
        (row,) = done.rows
        if isinstance(row, PredictionError):
            raise RefusedRequest(row)
        self.metrics.items["OK"] += 1
        if given.get(b"accept") == CONTENT_TENSOR[1]:
            return CONTENT_TENSOR, serving.answers.tensor(row), timing
        return CONTENT_JSON, serving.answers.single(row), timing


async def _content(serving: ServedModel, data: bytes, *, media_type: str) -> Content:
    """Return the body's items; big ones are decoded outside the event loop."""
    read = functools.partial(
        read_content,
        data,
        media_type=media_type,
        decode=serving.model.decode,
        signature=serving.signature,
        max_items=serving.max_items,
    )
    return await anyio.to_thread.run_sync(read) if len(data) > DECODE_IN_THREAD_BYTES else read()


async def _rows(serving: ServedModel, items: Sequence[Item], *, deadline: float) -> PredictedRows[Row]:
    """Return a row for each item; those that could not be read keep their refusal.

    Raises:
        RefusedRequest: there is no room, or no time, for the request.
    """
    good = [item for item in items if not isinstance(item, PredictionError)]
    if not good:
        return PredictedRows([item for item in items if isinstance(item, PredictionError)], 0.0, 0.0)
    try:
        done = await serving.batcher.submit(good, deadline=deadline)
    except QueueFullError:
        raise RefusedRequest(OVERLOADED, num_items=len(items)) from None
    except TooLateError:
        raise RefusedRequest(TOO_LATE, num_items=len(items)) from None
    if len(good) == len(items):
        return done
    left = iter(done.rows)
    rows = [item if isinstance(item, PredictionError) else next(left) for item in items]
    return dataclasses.replace(done, rows=rows)


def _request_id(given: Mapping[bytes, bytes]) -> str | None:
    """Return the caller's name for this request, if it is one that can be returned."""
    request_id = given.get(b"x-request-id")
    return request_id.decode() if request_id is not None and REQUEST_ID.fullmatch(request_id) else None


def read_head(headers: Mapping[bytes, bytes]) -> Head:
    """Return what the headers say (ASGI has their names in lower case); RefusedRequest when it cannot be met."""
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if b"pickle" in media_type or headers.get(b"content-encoding", b"identity") != b"identity":
        raise RefusedRequest(UNUSABLE_TYPE)
    seconds = DEADLINE_SECONDS
    timeout = headers.get(TIMEOUT_HEADER)
    if timeout is not None:
        if not timeout.isdigit() or len(timeout) > MAX_TIMEOUT_DIGITS or int(timeout) < 1:
            raise RefusedRequest(BAD_TIMEOUT)
        seconds = min(int(timeout) / 1000, MAX_DEADLINE_SECONDS)
    length = headers.get(b"content-length", b"")
    return Head(media_type.decode("latin-1"), int(length) if length.isdigit() else 0, seconds)


async def read_body(
    receive: Receive, *, declared_bytes: int, limit_bytes: int = MAX_BODY_BYTES, seconds: float = BODY_SECONDS
) -> bytes:
    """Return the request's body.

    Raises:
        InputError: BODY_TOO_LARGE, told from the header or while it arrives, before it is held whole; BODY_TOO_SLOW;
            CLIENT_GONE.
    """
    if declared_bytes > limit_bytes:
        raise _too_large(declared_bytes, limit_bytes)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise InputError("the body must arrive whole (got a closed connection).", code="CLIENT_GONE")
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > limit_bytes:
                    raise _too_large(size, limit_bytes)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return chunk if len(chunks) == 1 else b"".join(chunks)
    except TimeoutError:
        raise InputError(f"the body must arrive within {seconds:g} s (got a part).", code="BODY_TOO_SLOW") from None


def _too_large(size: int, limit_bytes: int) -> InputError:
    return InputError(
        f"the body must have at most {limit_bytes} bytes (got {size} or more). Send a smaller item or batch.",
        code="BODY_TOO_LARGE",
    )


class PathRouter:
    """Answers the endpoint's paths, and leaves health and metrics to BentoML; there is nothing else.

    Only health is open to callers without the key.

    As a BentoML middleware it would stand behind those for metrics, spans and timers. When the application starts, it
    therefore steps in front of the whole stack, unless `first` is false: then each request passes them all, for 1.2
    times its CPU (text, docs/benchmarks.md).
    """

    def __init__(self, app: ASGIApp, *, endpoint: Endpoint, first: bool = True) -> None:
        self._app = app
        self._endpoint = endpoint
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            path = scope["path"]
            if path not in HEALTH and not self._endpoint.admits(scope["headers"]):
                await send_refusal(KEY_UNKNOWN, send)
                return
            if path == "/predict":
                await self._endpoint.predict(scope, receive, send)
                return
            if path == "/docs.json":
                await send_document(self._endpoint, send)
                return
            if path not in LEFT_TO_BENTOML:
                await send_refusal(NOT_FOUND, send)
                return
        elif kind == "lifespan" and self._first:
            outer = scope["app"]
            outer.middleware_stack = PathRouter(outer.middleware_stack, endpoint=self._endpoint, first=False)
        await self._app(scope, receive, send)


async def send_document(endpoint: Endpoint, send: Send) -> None:
    """Answer with the OpenAPI description."""
    serving = endpoint.serving
    media_types = serving.signature.media_types if serving else ()
    body = json.dumps(document(media_types, max_items=serving.max_items if serving else 0)).encode()
    await send_whole(200, body, send)


async def send_refusal(refusal: PredictionError, send: Send) -> None:
    """Refuse a request without a look at its body."""
    await send_whole(refusal.status, error_body(refusal, request_id=None), send)


async def send_whole(status: int, body: bytes, send: Send) -> None:
    """Send a JSON answer."""
    headers = [CONTENT_JSON, *MORE_HEADERS.get(status, ()), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
