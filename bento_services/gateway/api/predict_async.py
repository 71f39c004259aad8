"""Predictions that are read later: taken in, made in the background, and what is known of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.to_thread
from starlette.requests import Request

from bento_services.gateway import request_validation
from bento_services.gateway.async_predictions.callbacks import HEADER, check_callback
from bento_services.gateway.async_predictions.resources import AsyncResources
from bento_services.gateway.async_predictions.reviews import AWAY, NOT_NEEDED, Audited, Review
from bento_services.gateway.async_predictions.store import Stored, StoreFullError, Waiting
from bento_services.gateway.auth import EVERY_PROJECT
from bento_services.gateway.errors import ApiError, error_body
from bento_services.gateway.request_handler import RequestHandler
from bento_services.gateway.trace import Trace
from pipeline_tasks.contracts import sha256_hex

if TYPE_CHECKING:
    from bento_services.gateway.api.schemas import AcceptedBody

T = TypeVar("T")

NUM_WORKERS = 8
LEASE_SECONDS = 60.0  # longer than one attempt can take, replay included
IDLE_SECONDS = 0.5
RETRY_SECONDS = 2.0
GIVE_UP_SECONDS = 600.0  # so long a model that cannot answer is waited for
REVIEW_SECONDS = 30.0
REVIEW_LOOK_SECONDS = 3.0
HOUSEKEEPING_SECONDS = 60.0
MAX_CALLS = 16

logger = logging.getLogger(__name__)


async def accept(gateway: RequestHandler, request: Request, *, project: str, request_id: str) -> AcceptedBody:
    """Take a prediction to be made later; 422 and the like now, for what could never be answered."""
    key, route = gateway.admit(request, project)
    trace = gateway.trace(request, project=project, key=key, request_id=request_id)
    try:
        item, version = await gateway.read_item(request, key, route, trace)
        callback_url = check_callback(request_validation.check_header(request, HEADER), gateway.config.callbacks)
        with gateway.recorder.span(trace, "check"):
            content = await request_validation.canonical_item(item, route.settings)
    except ApiError as error:
        if error.status != 429:
            gateway.recorder.log_error(trace, error)
        raise
    chosen_id = "x-request-id" in request.headers
    owner = f"{key.key_id}/{project}/{request_id}"
    asked = {
        "request_id": request_id,
        "client": key.key_id,
        "media_type": trace.media_type,
        "user_key": trace.user_key,
        "business_key": trace.business_key,
        "version": version,
    }
    waiting = Waiting(
        # From the caller's own id, so that the same request again is the same prediction, also after a restart.
        prediction_id=sha256_hex(owner.encode())[:32] if chosen_id else gateway.new_id(),
        project=project,
        request=asked,
        payload=content if route.settings.deny else item,
        created_at=gateway.wall_ms() / 1000,
    )
    fingerprint = sha256_hex(json.dumps([sha256_hex(item), asked, callback_url]).encode())
    try:
        stored = await _of(
            gateway.async_resources.store.submit(
                waiting,
                fingerprint=fingerprint,
                item_id=request_validation.item_id(content, route.settings),
                callback_url=callback_url,
            )
        )
    except StoreFullError:
        raise ApiError(
            503, "QUEUE_FULL", "the queue must have room (got none). Send it again later.", retry_after_seconds=10
        ) from None
    except sqlite3.Error as error:
        logger.warning("the prediction store does not take a request: %s", error)
        raise ApiError(503, "STORE_AWAY", "the queue must be writable (it is not).", retry_after_seconds=10) from None
    if stored.fingerprint != fingerprint:
        raise ApiError(409, "REQUEST_ID_REUSED", "X-Request-Id must be new for a new request.", field="X-Request-Id")
    gateway.metrics.add("dethrone_async_accepted_total")
    return {"prediction_id": stored.prediction_id, "status": stored.state}


async def look_up(gateway: RequestHandler, request: Request, *, prediction_id: str) -> dict[str, Any]:
    """Return what is known of a prediction; 404 for one of another project, as for none at all.

    Raises:
        ApiError: 404 unknown, 410 expired, 503 not known here while the catalog is away.
    """
    key = gateway.authorize(request, scope="predict")
    if not request_validation.is_prediction_id(prediction_id):
        raise _unknown()
    resources = gateway.async_resources
    try:
        stored = await _of(resources.store.find(prediction_id))
    except sqlite3.Error as error:
        logger.warning("the prediction store cannot be read: %s", error)
        raise ApiError(503, "STORE_AWAY", "the store must be readable (it is not).", retry_after_seconds=10) from None
    if stored is not None and key.project not in {EVERY_PROJECT, stored.project}:
        raise _unknown()
    if stored is not None and stored.state in {"pending", "failed"}:
        return _described(stored, review=None)
    review = await _review(resources, prediction_id, stored=stored)
    if stored is not None and stored.state == "done":
        return _described(stored, review=_shown(review, stored))
    if review is AWAY:
        message = "the catalog must answer to say more (it is away), and this gateway does not hold the prediction."
        raise ApiError(503, "CATALOG_AWAY", message, retry_after_seconds=10)
    if isinstance(review, Audited) and key.project in {EVERY_PROJECT, review.project}:
        return {
            "prediction_id": prediction_id,
            "project": review.project,
            "status": "done",
            "prediction": None,
            "error": None,
            "review": review.review.as_json(),
        }
    if stored is not None:
        raise ApiError(410, "PREDICTION_EXPIRED", "the prediction must be read within its time (it was not).")
    raise _unknown()


def _unknown() -> ApiError:
    return ApiError(
        404,
        "PREDICTION_UNKNOWN",
        "the id must be of an asynchronous prediction, or of one that a person is to look at.",
        field="prediction_id",
    )


def _described(stored: Stored, *, review: Review | None) -> dict[str, Any]:
    return {
        "prediction_id": stored.prediction_id,
        "project": stored.project,
        "status": stored.state,
        "prediction": stored.answer if stored.state == "done" else None,
        "error": stored.answer if stored.state == "failed" else None,
        "review": None if review is None else review.as_json(),
    }


async def _review(resources: AsyncResources, prediction_id: str, *, stored: Stored | None) -> Audited | Review | None:
    known = {} if stored is None else {"project": _asked_in(stored), "item_id": stored.item_id}
    try:
        async with asyncio.timeout(REVIEW_LOOK_SECONDS):
            return await anyio.to_thread.run_sync(
                lambda: resources.reviews.find(prediction_id, **known), limiter=resources.looks, abandon_on_cancel=True
            )
    except Exception as error:  # noqa: BLE001  whatever the driver raises: it is told, not guessed
        logger.warning("the catalog does not answer about a prediction (%s)", type(error).__name__)
        return AWAY


def _asked_in(stored: Stored) -> str:
    """Return the project whose people look at a prediction: a composed one's is that of the node that answered."""
    answer = stored.answer or {}
    nodes = {node["node"]: str(node["project"]) for node in answer.get("nodes", ())}
    return nodes.get(answer.get("answered_by"), stored.project)


