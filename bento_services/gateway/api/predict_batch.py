"""Several items in one request: each has its own answer or error, its own prediction id and its own log record."""

from __future__ import annotations

import asyncio
import base64
import binascii
import dataclasses
import json
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from starlette.requests import Request

from bento_services.gateway import request_validation
from bento_services.gateway.errors import ApiError, error_body
from bento_services.gateway.request_handler import RequestHandler
from bento_services.gateway.routing.request_coalescing import BundlePlace
from bento_services.gateway.routing.routes import KeyInfo, ProjectRoute
from bento_services.gateway.trace import Trace

if TYPE_CHECKING:
    from bento_services.gateway.api.schemas import BatchAnswerBody, BatchResultBody, PredictionBody

# How many items of one batch go to the models together: a batch must not starve the single requests beside it, and its
# parts must be answered well within the time that a model is given.
FIRST_PART, LARGEST_PART = 16, 32
PART_SECONDS = 1.0
DEADLINE_SECONDS = 15.0  # after it no item is begun; with the slowest answer still below the server's own limit
ITEM_FIELDS = ("text", "row", "base64", "media_type", "user_key", "business_key")
DEFAULT_TYPES = {"text": "text/plain", "row": "application/json", "base64": "application/octet-stream"}
CONTENT_FIELDS = {"image": ("base64",), "text": ("text", "base64"), "tabular": ("row", "base64")}


class RepeatedKey:
    """A JSON object in which a key stood twice: not usable, and no reason to refuse its neighbours."""


@dataclasses.dataclass(frozen=True, slots=True)
class BatchItem:
    """One item as it came: its bytes and what the caller said of it."""

    payload: bytes
    media_type: str
    user_key: str | None
    business_key: str | None


async def predict_batch(gateway: RequestHandler, request: Request, *, project: str, request_id: str) -> BatchAnswerBody:
    """Answer each item of a batch; what is wrong with one concerns that one."""
    key, route = gateway.admit(request, project)
    trace = gateway.trace(request, project=project, key=key, request_id=request_id)
    try:
        gateway.take(key, route, num_items=0)
        version = gateway.read_headers(request, trace, route)
        items = await _read_items(gateway, request, trace)
        gateway.take(key, route, num_items=len(items))
    except ApiError as error:
        if error.status != 429:
            gateway.recorder.log_error(trace, error)
        raise
    batch = _Batch(gateway, key=key, route=route, trace=trace, version=version)
    batch.chosen_id = "x-request-id" in request.headers
    with gateway.recorder.span(trace, "items"):
        results = await batch.run(items)
    num_ok = sum(result["status"] == 200 for result in results)
    return {"request_id": request_id, "num_ok": num_ok, "num_failed": len(results) - num_ok, "results": results}


async def _read_items(gateway: RequestHandler, request: Request, trace: Trace) -> list[Any]:
    request_validation.check_json_type(request)
    config = gateway.config
    with gateway.recorder.span(trace, "read"):
        body = await request_validation.read_body(
            request, limit_bytes=config.batch_max_bytes, timeout_seconds=config.body_timeout_seconds
        )
    with gateway.recorder.span(trace, "check"):
        if len(body) > request_validation.DECODE_IN_THREAD_BYTES:
            return await anyio.to_thread.run_sync(parse_items, body, config.batch_max_items)
        return parse_items(body, config.batch_max_items)


def parse_items(body: bytes, max_items: int) -> list[Any]:
    """Return the items of `{"items": [...]}`, not looked at yet.

    Raises:
        ApiError: 400 it is no JSON object, 413 too many items, 422 no list of items.
    """
    try:
        document = json.loads(body.decode("utf-8"), object_pairs_hook=_object)
    except (ValueError, RecursionError):
        raise ApiError(400, "JSON_INVALID", "the body must be one JSON object in UTF-8.", field="body") from None
    if not isinstance(document, dict):
        raise ApiError(400, "JSON_INVALID", "the body must be one JSON object, each key once.", field="body")
    request_validation.refuse_unknown(document, ("items",))
    items = document.get("items")
    if not isinstance(items, list) or not items:
        raise ApiError(422, "FIELD_INVALID", "items must be a list of at least one item.", field="items")
    if len(items) > max_items:
        message = f"items must be at most {max_items} (got {len(items)}). Send them in several batches."
        raise ApiError(413, "TOO_MANY_ITEMS", message, field="items")
    return items


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | RepeatedKey:
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else RepeatedKey()


