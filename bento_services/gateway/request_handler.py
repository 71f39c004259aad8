"""The gateway's work on one request, apart from HTTP: check, predict, log, answer."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from starlette.requests import Request

from bento_services.gateway import request_validation
from bento_services.gateway.async_predictions.resources import AsyncResources
from bento_services.gateway.auth import RateLimiter, authenticate, require_project
from bento_services.gateway.composed_projects import Composition, compose
from bento_services.gateway.config import GatewayConfig
from bento_services.gateway.errors import ApiError, error_body
from bento_services.gateway.idempotency import AnswerCache, AnswerKey
from bento_services.gateway.metrics import GatewayMetrics
from bento_services.gateway.postprocess import finish
from bento_services.gateway.prediction_log.records import LogRecord
from bento_services.gateway.prediction_log.spool import Spool
from bento_services.gateway.prediction_recorder import PredictionRecorder
from bento_services.gateway.routing.deployment_counters import FirstReply
from bento_services.gateway.routing.dispatcher import Dispatcher, InferenceRequest, RoutedAnswer
from bento_services.gateway.routing.route_follower import RouteFollower
from bento_services.gateway.routing.routes import KeyInfo, ProjectRoute, Snapshot
from bento_services.gateway.shadowing import Mirror
from bento_services.gateway.trace import Trace, no_slot
from pipeline_tasks.contracts import sha256_hex

if TYPE_CHECKING:
    from bento_services.gateway.api.schemas import ErrorDetailBody, PredictionBody

logger = logging.getLogger(__name__)

ARRIVAL_SECONDS = 0.2
NOT_LOGGED = frozenset({429})  # a flood must not fill the log; it is counted


class RequestHandler:
    """Checks, dispatches, logs. One instance in one event loop; the follower and the shipper have their own threads."""

    def __init__(
        self,
        config: GatewayConfig,
        *,
        follower: RouteFollower,
        dispatcher: Dispatcher,
        spool: Spool,
        metrics: GatewayMetrics,
        async_resources: AsyncResources,
        new_id: Callable[[], str],
        wall_ms: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.follower = follower
        self.dispatcher = dispatcher
        self.spool = spool
        self.metrics = metrics
        self.async_resources = async_resources
        self.recorder = PredictionRecorder(spool, metrics, new_id=new_id, wall_ms=wall_ms, monotonic=monotonic)
        self.mirror = Mirror(dispatcher, spool=spool, metrics=metrics, monotonic=monotonic)
        self.new_id = new_id
        self.monotonic = monotonic
        self.wall_ms = wall_ms
        self._limiter = RateLimiter()
        self._answers = AnswerCache()
        self.num_open = 0
        self._num_arriving = 0

    def _composition(self) -> Composition:
        return Composition(self.recorder, self.dispatcher, self.mirror, self.async_resources.store, route=self.route)

    def snapshot(self) -> Snapshot:
        """Return what is followed now; 503 before anything was."""
        snapshot = self.follower.snapshot
        if snapshot is None:
            raise ApiError(
                503, "NOT_READY", "the gateway must have read its routes (got none yet).", retry_after_seconds=2
            )
        return snapshot

    def authorize(self, request: Request, *, scope: str | None, project: str | None = None) -> KeyInfo:
        """Return the caller's key, checked for scope and project."""
        key = authenticate(self.snapshot(), request.headers.get("authorization"), scope=scope)
        if project is not None:
            require_project(key, project)
        return key

    def route(self, project: str) -> ProjectRoute:
        """Return the head of a project's route as it is now; 404 for an unknown project, 503 before its first model."""
        snapshot = self.snapshot()
        route = snapshot.routes.get(project)
        if route is not None:
            return route
        if project not in snapshot.projects:
            raise request_validation.unknown_project()
        raise ApiError(503, "NOTHING_SERVES", "the project must have a champion (got none yet).", retry_after_seconds=5)

    async def predict(self, request: Request, *, project: str, request_id: str) -> PredictionBody:
        """Answer one prediction request. Whatever happens after the caller is known is logged."""
        key, route = self.admit(request, project)
        trace = self.trace(request, project=project, key=key, request_id=request_id)
        return await self.logged(trace, self._predict(request, key, route, trace))

    def admit(self, request: Request, project: str) -> tuple[KeyInfo, ProjectRoute]:
        """Return the key of a caller who may ask for predictions, and the route of the project."""
        request_validation.check_project(project)
        return self.authorize(request, scope="predict", project=project), self.route(project)

    def trace(self, request: Request, *, project: str, key: KeyInfo, request_id: str) -> Trace:
        """Start the trace of one item; the response of the request tells its spans."""
        trace = Trace(request_id=request_id, project=project, started=self.monotonic(), client=key.key_id)
        request.state.spans = trace.spans
        return trace

    def take(self, key: KeyInfo, route: ProjectRoute, *, num_items: int = 1) -> None:
        """Count items against the caller's rate; 429 above it."""
        rate = route.settings.requests_per_second
        self._limiter.take(key.key_id, route.project, per_second=rate, now=self.monotonic(), cost=num_items)

    async def logged(self, trace: Trace, work: Awaitable[PredictionBody]) -> PredictionBody:
        """Return what the work answers; log the error that it ends with instead."""
        try:
            return await work
        except ApiError as error:
            if error.status not in NOT_LOGGED and not trace.is_logged:
                self.recorder.log_error(trace, error)
            raise
        except Exception:
            if not trace.is_logged:
                self.recorder.log_error(trace, ApiError(500, "INTERNAL", ""))
            raise

    async def _predict(self, request: Request, key: KeyInfo, route: ProjectRoute, trace: Trace) -> PredictionBody:
        self._require_slot()  # before the body is read: a flood must stay cheap
        with self._arriving():
            _, version = await self.read_item(request, key, route, trace)
        return await self.answer(trace, route, version=version, chosen_id="x-request-id" in request.headers)

    async def read_item(
        self, request: Request, key: KeyInfo, route: ProjectRoute, trace: Trace
    ) -> tuple[bytes, str | None]:
        """Return the bytes of the one item in a request's body, and the model version that the caller names."""
        self.take(key, route)
        version = self.read_headers(request, trace, route)
        trace.media_type = request_validation.check_media_type(request, modality=route.settings.modality)
        trace.is_raw = bool(route.settings.deny)
        with self.recorder.span(trace, "read"):
            trace.payload = await request_validation.read_body(
                request,
                limit_bytes=route.settings.max_request_bytes,
                timeout_seconds=self.config.body_timeout_seconds,
            )
        return trace.payload, version

    def read_headers(self, request: Request, trace: Trace, route: ProjectRoute) -> str | None:
        """Note the caller's keys in the trace and return the model version that the caller names."""
        try:
            request_validation.check_personal(route.settings, {"X-Request-Id": trace.request_id})
        except ApiError:
            trace.request_id = self.new_id()  # of the record
            raise
        keys = {name: request_validation.check_header(request, name) for name in ("X-User-Key", "X-Business-Key")}
        request_validation.check_personal(route.settings, keys)
        trace.user_key, trace.business_key = keys.values()
        return request_validation.check_header(request, "X-Model-Version")

    async def answer(
        self, trace: Trace, route: ProjectRoute, *, version: str | None, chosen_id: bool
    ) -> PredictionBody:
        """Answer one item; the same item under the same id of the caller's choice gets the one answer, logged once.

        It is made to its end also when the caller who asked first has gone: another may wait for it.
        """
        if not chosen_id:
            return await self._dispatch(route, trace, version=version)
        answer_key = AnswerKey(trace.client, trace.project, trace.request_id)
        asked = [sha256_hex(trace.payload or b""), version, trace.user_key, trace.business_key]
        fingerprint = json.dumps(asked)
        answer = self._answers.find(answer_key, fingerprint=fingerprint)
        if answer is None:
            work = self.logged(trace, self._dispatch(route, trace, version=version))
            answer = self._answers.make(answer_key, work, fingerprint=fingerprint)
            return await asyncio.shield(answer)
        if trace.place is not None:
            trace.place.leave()  # or its neighbours would wait for what this one waits for
        self.metrics.add("dethrone_answers_repeated_total")
        trace.is_logged = True
        return await asyncio.shield(answer)

    async def _dispatch(self, route: ProjectRoute, trace: Trace, *, version: str | None) -> PredictionBody:
        """Decode, predict and log under the cap on open requests."""
        self._require_slot()
        self.num_open += 1
        try:
            trace.is_raw = bool(route.settings.deny)
            with self.recorder.span(trace, "check"):
                item = await request_validation.canonical_item(trace.payload or b"", route.settings)
            if trace.is_raw:  # what is logged is what the model was given
                trace.payload, trace.is_raw = item, False
            if route.graph is not None:
                with self.recorder.span(trace, "inference"):
                    return await compose(self._composition(), trace, route, route.graph, item=item, version=version)
            question = InferenceRequest(
                payload=item,
                media_type=trace.media_type or "application/octet-stream",
                sticky_key=f"{trace.project}/{trace.user_key or trace.request_id}",
                version=version,
                place=trace.place,
            )
            heard: list[FirstReply] = []
            with self.recorder.span(trace, "inference"):
                answered = await self._ask(question, trace, heard)
        finally:
            self.num_open -= 1
        trace.spans.update(answered.scores.spans)
        with self.recorder.span(trace, "log"):
            route = self.route(trace.project)
            finished = finish(answered.scores, route.settings)
            # Before the record is written: what is in the log as answered must be answered.
            is_kept = finished.needs_review and trace.prediction_id is None
            item_id = request_validation.item_id(item, route.settings) if is_kept else ""
            answer, record = self.recorder.log_answer(trace, answered, finished)
            if is_kept:
                self.async_resources.store.remember(
                    answer["prediction_id"], project=trace.project, answer=answer, item_id=item_id
                )
        if heard:  # not where the caller named a version
            self._mirror(question, record, route=route, first=heard[0])
        return answer

    async def _ask(self, question: InferenceRequest, trace: Trace, heard: list[FirstReply]) -> RoutedAnswer:
        """Ask by the route of now; a failure of the first that was asked is one half of a pair, too."""
        try:
            return await self.dispatcher.predict(
                question, current_route=lambda: self.route(trace.project), drawn=trace.drawn, heard=heard.append
            )
        except ApiError as error:
            if heard and heard[0].error is not None:
                failed = self.recorder.record(trace, status=error.status, prediction_id=trace.prediction_id)
                self._mirror(question, failed, route=self.route(trace.project), first=heard[0])
            raise

    def _mirror(self, question: InferenceRequest, record: LogRecord, *, route: ProjectRoute, first: FirstReply) -> None:
        if route.shadows:
            self.mirror.send(dataclasses.replace(question, place=None), record, route=route, first=first)

    def has_slots(self) -> bool:
        """Return whether one more item may be open."""
        return self.num_open + self._num_arriving < self.config.max_in_flight

    @contextlib.contextmanager
    def _arriving(self) -> Iterator[None]:
        """Hold a slot for a body that is on its way, for a moment: who sends slowly holds none."""
        held = [self]

        def release() -> None:
            self._num_arriving -= len(held)
            held.clear()

        self._num_arriving += 1
        timer = asyncio.get_running_loop().call_later(ARRIVAL_SECONDS, release)
        try:
            yield
        finally:
            timer.cancel()
            release()

    def _require_slot(self) -> None:
        if not self.has_slots():
            raise no_slot()

    def defect(self, error: Exception, *, request_id: str) -> ErrorDetailBody:
        """Log a defect of ours and return what a caller may know of it."""
        logger.error("request %s failed", request_id, exc_info=error)
        self.metrics.add("dethrone_refused_total", code="INTERNAL")
        message = "the gateway must answer (got an error of its own). Report the request id."
        return error_body(ApiError(500, "INTERNAL", message), request_id=request_id)
