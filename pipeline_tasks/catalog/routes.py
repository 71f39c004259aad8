"""Deployments, the chain of routes, and the keys of the callers."""

from __future__ import annotations

import dataclasses
import datetime as dt
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from pipeline_tasks.catalog import ledger, ledger_repository
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Repository, columns_of, insert_ignore
from pipeline_tasks.contracts import DeploymentRef, Fence, Route, RouteEntry, sha256_hex
from pipeline_tasks.errors import ConfigError, GateClosed, LostRace, ServiceUnavailable, TransientError

FULL_SHARE = 100
TOKEN_BYTES = 32
SCOPES = ("predict", "feedback", "admin")
EVERY_PROJECT = "*"
GRAPH = "graph"  # the action of a composed project's route


@dataclasses.dataclass(frozen=True, slots=True)
class RouteRecord:
    """One generation of a route with who moved it, why, and the serving settings that came with it."""

    route: Route
    action: str
    attempt: str
    verdict_id: str
    actor: str
    reason: str
    serving: Mapping[str, Any]
    created_at: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class ApiKey:
    """The record of an API key: never the key itself."""

    key_id: str
    project: str
    name: str
    scopes: tuple[str, ...]
    created_at: dt.datetime
    revoked_at: dt.datetime | None


def new_token() -> str:
    """Return a fresh API key: 32 random bytes as text; shown once, only its SHA-256 is kept."""
    return secrets.token_urlsafe(TOKEN_BYTES)


