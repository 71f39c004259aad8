"""The gateway's work on one request, apart from HTTP: check, predict, log, answer."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request

from bento_services.gateway import guard
from bento_services.gateway.access import EVERY_PROJECT, RateLimiter, authenticate, require_project
from bento_services.gateway.answers import AnswerCache, AnswerKey
from bento_services.gateway.config import GatewayConfig
from bento_services.gateway.errors import ApiError
from bento_services.gateway.follower import RouteFollower
from bento_services.gateway.metrics import Metrics
from bento_services.gateway.predict import DIGITS, Answered, Dispatcher, Question, finish
from bento_services.gateway.records import LogRecord
from bento_services.gateway.routes import KeyInfo, ProjectRoute, Snapshot
from bento_services.gateway.spool import Spool
from pipeline_tasks.contracts import sha256_hex

MAX_FEEDBACK_BYTES = 64 * 1024
NOT_LOGGED = frozenset({429})  # a flood must not fill the log; it is counted


@dataclasses.dataclass(slots=True)
class Trace:
    """What is known of a request so far: what its log record is made of, however it ends."""

    request_id: str
    project: str
    started: float
    client: str = ""
    user_key: str | None = None
    business_key: str | None = None
    media_type: str | None = None
    payload: bytes | None = None


class Gateway:
    """Checks, dispatches, logs. One instance in one event loop; the follower and the shipper have their own threads."""

    def __init__(
        self,
        config: GatewayConfig,
        *,
        follower: RouteFollower,
        dispatcher: Dispatcher,
        spool: Spool,
        metrics: Metrics,
        new_id: Callable[[], str],
        wall_ms: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.follower = follower
        self.dispatcher = dispatcher
        self.spool = spool
        self.metrics = metrics
        self.new_id = new_id
        self.monotonic = monotonic
        self._wall_ms = wall_ms
        self._limiter = RateLimiter()
        self._answers = AnswerCache()
        self.num_open = 0

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
            raise guard.unknown_project()
        raise ApiError(503, "NOTHING_SERVES", "the project must have a champion (got none yet).", retry_after_seconds=5)

    async def predict(self, request: Request, *, project: str, request_id: str) -> Mapping[str, Any]:
        """Answer one prediction request. Whatever happens after the caller is known is logged."""
        guard.check_project(project)
        key = self.authorize(request, scope="predict", project=project)
        route = self.route(project)
        trace = Trace(request_id=request_id, project=project, started=self.monotonic(), client=key.key_id)
        try:
            self._limiter.take(key.key_id, project, per_second=route.settings.requests_per_second, now=trace.started)
            return await self._predict(request, route, trace)
        except ApiError as error:
            if error.status not in NOT_LOGGED:
                self._log_error(trace, error)
            raise
        except Exception:
            self._log_error(trace, ApiError(500, "INTERNAL", ""))
            raise

    async def _predict(self, request: Request, route: ProjectRoute, trace: Trace) -> Mapping[str, Any]:
        trace.user_key = guard.check_header(request, "X-User-Key")
        trace.business_key = guard.check_header(request, "X-Business-Key")
        version = guard.check_header(request, "X-Model-Version")
        trace.media_type = guard.check_media_type(request, modality=route.settings.modality)
        trace.payload = await guard.read_body(
            request,
            limit_bytes=route.settings.max_request_bytes,
            timeout_seconds=self.config.body_timeout_seconds,
        )
        chosen_id = "x-request-id" in request.headers
        answer_key = AnswerKey(trace.client, trace.project, trace.request_id)
        fingerprint = f"{sha256_hex(trace.payload)}/{version}/{trace.user_key}" if chosen_id else ""
        earlier = self._answers.find(answer_key, fingerprint=fingerprint) if chosen_id else None
        if earlier is not None:
            self.metrics.add("dethrone_answers_repeated_total")
            return earlier
        answer = await self._dispatch(route, trace, version=version)
        if chosen_id:
            self._answers.keep(answer_key, answer, fingerprint=fingerprint)
        return answer

    async def _dispatch(self, route: ProjectRoute, trace: Trace, *, version: str | None) -> Mapping[str, Any]:
        """Decode, predict and log under the cap on open requests."""
        if self.num_open >= self.config.max_in_flight:
            raise ApiError(503, "OVERLOADED", "the gateway must have a free slot (got none).", retry_after_seconds=1)
        self.num_open += 1
        try:
            item = await guard.canonical_item(trace.payload or b"", route.settings)
            question = Question(
                payload=item,
                media_type=trace.media_type or "application/octet-stream",
                sticky_key=f"{trace.project}/{trace.user_key or trace.request_id}",
                version=version,
            )
            answered = await self.dispatcher.predict(question, current_route=lambda: self.route(trace.project))
        finally:
            self.num_open -= 1
        return self._log_answer(trace, answered, self.route(trace.project))

    def _log_answer(self, trace: Trace, answered: Answered, route: ProjectRoute) -> dict[str, Any]:
        business = finish(answered.scores, route.settings)
        scores = zip(answered.scores.labels, answered.scores.probabilities, strict=True)
        record = self._record(
            trace,
            status=200,
            prediction_id=self.new_id(),
            model_version=answered.entry.model_version,
            deployment_id=answered.entry.deployment_id,
            label=business["label"],
            confidence=business["confidence"],
            needs_review=business["needs_review"],
            scores=json.dumps({label: round(value, DIGITS) for label, value in scores}, separators=(",", ":")),
        )
        self.metrics.record_outcome(logged=self.spool.append(record))
        return {"prediction_id": record.prediction_id, "model_version": record.model_version, **business}

    def _log_error(self, trace: Trace, error: ApiError) -> None:
        record = self._record(trace, status=error.status, prediction_id=None, error_code=error.code)
        self.metrics.record_outcome(logged=self.spool.append(record))

    def _record(self, trace: Trace, **facts: Any) -> LogRecord:
        return LogRecord(
            kind="prediction",
            request_id=trace.request_id,
            project=trace.project,
            at_ms=self._wall_ms(),
            client=trace.client,
            latency_ms=round((self.monotonic() - trace.started) * 1000, 3),
            user_key=trace.user_key,
            business_key=trace.business_key,
            media_type=trace.media_type,
            payload=trace.payload,
            payload_sha256=None if trace.payload is None else sha256_hex(trace.payload),
            **facts,
        )

    async def feedback(self, request: Request, *, project: str | None, request_id: str) -> Mapping[str, Any]:
        """Log what really was the case, by prediction id or business key; 503 when it cannot be kept."""
        started = self.monotonic()
        key = self.authorize(request, scope="feedback", project=project)
        body = await guard.read_body(
            request, limit_bytes=MAX_FEEDBACK_BYTES, timeout_seconds=self.config.body_timeout_seconds
        )
        fields = guard.parse_feedback(body)
        project = _feedback_project(project, fields.project, key)
        require_project(key, project)
        route = self.route(project)
        self._limiter.take(key.key_id, project, per_second=route.settings.requests_per_second, now=started)
        guard.check_label(fields.label, route.settings.classes)
        record = LogRecord(
            kind="feedback",
            prediction_id=fields.prediction_id,
            request_id=request_id,
            project=project,
            at_ms=self._wall_ms(),
            status=202,
            client=key.key_id,
            latency_ms=round((self.monotonic() - started) * 1000, 3),
            business_key=fields.business_key,
            outcome_label=fields.label,
        )
        if not self.spool.append(record):
            self.metrics.add("dethrone_feedback_refused_total")
            raise ApiError(
                503, "LOG_FULL", "the log must have room (got none). Send it again later.", retry_after_seconds=30
            )
        self.metrics.add("dethrone_feedback_logged_total")
        return {"accepted": True, "request_id": request_id}

    def describe(self, project: str) -> dict[str, Any]:
        """Return what serves now, without internal addresses."""
        route = self.route(project)
        entries = [
            {"deployment_id": entry.deployment_id, "model_version": entry.model_version, "weight": entry.weight}
            for entry in route.entries
        ]
        return {
            "project": route.project,
            "generation": route.generation,
            "commit_id": route.commit_id,
            "champion_version": route.champion_version,
            "deployments": entries,
            "modality": route.settings.modality,
            "classes": list(route.settings.classes),
            "review_below": route.settings.review_below,
            "max_request_bytes": route.settings.max_request_bytes,
        }

    def gauges(self) -> dict[str, float]:
        """Return what is measured at the time of a scrape; the catalog's age is -1 while it is away."""
        age = self.follower.age_seconds()
        snapshot = self.follower.snapshot
        generations = {
            f'dethrone_route_generation{{project="{name}"}}': float(route.generation)
            for name, route in (snapshot.routes.items() if snapshot else ())
        }
        return {
            **generations,
            "dethrone_catalog_age_seconds": -1.0 if age is None else round(age, 3),
            "dethrone_spool_bytes": float(self.spool.size_bytes),
            "dethrone_requests_open": float(self.num_open),
            "dethrone_replays": float(self.dispatcher.num_replays),
        }


def _feedback_project(in_path: str | None, in_body: str | None, key: KeyInfo) -> str:
    """Return the project that a feedback is about: named in the path or the body, or the only one of the key."""
    if in_path and in_body and in_path != in_body:
        raise ApiError(422, "FIELD_INVALID", "project must be the one in the path, or absent.", field="project")
    named = in_path or in_body or (None if key.project == EVERY_PROJECT else key.project)
    if named is None:
        raise ApiError(422, "FIELD_MISSING", "project must be given: this key is for every project.", field="project")
    return guard.check_project(named)