def parse_item(item: Any, *, modality: str, limit_bytes: int) -> BatchItem:
    """Return one item's bytes: `text`, `row` or `base64`, one of them.

    Raises:
        ApiError: 413 it is too large, 422 anything else.
    """
    if not isinstance(item, dict):
        raise ApiError(422, "ITEM_INVALID", "an item must be a JSON object, each key once.", field="items")
    request_validation.refuse_unknown(item, ITEM_FIELDS)
    allowed = CONTENT_FIELDS.get(modality, ("text", "row", "base64"))
    given = [name for name in ("text", "row", "base64") if item.get(name) is not None]
    if len(given) != 1 or given[0] not in allowed:
        raise ApiError(
            422, "CONTENT_MISSING", f"an item must have exactly one of {', '.join(allowed)}.", field=allowed[0]
        )
    payload = _CONTENT[given[0]](item[given[0]])
    if len(payload) > limit_bytes:
        raise ApiError(413, "BODY_TOO_LARGE", f"an item must have at most {limit_bytes} bytes.", field=given[0])
    media_type = request_validation.text_field(item, "media_type", required=False) or DEFAULT_TYPES[given[0]]
    request_validation.require_media_type(media_type, modality=modality, field="media_type")
    return BatchItem(
        payload=payload,
        media_type=media_type,
        user_key=request_validation.text_field(item, "user_key", required=False),
        business_key=request_validation.text_field(item, "business_key", required=False),
    )


def _from_text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ApiError(422, "FIELD_INVALID", f"text must be text (got {type(value).__name__}).", field="text")
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise ApiError(422, "TEXT_NOT_UTF8", "text must be valid Unicode (got half a pair).", field="text") from None


def _from_row(value: Any) -> bytes:
    if not isinstance(value, dict):
        raise ApiError(422, "FIELD_INVALID", "row must be a JSON object, each key once.", field="row")
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise ApiError(422, "TEXT_NOT_UTF8", "row must be valid Unicode (got half a pair).", field="row") from None
    except ValueError:
        raise ApiError(422, "NOT_FINITE", "numbers must be finite (got NaN or infinity).", field="row") from None
    except TypeError:
        raise ApiError(422, "FIELD_INVALID", "row must have each key once, at every depth.", field="row") from None


def _from_base64(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise ApiError(422, "BASE64_INVALID", "base64 must be the item's bytes in base64.", field="base64") from None


_CONTENT = {"text": _from_text, "row": _from_row, "base64": _from_base64}


def next_size(num_items: int, *, seconds: float) -> int:
    """Return how many items to take next, when so many took so long."""
    return min(max(1, int(num_items * PART_SECONDS / max(seconds, 1e-6))), LARGEST_PART)


class _Batch:
    """The items of one request under way."""

    chosen_id = False

    def __init__(
        self, gateway: RequestHandler, *, key: KeyInfo, route: ProjectRoute, trace: Trace, version: str | None
    ) -> None:
        self._gateway = gateway
        self._key = key
        self._route = route
        self._trace = trace
        self._version = version
        self._deadline = trace.started + DEADLINE_SECONDS

    async def run(self, items: list[Any]) -> list[BatchResultBody]:
        """Return one result per item, in their order."""
        results: list[BatchResultBody] = []
        size = FIRST_PART
        while len(results) < len(items):
            part = items[len(results) : len(results) + size]
            began = self._gateway.monotonic()
            results += await self._run_part(part, start=len(results))
            size = next_size(len(part), seconds=self._gateway.monotonic() - began)
        return results

    async def _run_part(self, part: list[Any], *, start: int) -> list[BatchResultBody]:
        bundle = self._gateway.dispatcher.bundle(num_items=len(part))
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._result(index, item, bundle.place())) for index, item in enumerate(part, start)
            ]
        return [task.result() for task in tasks]

    async def _result(self, index: int, item: Any, place: BundlePlace) -> BatchResultBody:
        trace = Trace(
            request_id=f"{self._trace.request_id}:{index}",
            project=self._trace.project,
            started=self._gateway.monotonic(),
            client=self._key.key_id,
            place=place,
        )
        outcome: BatchResultBody = {"index": index, "status": 200, "prediction": None, "error": None}
        try:
            outcome["prediction"] = await self._gateway.logged(trace, self._answer(trace, item))
        except ApiError as error:
            outcome |= {"status": error.status, "error": error_body(error, request_id=trace.request_id)}
        except Exception as error:  # noqa: BLE001  a defect met by one item must not take its neighbours' answers
            outcome |= {"status": 500, "error": self._gateway.defect(error, request_id=trace.request_id)}
        finally:
            place.leave()
        return outcome

    async def _answer(self, trace: Trace, item: Any) -> PredictionBody:
        if self._gateway.monotonic() > self._deadline:
            message = f"a batch must be done within {DEADLINE_SECONDS:g} s. Send the rest again."
            raise ApiError(503, "BATCH_TOO_SLOW", message, retry_after_seconds=1)
        settings = self._route.settings
        parsed = parse_item(item, modality=settings.modality, limit_bytes=settings.max_request_bytes)
        request_validation.check_personal(settings, {"user_key": parsed.user_key, "business_key": parsed.business_key})
        trace.payload, trace.media_type, trace.is_raw = parsed.payload, parsed.media_type, bool(settings.deny)
        trace.user_key = parsed.user_key or self._trace.user_key
        trace.business_key = parsed.business_key
        return await self._gateway.answer(trace, self._route, version=self._version, chosen_id=self.chosen_id)
