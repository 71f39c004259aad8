"""Ship a release and roll back: start, check, shift the route, drain, stop. A swap never fails a request.

Every step finds what an earlier attempt did: a deployment is adopted by its id, a route that names it is not
committed again, a stopped server stays stopped.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pipeline_tasks.catalog.routes import RouteRecord, ServingRepository
from pipeline_tasks.contracts import (
    SHELL_RUN,
    Attempt,
    DeploymentRef,
    Fence,
    ReleaseRef,
    Route,
    RouteAccounts,
    RouteEntry,
)
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.ports import DeploymentTarget
from pipeline_tasks.deployment.route_plan import (
    champion_entry,
    deployment_id_of,
    next_route,
    rollback_settings,
    rollback_target,
    standby_settings,
    to_retire,
)
from pipeline_tasks.errors import GateClosed, ServiceUnavailable
from pipeline_tasks.project.schema import LoadedProject

logger = logging.getLogger(__name__)

Clock = Callable[[], dt.datetime]  # asked at the commit: starting a server can take longer than a route may lag

READY_TIMEOUT_SECONDS = 120.0
FOLLOW_TIMEOUT_SECONDS = 60.0
AGAIN_WITHIN = dt.timedelta(minutes=15)


class GatewayAdmin(Protocol):
    """The gateway as shipping asks it."""

    def followed_generation(self, project: str) -> int:
        """Return the route generation that the gateway serves by; 0 if none."""

    def in_flight(self, deployment_id: str) -> int:
        """Return how many requests to this deployment are unanswered."""

    def accounts(self, project: str) -> RouteAccounts | None:
        """Return what each deployment did under the newest generation that is followed; None without an answer."""


@dataclasses.dataclass(frozen=True)
class RouteContext:
    """The parts on which a project's route is moved, and the attempt that moves it."""

    project: LoadedProject
    serving: ServingRepository
    target: DeploymentTarget
    gateway: GatewayAdmin
    attempt: Attempt
    clock: Clock


def refuse_undone(records: Sequence[RouteRecord], release: ReleaseRef, *, deployment_id: str) -> None:
    """Raise GateClosed if the verdict was promoted before and its release does not serve any more.

    A retry, or a cleared task, must not undo the rollback of a person.
    """
    promoted = [record for record in records if record.action == "promote" and record.verdict_id == release.verdict_id]
    if not promoted or deployment_id in {entry.deployment_id for entry in records[-1].route.entries}:
        return
    last = records[-1]
    raise GateClosed(
        f"{release.model_version} was promoted as generation {promoted[-1].route.generation}, and "
        f"{last.actor} has moved the route since (generation {last.route.generation}, {last.action}: {last.reason}). "
        f"To return to it: dethrone rollback {release.project} --to-version {release.model_version} --reason '...'.",
        code="ROLLED_BACK",
    )


def refuse_experiment(records: Sequence[RouteRecord], release: ReleaseRef) -> None:
    """Raise GateClosed while an experiment runs: shipping would take one of its arms away.

    A retry on the champion that the experiment runs with changes nothing, and passes.
    """
    record = records[-1] if records else None
    if record is None or record.action != "experiment_start":
        return
    if record.route.champion_version == release.model_version:
        return
    raise GateClosed(
        f"{record.route.project} must have no running experiment to ship (got generation {record.route.generation}: "
        f"{record.reason}, by {record.actor}). End it with `dethrone experiment {record.route.project} stop`, then "
        "clear this task.",
        code="EXPERIMENT_RUNNING",
    )


def start_release(project: LoadedProject, release: ReleaseRef, *, target: DeploymentTarget) -> DeploymentRef:
    """Start (or adopt) the release's server and wait until it can predict.

    Raises:
        ServiceUnavailable: it did not become ready in time; the message has its last log lines.
    """
    deployment_id = deployment_id_of(project.name, release.release_id)
    handle = target.start(
        deployment_id=deployment_id, bento_tag=release.bento_tag, environment={"DETHRONE_DEPLOYMENT": deployment_id}
    )
    crash_point("ship.start.after")
    target.wait_ready(deployment_id, timeout_seconds=READY_TIMEOUT_SECONDS)
    return DeploymentRef(
        project=project.name,
        deployment_id=deployment_id,
        release_id=release.release_id,
        model_version=release.model_version,
        address=handle.address,
    )


