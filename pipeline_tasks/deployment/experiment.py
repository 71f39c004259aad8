"""Start and stop an A/B experiment: a gated version gets a sticky share beside the champion, which stays champion."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline_tasks.catalog.routes import RouteRecord
from pipeline_tasks.contracts import DeploymentRef, Fence, ReleaseRef, content_id
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.deployment.candidate_routes import commit_beside
from pipeline_tasks.deployment.experiment_analysis import PAIRS, Experiment, check_metric
from pipeline_tasks.deployment.experiment_pairs import Arm
from pipeline_tasks.deployment.route_plan import champion_entry, is_mixed, route_beside
from pipeline_tasks.deployment.task import RouteContext, settle, start_release
from pipeline_tasks.errors import ConfigError, GateClosed, PermanentError

START, STOP = "experiment_start", "experiment_stop"


@dataclasses.dataclass(frozen=True)
class ExperimentResources(RouteContext):
    """The parts that an experiment works on; `fence` is taken only once nothing speaks against the change."""

    release_of: Callable[[str], ReleaseRef]
    check: Callable[[ReleaseRef, DeploymentRef], object]
    classes_of: Callable[[str], Sequence[str]]
    fence: Callable[[], Fence]


def start(
    outside: ExperimentResources,
    *,
    version: str,
    share: int,
    metric: str,
    confidence: float,
    matures_after_seconds: float,
    actor: str,
) -> RouteRecord:
    """Give a version a share of the traffic; the same experiment again is the one that runs.

    Raises:
        ConfigError: share, metric or version make no experiment.
        GateClosed: the version passed no gate, fails its check, or something else runs beside the champion.
        LostRace: somebody else moved the route first.
    """
    project, serving = outside.project, outside.serving
    check_metric(metric, classes=project.config.labels.classes)
    if not 1 <= share <= 99:
        raise ConfigError(f"--share must be 1 to 99 percent (got {share}).")
    if not 0.5 < confidence < 1:
        raise ConfigError(f"--confidence must lie between 0.5 and 1 (got {confidence:g}).")
    head = serving.head_record(project.name)
    if head is None:
        raise ConfigError("an experiment needs a champion (got none). Train and promote a first model.")
    facts = {"a": head.route.champion_version, "b": version, "share": share, "metric": metric, "confidence": confidence}
    facts |= {"rule": PAIRS, "matures_after_seconds": matures_after_seconds}
    if head.action == START and _is_running(facts, head.serving["experiment"]):
        settle(outside)
        return head
    _refuse(head, version)
    serving.require_gated(project.name, version)
    release = outside.release_of(version)
    fence = outside.fence()
    deployment = start_release(project, release, target=outside.target)
    try:
        outside.check(release, deployment)
    except GateClosed:
        settle(outside)
        raise
    serving.record_deployment(deployment, target=project.config.serving.target, fence=fence, now=outside.clock())
    route = route_beside(
        head.route, deployment, share=share, reason_id=f"experiment/{metric}", attempt=outside.attempt.holder
    )
    experiment_id = content_id([project.name, route.generation, *facts.values()])[:12]
    crash_point("experiment.start.before")
    commit_beside(
        route,
        head=head.route,
        action="experiment_start",
        serving=serving,
        attempt=outside.attempt,
        actor=actor,
        reason=f"experiment {experiment_id}: {share} % to {version} beside {head.route.champion_version}, on {metric}",
        classes=outside.classes_of(version),
        approval=project.config.approval.when,
        fence=fence,
        at=outside.clock(),
        beside={"experiment": {"experiment_id": experiment_id, **facts}},
    )
    crash_point("experiment.start.after")
    return _settled(outside)


def stop(outside: ExperimentResources, *, actor: str, reason: str) -> RouteRecord:
    """Give the champion everything back; again, it changes nothing.

    Raises:
        ConfigError: no experiment runs.
        LostRace: somebody else moved the route first.
    """
    project, serving = outside.project, outside.serving
    head = serving.head_record(project.name)
    if head is not None and head.action == STOP:
        return _settled(outside)
    if head is None or head.action != START:
        said = f"{head.action} by {head.actor}" if head else "nothing serves"
        raise ConfigError(f"an experiment must run on {project.name} to be stopped (got: {said}).")
    route = route_beside(head.route, None, share=0, reason_id="experiment", attempt=outside.attempt.holder)
    crash_point("experiment.stop.before")
    commit_beside(
        route,
        head=head.route,
        action="experiment_stop",
        serving=serving,
        attempt=outside.attempt,
        actor=actor,
        reason=f"experiment {head.serving['experiment']['experiment_id']} ended: {reason}",
        classes=(),
        approval=project.config.approval.when,
        fence=outside.fence(),
        at=outside.clock(),
    )
    crash_point("experiment.stop.after")
    return _settled(outside)


def newest(
    records: Sequence[RouteRecord], *, experiment_id: str | None = None
) -> tuple[Experiment, RouteRecord | None]:
    """Return an experiment of a project (the newest, or by the beginning of its id) and the route that ended it.

    Raises:
        ConfigError: there is none.
    """
    started = [record for record in records if record.action == START]
    ids = [record.serving["experiment"]["experiment_id"] for record in started]
    matching = [record for record, name in zip(started, ids, strict=True) if name.startswith(experiment_id or "")]
    if not matching:
        known = ", ".join(ids) or "none"
        raise ConfigError(f"--id must be the beginning of an experiment's id (got {experiment_id}). Known: {known}.")
    start = matching[-1]
    after = next((record for record in records if record.route.generation == start.route.generation + 1), None)
    return experiment_of(start), after


def experiment_of(record: RouteRecord) -> Experiment:
    """Return what a route with an experiment says of it."""
    facts: dict[str, Any] = dict(record.serving["experiment"])
    champion = champion_entry(record.route).deployment_id
    deployments: dict[str, Arm] = {
        entry.deployment_id: "a" if entry.deployment_id == champion else "b" for entry in record.route.entries
    }
    return Experiment(
        project=record.route.project, generation=record.route.generation, deployments=deployments, **facts
    )


def _is_running(facts: Mapping[str, Any], running: Mapping[str, Any]) -> bool:
    """Tell whether a running experiment is the one that is asked for; one of an earlier rule has its facts only."""
    return all(running[name] == value for name, value in facts.items() if name in running)


def _refuse(head: RouteRecord, version: str) -> None:
    if is_mixed(head.route):
        raise GateClosed(
            f"nothing may run beside the champion of {head.route.project} (got generation {head.route.generation}, "
            f"{head.action}: {head.reason}). Wait for its end, or end it: `dethrone experiment {head.route.project} "
            f"stop`, or `dethrone rollback {head.route.project} --reason ...`.",
            code="ROUTE_BUSY",
        )
    if version == head.route.champion_version:
        raise ConfigError(f"--version must differ from the champion (got {version}, which serves now).")


def _settled(outside: ExperimentResources) -> RouteRecord:
    settle(outside)
    record = outside.serving.head_record(outside.project.name)
    if record is None:
        raise PermanentError(f"{outside.project.name} must have a route (got none).", code="NO_ROUTE")
    return record
