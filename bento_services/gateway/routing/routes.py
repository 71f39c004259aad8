"""Routes and keys of now as one immutable value, and the choice of a deployment: pure functions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from pipeline_tasks.contracts import Graph, GraphNode, RouteEntry, ServingSettings

Row = Mapping[str, Any] | sa.RowMapping
SLOTS = 10_000  # the resolution of sticky shares


@dataclasses.dataclass(frozen=True, slots=True)
class ProjectRoute:
    """The head of a project's route; a composed project has a graph in place of entries."""

    project: str
    generation: int
    commit_id: str
    champion_version: str
    entries: tuple[RouteEntry, ...]
    shadows: tuple[RouteEntry, ...]
    settings: ServingSettings
    graph: Graph | None = None

    @property
    def known_classes(self) -> tuple[str, ...]:
        """Return what an outcome may be: the champion's classes, and those of a model beside it; empty: anything."""
        known = self.settings.classes
        return tuple(dict.fromkeys((*known, *self.settings.beside_classes))) if known else known

    @property
    def named(self) -> tuple[RouteEntry, ...]:
        """Return every deployment that may be asked."""
        standby = self.settings.standby
        return (*self.entries, *self.shadows, *(() if standby is None else (standby,)))

    def classes_of(self, entry: RouteEntry) -> tuple[str, ...]:
        """Return the classes that an answer of this deployment has to be about."""
        beside = entry.model_version != self.champion_version and entry != self.settings.standby
        return (beside and self.settings.beside_classes) or self.settings.classes