def ship(
    context: RouteContext,
    release: ReleaseRef,
    *,
    require_promotable: Callable[[], Any],
    route_config: dict[str, Any],
    fence: Fence,
    note: str = "",
) -> Route:
    """Give a release all of its project's traffic and retire what is no longer needed; `note` ends the reason.

    Raises:
        GateClosed: the verdict does not allow it (any more), its promotion was undone, or an experiment runs; nothing
            has changed.
        LostRace: somebody else moved the route first.
    """
    project, serving = context.project, context.serving
    records = serving.records(project.name)
    refuse_undone(records, release, deployment_id=deployment_id_of(project.name, release.release_id))
    refuse_experiment(records, release)
    deployment = start_release(project, release, target=context.target)
    head = serving.head_route(project.name)
    if head is None or not _serves(head, deployment):
        require_promotable()
        serving.record_deployment(deployment, target=project.config.serving.target, fence=fence, now=context.clock())
        head = _commit(
            context,
            deployment,
            head=head,
            action="promote",
            reason_id=release.verdict_id,
            verdict_id=release.verdict_id,
            actor="gate",
            reason=f"verdict {release.verdict_id[:12]} said promote{note}",
            route_config=standby_settings(
                head,
                route_config,
                before=serving.route_config(project.name, head.generation) if head else {},
                keep_previous=project.config.serving.keep_previous,
            ),
            fence=fence,
        )
    settle(context)
    return head


def _serves(head: Route, deployment: DeploymentRef) -> bool:
    """Return whether a deployment is the champion's: as a candidate it stands under another one."""
    named = {entry.deployment_id for entry in head.entries}
    return head.champion_version == deployment.model_version and deployment.deployment_id in named


def rollback(
    context: RouteContext,
    *,
    release_of: Callable[[RouteEntry], ReleaseRef],
    check: Callable[[ReleaseRef, DeploymentRef], object],
    to_version: str | None,
    actor: str,
    reason: str,
    fence: Fence,
) -> Route:
    """Return to an earlier champion, kept ready or started again from its release; or to one whose server is lost.

    `check` looks at the started server before any traffic, as before its promotion.

    Raises:
        GateClosed: the earlier champion does not pass the check; nothing has changed.
        LostRace: somebody else moved the route first.
    """
    project, serving, target = context.project, context.serving, context.target
    records = serving.records(project.name)
    history = [record.route for record in records]
    committed = _already_rolled_back(context, records, to_version=to_version, actor=actor, reason=reason)
    if committed is None:
        running = target.list() if to_version is not None else None
        goal = rollback_target(history, to_version=to_version, running=running)
        release = release_of(champion_entry(goal))
        deployment = start_release(project, release, target=target)
        check(release, deployment)
        serving.record_deployment(deployment, target=project.config.serving.target, fence=fence, now=context.clock())
        committed = _commit(
            context,
            deployment,
            head=history[-1],
            action="rollback",
            reason_id=goal.commit_id,
            verdict_id=serving.verdict_of(project.name, goal.generation),
            actor=actor,
            reason=reason,
            route_config=rollback_settings(
                serving.route_config(project.name, goal.generation), head=history[-1], goal=goal
            ),
            fence=fence,
        )
    settle(context)
    return committed


def _already_rolled_back(
    context: RouteContext, records: Sequence[RouteRecord], *, to_version: str | None, actor: str, reason: str
) -> Route | None:
    """Return the generation that an earlier attempt of this same run committed, or the same command given before."""
    if not records:
        return None
    head, attempt = records[-1], context.attempt
    is_mine = head.attempt.startswith(f"{attempt.run_id}/{attempt.task}/")
    is_again = attempt.is_of_a_shell and is_given_again(
        head, to_version=to_version, actor=actor, reason=reason, now=context.clock()
    )
    return head.route if is_mine or is_again else None


def is_given_again(head: RouteRecord, *, to_version: str | None, actor: str, reason: str, now: dt.datetime) -> bool:
    """Return whether a rollback command is the one that moved the route last, given again after it was cut short.

    A named version is no repeat; after a quarter of an hour the same words are of another incident.
    """
    is_same = to_version is None and (head.action, head.actor, head.reason) == ("rollback", actor, reason)
    return is_same and head.attempt.startswith(SHELL_RUN) and now - head.created_at < AGAIN_WITHIN