def _shown(review: Audited | Review | None, stored: Stored) -> Review:
    needed = bool(stored.answer and stored.answer.get("needs_review"))
    if isinstance(review, Audited):
        return review.review
    if review is not None:
        return review
    return Review("not_asked") if needed else NOT_NEEDED


class Worker:
    """Makes what waits, calls back, and forgets what is old; one task in the service's event loop."""

    def __init__(self, gateway: RequestHandler) -> None:
        self._gateway = gateway
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End; what was begun is made again by the next gateway when its lease has run out."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        kept_house_at = float("-inf")
        while True:
            busy = False
            try:
                busy = await self.run_once()
                if self._gateway.monotonic() - kept_house_at > HOUSEKEEPING_SECONDS:
                    await _of(self._gateway.async_resources.store.expire())
                    kept_house_at = self._gateway.monotonic()
            except Exception:  # what failed is tried again: the loop must outlive a full disk
                logger.exception("the asynchronous predictions stumbled")
                await asyncio.sleep(RETRY_SECONDS)
            if not busy:
                await asyncio.sleep(IDLE_SECONDS)

    async def run_once(self) -> bool:
        """Make what is due and call who is to be called; say whether there was anything."""
        resources = self._gateway.async_resources
        waiting = await _of(resources.store.claim(limit=NUM_WORKERS, lease_seconds=LEASE_SECONDS))
        await asyncio.gather(*(self._make(prediction) for prediction in waiting))
        for stored in await _of(resources.store.to_review(limit=MAX_CALLS, again_in=REVIEW_SECONDS)):
            review = await _review(resources, stored.prediction_id, stored=stored)
            if review is AWAY:
                break  # the others are asked about at their next turn: what is to be made must not wait for a catalog
            if isinstance(review, Audited) and review.review.state == "answered":
                await _of(resources.store.reviewed(stored.prediction_id))
        calls = await _of(resources.store.calls(limit=MAX_CALLS))
        await asyncio.gather(*(self._call(call.prediction_id, call.url, event=call.event) for call in calls))
        return bool(waiting or calls)

    async def _make(self, waiting: Waiting) -> None:
        gateway, asked = self._gateway, waiting.request
        trace = Trace(
            request_id=str(asked["request_id"]),
            project=waiting.project,
            started=gateway.monotonic(),
            client=str(asked["client"]),
            user_key=asked["user_key"],
            business_key=asked["business_key"],
            media_type=asked["media_type"],
            payload=waiting.payload,
            prediction_id=waiting.prediction_id,
        )
        store = gateway.async_resources.store
        try:
            route = gateway.route(waiting.project)
            answer = await gateway.answer(trace, route, version=asked["version"], chosen_id=False)
        except ApiError as error:
            if error.status == 503 and gateway.wall_ms() / 1000 - waiting.created_at < GIVE_UP_SECONDS:
                await _of(store.postpone(waiting.prediction_id, seconds=RETRY_SECONDS))
                return
            gateway.recorder.log_error(trace, error)
            body = error_body(error, request_id=trace.request_id)
            await _of(store.finish(waiting.prediction_id, "failed", body, review_in=None))
        except Exception as error:  # noqa: BLE001  a defect met by one must not stop the others
            gateway.recorder.log_error(trace, ApiError(500, "INTERNAL", ""))
            body = gateway.defect(error, request_id=trace.request_id)
            await _of(store.finish(waiting.prediction_id, "failed", body, review_in=None))
        else:
            review_in = REVIEW_SECONDS if answer["needs_review"] else None
            await _of(store.finish(waiting.prediction_id, "done", answer, review_in=review_in))

    async def _call(self, prediction_id: str, url: str, *, event: str) -> None:
        resources, metrics = self._gateway.async_resources, self._gateway.metrics
        taken = await resources.callbacks.post(url, event=event, prediction_id=prediction_id)
        metrics.add("dethrone_callbacks_total", outcome="taken" if taken else "refused")
        if taken:
            await _of(resources.store.called(prediction_id))


async def _of(future: Future[T]) -> T:
    return await asyncio.wrap_future(future)
