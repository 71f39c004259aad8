"""The invariants of a composed project's chain: linear, named after its graph, on projects that had a champion."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence

from pipeline_tasks.catalog.routes import GRAPH
from pipeline_tasks.contracts import GRAPH_VERSION, content_id
from pipeline_tasks.invariants.violation import Row, Violation


def graph_violations(
    project: str, routes: Sequence[Row], *, first_champions: Mapping[str, dt.datetime]
) -> Iterator[Violation]:
    """I3, I6: each generation follows its parent, is what its version says, and asks champions only.

    `first_champions` says since when a project has had one.
    """
    parent = None
    for number, route in enumerate(routes, start=1):
        name, serving = f"generation {route['generation']}", route["body"]["serving"]
        if route["generation"] != number or route["parent_commit_id"] != parent:
            yield Violation("I3", project, f"{name} must be generation {number} after {parent}")
        if route["action"] != GRAPH or route["body"]["entries"] or "graph" not in serving:
            yield Violation("I3", project, f"{name} must be a graph without deployments of its own")
            continue
        if route["champion_version"] != f"{GRAPH_VERSION}{content_id(serving)[:12]}":
            yield Violation("I3", project, f"{name} must be named after its graph (got {route['champion_version']})")
        for node in serving["graph"]["nodes"]:
            since = first_champions.get(node["project"])
            if since is None or since > route["created_at"]:
                yield Violation("I6", project, f"{name} asks {node['project']}, which had no champion")
        parent = route["commit_id"]
