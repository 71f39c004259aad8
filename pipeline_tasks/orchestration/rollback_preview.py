"""Preview of a rollback, in a sentence; nothing is changed."""

from __future__ import annotations

import itertools

from pipeline_tasks.catalog.routes import RouteRecord, ServingRepository
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.deployment.route_plan import rollback_target
from pipeline_tasks.deployment.task import is_given_again
from pipeline_tasks.guards.reason import stated
from pipeline_tasks.orchestration.deploy import target_of
from pipeline_tasks.orchestration.resources import Resources


def preview(parts: Resources, project: str, *, to_version: str | None, actor: str, reason: str) -> str:
    """Return from which champion to which, and since when each served.

    Raises:
        ConfigError: there is no such champion, or the reason is empty.
    """
    why = stated(reason)
    records = ServingRepository(parts.database).records(project)
    if records and is_given_again(records[-1], to_version=to_version, actor=actor, reason=why, now=utc_now()):
        again = records[-1].route.champion_version
        return (
            f"{project}: {again} is champion again since {records[-1].created_at:%Y-%m-%d %H:%M} UTC by "
            f"this same rollback ({why}). To go further back, name the champion: --to-version."
        )
    history = [record.route for record in records]
    running = target_of(parts, parts.project(project)).list() if to_version is not None else None
    goal = rollback_target(history, to_version=to_version, running=running)
    head = history[-1]
    if goal.champion_version == head.champion_version:
        return f"{project}: {head.champion_version} stays champion, and has all traffic again ({why})."
    return (
        f"{project}: back from {head.champion_version}, champion since {_since(records, len(records) - 1)}, to "
        f"{goal.champion_version}, champion since {_since(records, history.index(goal))} ({why})."
    )


def _since(records: list[RouteRecord], index: int) -> str:
    """Return when the champion of a generation became it: steps of a rollout leave it champion."""
    version = records[index].route.champion_version
    mine = itertools.takewhile(lambda record: record.route.champion_version == version, reversed(records[: index + 1]))
    return f"{min(record.created_at for record in mine):%Y-%m-%d %H:%M} UTC"
