"""Commits of routes under which the champion stays: a step of a rollout, an experiment, and the way back."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline_tasks.catalog.routes import RouteRecord, ServingRepository
from pipeline_tasks.contracts import Attempt, Fence, Route, RouteAction
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.deployment.route_plan import is_mixed, route_beside, settings_beside

logger = logging.getLogger(__name__)


def commit_beside(
    route: Route,
    *,
    head: Route,
    action: RouteAction,
    serving: ServingRepository,
    attempt: Attempt,
    actor: str,
    reason: str,
    classes: Sequence[str],
    approval: str,
    fence: Fence,
    at: dt.datetime,
    beside: Mapping[str, Any] | None = None,
) -> None:
    """Commit a route under which the champion stays: with its settings, and on its verdict.

    `classes` are those of the model beside it, `approval` the project's rule that it has to fit; `beside` says what
    runs: the terms of an experiment, the rule of a rollout.
    """
    mixed = is_mixed(route)
    settings = settings_beside(
        serving.route_config(route.project, head.generation),
        classes=classes if mixed else (),
        approval=approval if mixed else None,
    )
    serving.commit_route(
        route,
        action=action,
        attempt=attempt.holder,
        verdict_id=serving.verdict_of(route.project, head.generation),
        actor=actor,
        reason=reason,
        serving=settings | dict(beside or {}),
        fence=fence,
        at=at,
    )
    logger.info("route of %s: generation %d (%s)", route.project, route.generation, reason)


def give_back(
    record: RouteRecord, *, serving: ServingRepository, attempt: Attempt, fence: Fence, why: str, now: dt.datetime
) -> Route:
    """Commit the champion alone after a step of a rollout that nobody watches any more, and return that route."""
    route = route_beside(record.route, None, share=0, reason_id="abandoned", attempt=attempt.holder)
    crash_point("rollout.back.before")
    commit_beside(
        route,
        head=record.route,
        action="canary_inconclusive",
        serving=serving,
        attempt=attempt,
        actor="gate",
        reason=f"{why} after: {record.reason}",
        classes=(),
        approval="never",  # asked for a model beside the champion only
        fence=fence,
        at=now,
    )
    crash_point("rollout.back.after")
    return route