@dataclasses.dataclass(frozen=True, slots=True)
class KeyInfo:
    """A caller's key: its digest and what it may do."""

    key_id: str
    project: str
    sha256: str
    scopes: frozenset[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """All projects, their routes, and all keys by digest, read at one time."""

    projects: frozenset[str]
    routes: Mapping[str, ProjectRoute]
    keys: Mapping[str, KeyInfo]

    def to_json(self) -> str:
        """Return the text of the local copy; `parse_snapshot` reads it back."""
        routes = [dataclasses.asdict(self.routes[name]) for name in sorted(self.routes)]
        keys = [{**dataclasses.asdict(key), "scopes": sorted(key.scopes)} for _, key in sorted(self.keys.items())]
        document = {"format_version": 1, "projects": sorted(self.projects), "routes": routes, "keys": keys}
        return json.dumps(document, sort_keys=True)


def parse_snapshot(text: str) -> Snapshot:
    """Read the local copy.

    Raises:
        ValueError: it is not one.
    """
    try:
        document = json.loads(text)
        routes = [
            _route_of(fields, {**fields["settings"], "graph": fields.get("graph")}) for fields in document["routes"]
        ]
        keys = [parse_key(fields) for fields in document["keys"]]
        projects = [str(name) for name in document["projects"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"routes.json must be a copy of routes and keys (got {type(error).__name__}).") from error
    return snapshot_of(routes, keys, projects=projects)


def snapshot_of(routes: Sequence[ProjectRoute], keys: Sequence[KeyInfo], *, projects: Sequence[str] = ()) -> Snapshot:
    """Index routes and keys; a project with a route is a project."""
    by_project = {route.project: route for route in routes}
    return Snapshot(frozenset({*projects, *by_project}), by_project, {key.sha256: key for key in keys})


def parse_route(row: Row) -> ProjectRoute:
    """Read a row of the catalog's `routes`; its body is JSON text or, from PostgreSQL, already parsed."""
    body = _json(row["body"])
    return _route_of(
        {**dict(row), "entries": body["entries"], "shadows": body.get("shadows", ())}, body.get("serving", {})
    )


def parse_key(row: Row) -> KeyInfo:
    """Read a row of the catalog's `api_keys`."""
    scopes = frozenset(str(scope) for scope in _json(row["scopes"]))
    return KeyInfo(str(row["key_id"]), str(row["project"]), str(row["sha256"]), scopes)


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _route_of(fields: Mapping[str, Any], settings: Mapping[str, Any]) -> ProjectRoute:
    return ProjectRoute(
        project=str(fields["project"]),
        generation=int(fields["generation"]),
        commit_id=str(fields["commit_id"]),
        champion_version=str(fields["champion_version"]),
        entries=tuple(RouteEntry(**entry) for entry in fields["entries"]),
        shadows=tuple(RouteEntry(**entry) for entry in fields["shadows"]),
        settings=ServingSettings.parse(settings),
        graph=_graph(settings.get("graph")),
    )


def _graph(fields: Mapping[str, Any] | None) -> Graph | None:
    if fields is None:
        return None
    nodes = [
        GraphNode(**{**node, "labels": tuple(node["labels"]), "label_in": tuple(node["label_in"])})
        for node in fields["nodes"]
    ]
    return Graph(tuple(nodes), tuple(fields["output"]))


def choose(
    route: ProjectRoute, *, sticky_key: str, version: str | None, avoid: Collection[str] = ()
) -> RouteEntry | None:
    """Return the deployment for a request, or None if no deployment has the named version.

    Without a version the share decides, by a hash of the sticky key, so that one user stays on one deployment while
    the weights stay. Deployments in `avoid` are passed over as long as another one is left; the standby is the last.
    """
    salt = _salt(route)
    sticky_key = f"{salt}/{sticky_key}" if salt else sticky_key
    if version is not None:
        # A version may serve with weight 0: kept for callers who name it.
        named = [entry for entry in (*route.entries, *route.shadows) if entry.model_version == version]
        return _by_hash(_without(named, avoid), sticky_key, weighted=False)
    shares = [entry for entry in route.entries if entry.weight > 0]
    standby = _standby(route, avoid)
    if standby and all(entry.deployment_id in avoid for entry in shares):
        return standby[0]
    return _by_hash(_without(shares, avoid), sticky_key, weighted=True)


def _standby(route: ProjectRoute, avoid: Collection[str]) -> list[RouteEntry]:
    """Return the standby, unless there is none or it is to be passed over."""
    standby = route.settings.standby
    return [standby] if standby is not None and standby.deployment_id not in avoid else []


def _salt(route: ProjectRoute) -> str:
    """Return what deals users anew: an experiment, else what stands beside the champion, the same at all its steps.

    So no arm inherits the users of an earlier one, and it is not always the same users who meet a candidate first.
    """
    beside = {entry.model_version for entry in route.entries} - {route.champion_version}
    return str(route.settings.experiment.get("experiment_id") or "/".join(sorted(beside)))


def choose_other(
    route: ProjectRoute,
    failed: RouteEntry,
    *,
    version: str | None,
    avoid: Collection[str] = (),
    standby: bool = False,
) -> RouteEntry:
    """Return where to replay a request: on the champion, else another replica of the version, else the same once more.

    A caller who named a version gets that version or an error. Replicas of a broken candidate are broken alike.
    `standby`: before the same once more comes the champion's predecessor.
    """
    others = [entry for entry in route.entries if entry.deployment_id != failed.deployment_id]
    kept = _standby(route, {*avoid, failed.deployment_id}) if standby and version is None else []
    if kept and all(entry.deployment_id in avoid for entry in others):
        return kept[0]
    others = _without(others, avoid)
    same = [entry for entry in others if entry.model_version == failed.model_version]
    champions = [entry for entry in others if entry.model_version == route.champion_version]
    candidates = same if version is not None else (*champions, *same, *others)
    return next(iter(candidates), failed)


def champion_beside(route: ProjectRoute, entry: RouteEntry) -> RouteEntry | None:
    """Return the champion's deployment where `entry` is another model's, else None."""
    if entry.model_version == route.champion_version:
        return None
    return next((other for other in route.entries if other.model_version == route.champion_version), None)


def _without(entries: Sequence[RouteEntry], avoid: Collection[str]) -> list[RouteEntry]:
    left = [entry for entry in entries if entry.deployment_id not in avoid]
    return left or list(entries)


def _by_hash(entries: Sequence[RouteEntry], sticky_key: str, *, weighted: bool) -> RouteEntry | None:
    if not entries:
        return None
    shares = [entry.weight if weighted else 1 for entry in entries]
    slot = int.from_bytes(hashlib.sha256(sticky_key.encode()).digest()[:8]) % SLOTS
    edge = 0.0
    for entry, share in zip(entries, shares, strict=True):
        edge += share * SLOTS / sum(shares)
        if slot < edge:
            return entry
    return entries[-1]