def _commit(
    context: RouteContext,
    deployment: DeploymentRef,
    *,
    head: Route | None,
    action: str,
    reason_id: str,
    verdict_id: str,
    actor: str,
    reason: str,
    route_config: dict[str, Any],
    fence: Fence,
) -> Route:
    attempt = context.attempt.holder
    route = next_route(head, deployment, reason_id=reason_id, attempt=attempt)
    crash_point("ship.route.before")
    context.serving.commit_route(
        route,
        action=action,
        attempt=attempt,
        verdict_id=verdict_id,
        actor=actor,
        reason=reason,
        serving=route_config,
        fence=fence,
        at=context.clock(),
    )
    crash_point("ship.route.after")
    logger.info(
        "route of %s: generation %d, champion %s (%s)",
        deployment.project,
        route.generation,
        deployment.model_version,
        action,
    )
    return route


def settle(context: RouteContext) -> list[str]:
    """Wait until the gateway follows the head, drain what no longer serves, stop what is not kept; return the stopped.

    Raises:
        ServiceUnavailable: the gateway does not follow in time; nothing is stopped, a retry goes on from here.
    """
    project, serving, gateway = context.project, context.serving, context.gateway
    history = serving.history(project.name)
    if not history:
        return []
    head = history[-1]
    wait_until(
        lambda: gateway.followed_generation(project.name) >= head.generation,
        timeout_seconds=FOLLOW_TIMEOUT_SECONDS,
        otherwise=ServiceUnavailable(
            f"the gateway must follow generation {head.generation} of {project.name} within "
            f"{FOLLOW_TIMEOUT_SECONDS:.0f} s (got: it does not). Look at `dethrone status` and `dethrone logs gateway`."
        ),
    )
    crash_point("ship.drain.before")
    running = _running(project.name, history, target=context.target)
    stopped = []
    for deployment_id in to_retire(history, running, keep_previous=project.config.serving.keep_previous):
        _drain(gateway, deployment_id, seconds=project.config.serving.drain_seconds)
        if deployment_id in _routed(serving.history(project.name)[-1:]):
            continue  # another task gave it traffic meanwhile
        context.target.stop(deployment_id)
        stopped.append(deployment_id)
        crash_point("ship.stop.after")
    return stopped


def stop_all(project: str, *, serving: ServingRepository, target: DeploymentTarget) -> list[str]:
    """Stop every server of a project that leaves, and return them; its route stays for `dethrone serve`."""
    running = _running(project, serving.history(project), target=target)
    for deployment_id in running:
        target.stop(deployment_id)
    return running


def _running(project: str, history: list[Route], *, target: DeploymentTarget) -> list[str]:
    prefix = project.replace("_", "-") + "-"
    return [name for name in target.list() if name.startswith(prefix) and _is_of(project, name, history)]


def _is_of(project: str, deployment_id: str, history: list[Route]) -> bool:
    """Tell this project's deployments from those of a project whose name starts alike (`a` and `a-b`)."""
    suffix = deployment_id.removeprefix(project.replace("_", "-") + "-")
    return deployment_id in _routed(history) or "-" not in suffix


def _routed(history: Sequence[Route]) -> set[str]:
    return {entry.deployment_id for route in history for entry in (*route.entries, *route.shadows)}


def _drain(gateway: GatewayAdmin, deployment_id: str, *, seconds: float) -> None:
    try:
        wait_until(
            lambda: gateway.in_flight(deployment_id) == 0,
            timeout_seconds=seconds,
            otherwise=ServiceUnavailable(f"{deployment_id} still has requests after {seconds:.0f} s."),
        )
    except ServiceUnavailable as error:
        logger.warning("%s Stopping it now: the server itself finishes what it has.", error)


def wait_until(
    condition: Callable[[], bool],
    *,
    timeout_seconds: float,
    otherwise: Exception,
    interval_seconds: float = 0.2,
) -> None:
    """Return once the condition holds; raise `otherwise` when it has not within the time."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() >= deadline:
            raise otherwise
        time.sleep(interval_seconds)
