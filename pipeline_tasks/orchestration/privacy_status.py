"""The line of `dethrone status` on a project whose gateway does not know its deny-list yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.orchestration.resources import Resources, build_resources
from pipeline_tasks.project.loader import load_projects
from pipeline_tasks.project.schema import Project


def privacy_lines(parts: Resources | None = None) -> list[str]:
    """Return one line per project that serves by another `privacy.deny` than its file has."""
    parts = parts or build_resources()
    serving = ServingRepository(parts.database)
    lines = []
    for project in load_projects(parts.settings.projects_dir)[0]:
        head = serving.head_route(project.name)
        if head is not None:
            lines.append(privacy_line(project.config, serving.route_config(project.name, head.generation)))
    return [line for line in lines if line]


def privacy_line(project: Project, route: Mapping[str, Any]) -> str:
    """Return the line for a project and what its route tells the gateway, or nothing."""
    wanted = project.privacy.deny.model_dump() if project.deny_list else None
    if route.get("preprocess", {}).get("privacy") == wanted:
        return ""
    return (
        f"The gateway does not know privacy.deny of {project.name} as it is now: it does with the next promotion "
        f"(`dethrone train {project.name} --force`). Ingest follows it already."
    )
