"""Experiments with their resources: `dethrone experiment`."""

from __future__ import annotations

import functools
from typing import Any

from pipeline_tasks.catalog.routes import RouteRecord, ServingRepository
from pipeline_tasks.contracts import Attempt, ReleaseRef
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.deployment import experiment as experiment_task
from pipeline_tasks.deployment.experiment_analysis import check_window, compare_arms
from pipeline_tasks.errors import PipelineError
from pipeline_tasks.guards.reason import stated
from pipeline_tasks.monitoring.experiment_log import read_log
from pipeline_tasks.orchestration.deploy import (
    check_answers,
    learned_classes,
    release_of_version,
    require_promotable_after,
    restore_bento,
    target_of,
)
from pipeline_tasks.orchestration.ledger_anchors import note_head
from pipeline_tasks.orchestration.resources import Resources


def start(
    parts: Resources,
    project: str,
    *,
    attempt: Attempt,
    version: str,
    share: int,
    metric: str,
    confidence: float,
    matures_after: str,
    actor: str,
) -> dict[str, Any]:
    """Give a gated version a sticky share of the traffic."""
    window = check_window(matures_after)
    outside = _outside(parts, project, attempt=attempt)
    facts: dict[str, Any] = {"share": share, "metric": metric, "confidence": confidence, "actor": actor}
    record = experiment_task.start(outside, version=version, matures_after_seconds=window, **facts)
    note_head(parts, project)
    return _said(record)


def stop(parts: Resources, project: str, *, attempt: Attempt, actor: str, reason: str) -> dict[str, Any]:
    """End the experiment; what it had found by then goes into the ledger with the reason."""
    why = stated(reason)
    record = experiment_task.stop(
        _outside(parts, project, attempt=attempt), actor=actor, reason=f"{_answer_now(parts, project)}; {why}"
    )
    note_head(parts, project)
    return _said(record)


def report(parts: Resources, project: str, *, experiment_id: str | None = None) -> dict[str, Any]:
    """Return what an experiment (the newest, or by the beginning of its id) says by the log as it is now."""
    parts.project(project)
    records = ServingRepository(parts.database).records(project)
    experiment, after = experiment_task.newest(records, experiment_id=experiment_id)
    started = next(record for record in records if record.route.generation == experiment.generation)
    log = read_log(
        parts.store,
        project,
        generation=experiment.generation,
        deployments=experiment.deployments,
        since=started.created_at.date(),
    )
    as_of_ms = int(utc_now().timestamp() * 1000)
    comparison = compare_arms(experiment, log.exposures, log.outcomes, as_of_ms=as_of_ms)
    state = "running" if after is None else f"ended by {after.action} of {after.actor}"
    return {
        **comparison,
        "state": state,
        "started_at": started.created_at,
        "ended_at": None if after is None else after.created_at,
        "log": {"num_parts": log.num_parts, "num_damaged": log.num_damaged, "digest": log.digest},
    }


def _answer_now(parts: Resources, project: str) -> str:
    """Return the answer in words; an experiment can be stopped without its log, too."""
    try:
        newest = report(parts, project)
    except PipelineError as error:
        return f"its log was not read ({error.code})"
    sides = ", ".join(f"{name} {arm['num_successes']} of {arm['num_outcomes']}" for name, arm in newest["arms"].items())
    damaged = newest["log"]["num_damaged"]
    left_out = f"; without {damaged} damaged parts" if damaged else ""
    return f"answer {newest['answer']} ({sides}; log {newest['log']['digest'][:12]}{left_out})"


def _said(record: RouteRecord) -> dict[str, Any]:
    shares = {entry.model_version: entry.weight for entry in record.route.entries}
    return {"generation": record.route.generation, "action": record.action, "shares": shares, "reason": record.reason}


def _outside(parts: Resources, project: str, *, attempt: Attempt) -> experiment_task.ExperimentResources:
    loaded = parts.project(project)
    return experiment_task.ExperimentResources(
        project=loaded,
        serving=ServingRepository(parts.database),
        target=target_of(parts, loaded),
        gateway=parts.gateway,
        release_of=functools.partial(_release_of, parts, project),
        check=functools.partial(check_answers, parts),
        classes_of=functools.partial(learned_classes, parts, project),
        attempt=attempt,
        fence=lambda: parts.fence(project, "ship", attempt),
        clock=utc_now,
    )


def _release_of(parts: Resources, project: str, version: str) -> ReleaseRef:
    """Return the release of a version, its bento in place.

    A release was built of what passed the gate then. One that never was champion has to pass it now, too: a person may
    have said no since, or a stored verdict may have been changed. What it was compared with may have gone.
    """
    release = release_of_version(parts, project, version)
    if version not in {route.champion_version for route in ServingRepository(parts.database).history(project)}:
        require_promotable_after(parts, parts.project(project), release.verdict_id, head_version=version)
    restore_bento(parts, release)
    return release