class ServingRepository(Repository):
    """Routes, deployments and API keys."""

    def record_deployment(
        self, deployment: DeploymentRef, *, target: str, now: dt.datetime, fence: Fence | None = None
    ) -> None:
        """Write that a release runs on a target; the first record of a deployment id stays."""
        row = {**dataclasses.asdict(deployment), "target": target, "created_at": now}
        with self.database.write(fence) as connection:
            insert_ignore(connection, t.deployments, [row])

    def deployments(self, project: str) -> list[DeploymentRef]:
        """Return a project's deployments, oldest first."""
        table = t.deployments.c
        query = sa.select(*columns_of(t.deployments, DeploymentRef)).where(table.project == project)
        return self.database.records(DeploymentRef, query.order_by(table.created_at, table.deployment_id))

    def targets(self, project: str) -> set[str]:
        """Return the kinds of targets that a project's releases were ever started on."""
        query = sa.select(t.deployments.c.target).where(t.deployments.c.project == project).distinct()
        return set(self.database.scalars(query))

    def head_route(self, project: str) -> Route | None:
        """Return what serves now, or None before the first promotion."""
        record = self.head_record(project)
        return None if record is None else record.route

    def projects(self) -> list[str]:
        """Return the projects that have a route."""
        query = sa.select(t.routes.c.project).distinct().order_by(t.routes.c.project)
        return list(self.database.scalars(query))

    def head_record(self, project: str) -> RouteRecord | None:
        """Return the newest generation with who moved it and why, or None before the first promotion."""
        return self.database.record(_record, _newest(project))

    def require_gated(self, project: str, version: str) -> None:
        """Raise GateClosed unless a model was champion or has a promote verdict."""
        with self.database.read() as connection:
            _require_passed(connection, project, {version})

    def history(self, project: str) -> list[Route]:
        """Return every generation, oldest first."""
        return [record.route for record in self.records(project)]

    def records(self, project: str) -> list[RouteRecord]:
        """Return every generation with who moved it and why, oldest first."""
        query = sa.select(t.routes).where(t.routes.c.project == project).order_by(t.routes.c.generation)
        return self.database.records(_record, query)

    def verdict_of(self, project: str, generation: int) -> str:
        """Return the verdict that a generation stands on."""
        return self._generation(project, generation).verdict_id

    def route_config(self, project: str, generation: int) -> dict[str, Any]:
        """Return the serving settings that were committed with a generation."""
        return dict(self._generation(project, generation).serving)

    def commit_route(
        self,
        route: Route,
        *,
        action: str,
        attempt: str,
        verdict_id: str,
        actor: str,
        reason: str,
        serving: Mapping[str, Any],
        at: dt.datetime,
        fence: Fence | None = None,
    ) -> Route:
        """Move the route by compare-and-swap: `route` is one generation after its parent, the head.

        Committing the same `commit_id` again is a success, also when the first answer was lost.

        Raises:
            LostRace: another route took the generation; read the head and decide again.
            ConfigError: the weights do not add up to 100.
            InputError: a version, the actor or the reason is not text.
            GateClosed: UNGATED_ENTRY, a model beside the champion that no verdict has let through;
                NODE_WITHOUT_CHAMPION and PROJECT_HAS_MODELS, a graph that may not serve.
            StaleAttempt: a newer attempt holds the fence; nothing is written.
            ServiceUnavailable: the catalog is away, and the route was not seen there.
        """
        _check_weights(route, action=action)
        facts = {"action": action, "attempt": attempt, "verdict_id": verdict_id, "actor": actor, "reason": reason}
        row = _row(route, serving=serving) | facts | {"created_at": at}
        ledger.check_texts(ledger.route_draft(row, evidence_digest=None))
        try:
            with self.database.write(fence) as connection:
                ledger_repository.lock(connection, route.project)
                head = _head(connection, route.project)
                follows = (head.generation if head else 0) == route.generation - 1 and _is_child(route, head)
                if follows:
                    _require_gated(connection, route, standby=serving.get("standby"))
                    _require_one_kind(connection, route.project, action=action)
                    if action == GRAPH:
                        _require_champions(connection, [node["project"] for node in serving["graph"]["nodes"]])
                    if insert_ignore(connection, t.routes, [row]):
                        ledger_repository.append_route(connection, row)
        except TransientError as error:  # an answer can be lost
            if not self._was_written(route):
                raise ServiceUnavailable(
                    f"the catalog must take generation {route.generation} of {route.project} (got: {error}). "
                    "Try again: the commit id makes that safe."
                ) from error
        self._require_ours(route)
        return route

    def issue_key(self, project: str, *, name: str, scopes: Sequence[str], token: str, at: dt.datetime) -> ApiKey:
        """Register a token for a project (`*` = all); the same token again changes nothing.

        Raises:
            ConfigError: an unknown scope, or a token that is too short to be random.
        """
        _check_key(scopes, token)
        digest = sha256_hex(token.encode())
        row: dict[str, Any] = {
            "key_id": digest[:12],
            "project": project,
            "name": name,
            "sha256": digest,
            "scopes": list(scopes),
        }
        row |= {"created_at": at, "revoked_at": None}
        with self.database.write() as connection:
            if insert_ignore(connection, t.api_keys, [row]):
                ledger_repository.append_key(connection, row)
        return next(key for key in self.api_keys() if key.key_id == digest[:12])

    def revoke_key(self, key_id: str, *, at: dt.datetime) -> None:
        """Withdraw a key; gateways refuse it within a second. Revoking again changes nothing.

        Raises:
            ConfigError: there is no such key.
        """
        mine = t.api_keys.c.key_id == key_id
        with self.database.write() as connection:
            open_ones = t.api_keys.update().where(mine, t.api_keys.c.revoked_at.is_(None))
            changed = connection.execute(open_ones.values(revoked_at=at)).rowcount
            row = connection.execute(sa.select(t.api_keys).where(mine)).mappings().one_or_none()
            if row is None:
                raise ConfigError(f"key_id must be a known key (got {key_id!r}). See `dethrone keys list`.")
            if changed:
                ledger_repository.append_key(connection, dict(row))

    def api_keys(self) -> list[ApiKey]:
        """Return every key, oldest first, revoked ones too."""
        query = sa.select(*columns_of(t.api_keys, ApiKey)).order_by(t.api_keys.c.created_at, t.api_keys.c.key_id)
        return self.database.records(_api_key, query)

    def _generation(self, project: str, generation: int) -> RouteRecord:
        query = sa.select(t.routes).where(t.routes.c.project == project, t.routes.c.generation == generation)
        record = self.database.record(_record, query)
        if record is None:
            raise ConfigError(f"generation must be one of {project}'s (got {generation}). See `dethrone history`.")
        return record

    def _was_written(self, route: Route) -> bool:
        """Tell whether the route stands in the catalog although its commit failed."""
        try:
            return self._stored_commit(route) == route.commit_id
        except TransientError:
            return False

    def _require_ours(self, route: Route) -> None:
        stored = self._stored_commit(route)
        if stored != route.commit_id:
            raise LostRace(
                f"generation {route.generation} of {route.project} must follow {route.parent_commit_id} "
                f"(got: {stored or 'another head'} came first). Read the route and decide again."
            )

    def _stored_commit(self, route: Route) -> str | None:
        table = t.routes.c
        query = sa.select(table.commit_id).where(table.project == route.project, table.generation == route.generation)
        commit_id: str | None = self.database.scalar(query)
        return commit_id


