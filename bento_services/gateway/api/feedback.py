"""Feedback: what really was the case, told by a caller later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request

from bento_services.gateway import request_validation
from bento_services.gateway.auth import EVERY_PROJECT, require_project
from bento_services.gateway.errors import ApiError
from bento_services.gateway.prediction_log.records import LogRecord
from bento_services.gateway.request_handler import RequestHandler
from bento_services.gateway.routing.routes import KeyInfo

if TYPE_CHECKING:
    from bento_services.gateway.api.schemas import FeedbackAcceptedBody

MAX_FEEDBACK_BYTES = 64 * 1024


async def take_feedback(
    gateway: RequestHandler, request: Request, *, project: str | None, request_id: str
) -> FeedbackAcceptedBody:
    """Log what really was the case, by prediction id or business key; 503 when it cannot be kept.

    Whether there is such a prediction is not known here: the gateway keeps no list of them. The monitor counts
    feedback on none.
    """
    started = gateway.monotonic()
    key = gateway.authorize(request, scope="feedback", project=project)
    body = await request_validation.read_body(
        request, limit_bytes=MAX_FEEDBACK_BYTES, timeout_seconds=gateway.config.body_timeout_seconds
    )
    fields = request_validation.parse_feedback(body)
    project = _feedback_project(project, fields.project, key)
    require_project(key, project)
    route = gateway.route(project)
    gateway.take(key, route)
    request_validation.check_label(fields.label, route.known_classes)
    keys = {"X-Request-Id": request_id, "prediction_id": fields.prediction_id, "business_key": fields.business_key}
    request_validation.check_personal(route.settings, keys)
    if fields.prediction_id is not None and not request_validation.is_prediction_id(fields.prediction_id):
        message = "prediction_id must be one that this gateway gave (got what cannot be one)."
        raise ApiError(404, "PREDICTION_UNKNOWN", message, field="prediction_id")
    record = LogRecord(
        kind="feedback",
        prediction_id=fields.prediction_id,
        request_id=request_id,
        project=project,
        at_ms=gateway.wall_ms(),
        status=202,
        client=key.key_id,
        latency_ms=round((gateway.monotonic() - started) * 1000, 3),
        business_key=fields.business_key,
        outcome_label=fields.label,
    )
    if gateway.spool.append(record) != "logged":
        gateway.metrics.add("dethrone_feedback_refused_total")
        raise ApiError(
            503, "LOG_FULL", "the log must have room (got none). Send it again later.", retry_after_seconds=30
        )
    gateway.metrics.add("dethrone_feedback_logged_total")
    return {"accepted": True, "request_id": request_id}


def _feedback_project(in_path: str | None, in_body: str | None, key: KeyInfo) -> str:
    """Return the project that a feedback is about: named in the path or the body, or the only one of the key."""
    if in_path and in_body and in_path != in_body:
        raise ApiError(422, "FIELD_INVALID", "project must be the one in the path, or absent.", field="project")
    named = in_path or in_body or (None if key.project == EVERY_PROJECT else key.project)
    if named is None:
        raise ApiError(422, "FIELD_MISSING", "project must be given: this key is for every project.", field="project")
    return request_validation.check_project(named)
