"""The next route, the goal of a rollback, and the deployments that may be stopped: pure decisions."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pipeline_tasks.contracts import DeploymentRef, Route, RouteEntry, content_id
from pipeline_tasks.errors import ConfigError

FULL_SHARE = 100
STANDBY = "standby"
BESIDE_SETTINGS = frozenset({"beside_classes", "beside_approval", "experiment", "rollout"})


def deployment_id_of(project: str, release_id: str) -> str:
    """Return the one deployment id of a release on a target, so that every attempt finds the same server."""
    return f"{project.replace('_', '-')}-{release_id[:12]}"


def next_route(head: Route | None, deployment: DeploymentRef, *, reason_id: str, attempt: str) -> Route:
    """Give all traffic to a deployment, one generation after the head.

    `reason_id` is the verdict (promotion) or the generation returned to (rollback); with the attempt it makes the
    commit id unique, so that a writer can tell its own row after an ambiguous answer.
    """
    generation = head.generation + 1 if head else 1
    commit_id = content_id([deployment.project, generation, deployment.deployment_id, reason_id, attempt])
    return Route(
        project=deployment.project,
        generation=generation,
        commit_id=commit_id,
        parent_commit_id=head.commit_id if head else None,
        champion_version=deployment.model_version,
        entries=(_entry(deployment, weight=FULL_SHARE),),
    )


def champion_entry(route: Route) -> RouteEntry:
    """Return the deployment of a route's champion."""
    return next(entry for entry in route.entries if entry.model_version == route.champion_version)


def is_mixed(route: Route) -> bool:
    """Return whether another model than the champion has a share or mirrors: a rollout or an experiment."""
    return any(entry.model_version != route.champion_version for entry in (*route.entries, *route.shadows))


def route_beside(head: Route, deployment: DeploymentRef | None, *, share: int, reason_id: str, attempt: str) -> Route:
    """Return the generation after the head in which the champion has a deployment beside it with a share in percent.

    A share of 0 makes it a shadow; no deployment gives the champion everything back. The champion stands first, so that
    a growing share only ever moves users from it to the other.
    """
    champion = dataclasses.replace(champion_entry(head), weight=FULL_SHARE - share)
    name = deployment.deployment_id if deployment else champion.deployment_id
    other = () if deployment is None else (_entry(deployment, weight=share),)
    return Route(
        project=head.project,
        generation=head.generation + 1,
        commit_id=content_id([head.project, head.generation + 1, name, share, reason_id, attempt]),
        parent_commit_id=head.commit_id,
        champion_version=head.champion_version,
        entries=(champion, *(other if share else ())),
        shadows=() if share else other,
    )


def settings_beside(
    settings: Mapping[str, Any], *, classes: Sequence[str], approval: str | None = None
) -> dict[str, Any]:
    """Return the champion's serving settings for a route with another model beside it, or (no classes) without.

    What the callers see stays the champion's; a candidate may have learned other classes. `approval` is the project's
    `approval.when` now: the champion's own settings say what it was at its promotion.
    """
    kept = {name: value for name, value in settings.items() if name not in BESIDE_SETTINGS}
    differ = bool(classes) and set(classes) != set(settings.get("classes", ()))
    asked = {"beside_approval": approval} if approval is not None else {}
    return kept | ({"beside_classes": list(classes)} if differ else {}) | asked


def standby_settings(
    head: Route | None, settings: Mapping[str, Any], *, before: Mapping[str, Any], keep_previous: bool
) -> dict[str, Any]:
    """Return a promotion's settings with the champion before it as standby, where it stays and has the same classes.

    The gateway asks it while the new champion's server is away, and names it in the answer and in the log.
    """
    if head is None or not keep_previous or set(settings.get("classes", ())) != set(before.get("classes", ())):
        return dict(settings)
    return {**settings, STANDBY: dataclasses.asdict(dataclasses.replace(champion_entry(head), weight=0))}


def rollback_settings(settings: Mapping[str, Any], *, head: Route, goal: Route) -> dict[str, Any]:
    """Return the settings of a generation that is returned to: without a standby, unless its champion has not changed.

    Its own standby is long stopped, and what a person has just left must answer nobody.
    """
    kept = settings_beside(settings, classes=())
    return {name: value for name, value in kept.items() if name != STANDBY or _same_champion(head, goal)}


def _same_champion(head: Route, goal: Route) -> bool:
    return champion_entry(head).deployment_id == champion_entry(goal).deployment_id


def _entry(deployment: DeploymentRef, *, weight: int) -> RouteEntry:
    return RouteEntry(
        deployment_id=deployment.deployment_id,
        model_version=deployment.model_version,
        address=deployment.address,
        weight=weight,
    )


def rollback_target(
    history: Sequence[Route], *, to_version: str | None = None, running: Collection[str] | None = None
) -> Route:
    """Return the generation to go back to: the newest one with another champion than the head, or a named version.

    While a rollout or an experiment runs, the first rollback ends it: it goes to the head's own champion, alone.
    `history` is oldest first. The champion that a rollback left behind is skipped, so that two rollbacks in a row go
    two champions back instead of forth and back.

    Raises:
        ConfigError: there is no such generation.
    """
    if not history:
        raise ConfigError("rollback needs a champion (got none). Train and promote a first model.", code="NO_CHAMPION")
    head = history[-1]
    if to_version is not None:
        return _named(history, to_version, running=running)
    if is_mixed(head):
        return head
    first_seen = _first_generation_of(history, head.champion_version)
    for route in reversed(history):
        if route.generation < first_seen and route.champion_version != head.champion_version:
            return route
    raise ConfigError(
        f"rollback needs an earlier champion than {head.champion_version} (got none in {len(history)} generations).",
        code="NO_EARLIER_CHAMPION",
    )


def _named(history: Sequence[Route], version: str, *, running: Collection[str] | None) -> Route:
    head = history[-1]
    is_up = running is None or champion_entry(head).deployment_id in running
    if head.champion_version == version and not is_mixed(head) and is_up:
        raise ConfigError(f"to_version must differ from the champion (got {version}, which serves now).", code="SAME")
    for route in reversed(history):
        if route.champion_version == version:
            return route
    known = ", ".join(dict.fromkeys(route.champion_version for route in reversed(history)))
    raise ConfigError(f"to_version must be a former champion (got {version}). Known: {known}.", code="UNKNOWN_VERSION")


def _first_generation_of(history: Sequence[Route], version: str) -> int:
    return min(route.generation for route in history if route.champion_version == version)


def to_retire(history: Sequence[Route], running: Collection[str], *, keep_previous: bool) -> list[str]:
    """Return the running deployments that neither serve nor are kept ready to return."""
    if not history:
        return sorted(running)
    keep = {entry.deployment_id for entry in (*history[-1].entries, *history[-1].shadows)}
    if keep_previous:
        keep |= _previous(history)
    return sorted(set(running) - keep)


def unrouted(histories: Iterable[Sequence[Route]], running: Collection[str]) -> list[str]:
    """Return the deployments that no project's route names and none keeps: left by work that was cut short."""
    left = set(running)
    for history in histories:
        left &= set(to_retire(history, running, keep_previous=True)) if history else left
    return sorted(left)


def _previous(history: Sequence[Route]) -> set[str]:
    """Return the newest champion's deployments before those that serve; who only stood beside it is none."""
    serving = {entry.deployment_id for entry in history[-1].entries}
    for route in reversed(history[:-1]):
        champions = (entry for entry in route.entries if entry.model_version == route.champion_version)
        ids = {entry.deployment_id for entry in champions}
        if ids - serving:
            return ids
    return set()