def _newest(project: str) -> sa.Select[Any]:
    return sa.select(t.routes).where(t.routes.c.project == project).order_by(t.routes.c.generation.desc()).limit(1)


def _head(connection: sa.Connection, project: str) -> Route | None:
    row = connection.execute(_newest(project)).mappings().one_or_none()
    return None if row is None else _record(**row).route


def _is_child(route: Route, head: Route | None) -> bool:
    return route.parent_commit_id == (head.commit_id if head else None)


def _require_gated(connection: sa.Connection, route: Route, *, standby: Mapping[str, Any] | None) -> None:
    """Refuse a model beside the champion that neither was champion nor has a promote verdict, whatever its share.

    A share of 0 and a shadow count too: callers can name their version. So does a standby, which may answer anybody.
    """
    named = {entry.model_version for entry in (*route.entries, *route.shadows)}
    beside = (named | ({standby["model_version"]} if standby else set())) - {route.champion_version}
    if beside:
        _require_passed(connection, route.project, beside)


def _require_passed(connection: sa.Connection, project: str, versions: Collection[str]) -> None:
    champions = sa.select(t.routes.c.champion_version).where(t.routes.c.project == project)
    promoted = sa.select(t.verdicts.c.contender_version).where(
        t.verdicts.c.project == project, t.verdicts.c.answer == "promote"
    )
    unknown = sorted(set(versions) - set(connection.execute(sa.union(champions, promoted)).scalars()))
    if unknown:
        raise GateClosed(
            f"entries of a route of {project} must be its champion, former champions or models with a promote verdict "
            f"(got {', '.join(unknown)}). Judge them first.",
            code="UNGATED_ENTRY",
        )


def _require_one_kind(connection: sa.Connection, project: str, *, action: str) -> None:
    query = sa.select(t.routes.c.action).where(t.routes.c.project == project)
    others = [other for other in connection.execute(query).scalars() if (other == GRAPH) != (action == GRAPH)]
    if others:
        raise GateClosed(
            f"{project} must stay what it is, composed or with models of its own (got {action} after {others[0]}). "
            "Give the other one a name of its own.",
            code="PROJECT_HAS_MODELS",
        )


def _require_champions(connection: sa.Connection, projects: Sequence[str]) -> None:
    """Refuse a graph that asks a project without a champion, or another graph."""
    query = sa.select(t.routes.c.project).where(t.routes.c.project.in_(projects), t.routes.c.action != GRAPH)
    missing = sorted(set(projects) - set(connection.execute(query).scalars()))
    if missing:
        raise GateClosed(
            f"every node's project must have a champion ({', '.join(missing)} has none). Train it, or take the node "
            "out.",
            code="NODE_WITHOUT_CHAMPION",
        )


def _check_weights(route: Route, *, action: str) -> None:
    if action == GRAPH:
        if route.entries or route.shadows:
            raise ConfigError("entries must be empty in the route of a graph: its nodes have routes of their own.")
        return
    weights = [entry.weight for entry in route.entries]
    if sum(weights) != FULL_SHARE or any(weight < 0 for weight in weights):
        raise ConfigError(f"weights must be 0 or more and add up to {FULL_SHARE} (got {weights}). Fix the shares.")


def _check_key(scopes: Sequence[str], token: str) -> None:
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise ConfigError(f"scopes must be one or more of {', '.join(SCOPES)} (got {unknown or 'none'}).")
    if len(token) < TOKEN_BYTES:
        raise ConfigError(f"token must have {TOKEN_BYTES} or more characters (got {len(token)}). Use a generated one.")


def _row(route: Route, *, serving: Mapping[str, Any]) -> dict[str, Any]:
    body = {
        "entries": [dataclasses.asdict(entry) for entry in route.entries],
        "shadows": [dataclasses.asdict(entry) for entry in route.shadows],
        "serving": dict(serving),
    }
    row = {name: getattr(route, name) for name in ("project", "generation", "commit_id", "parent_commit_id")}
    return row | {"champion_version": route.champion_version, "body": body}


def _record(body: Mapping[str, Any], **row: Any) -> RouteRecord:
    plain = ("project", "generation", "commit_id", "parent_commit_id", "champion_version")
    route = Route(
        **{name: row.pop(name) for name in plain},
        entries=tuple(RouteEntry(**entry) for entry in body["entries"]),
        shadows=tuple(RouteEntry(**entry) for entry in body["shadows"]),
    )
    return RouteRecord(route=route, serving=body["serving"], **row)


def _api_key(scopes: Sequence[str], **fields: Any) -> ApiKey:
    return ApiKey(scopes=tuple(scopes), **fields)
