"""The projects of an installation: those that have a folder, and those that the catalog remembers."""

from __future__ import annotations

import difflib
from pathlib import Path

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database
from pipeline_tasks.errors import ConfigError, PermanentError
from pipeline_tasks.project.yaml_reader import shown

_RECORDS = (t.items, t.projects, t.routes, t.runs, t.model_versions)  # who has none of these has no history


def require_known(name: str, *, projects_dir: Path, database: Database | None) -> None:
    """Refuse a project that has neither a folder nor a history.

    Raises:
        ConfigError: UNKNOWN_PROJECT, with the name that was probably meant.
    """
    known = project_folders(projects_dir)
    if name not in known and database is not None:
        known |= recorded_projects(database)
    if name in known:
        return
    close = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(sorted(known)) or 'none'}."
    raise ConfigError(
        f"project must have a folder below {projects_dir} or a history here (got {shown(name)}). {hint}",
        code="UNKNOWN_PROJECT",
    )


def project_folders(projects_dir: Path) -> set[str]:
    """Return the names of the projects' folders, right or wrong inside."""
    if not projects_dir.is_dir():
        return set()
    return {child.name for child in projects_dir.iterdir() if child.is_dir() and child.name[0] not in "._"}


def recorded_projects(database: Database) -> set[str]:
    """Return the projects of the catalog; none where it has no tables yet."""
    try:
        with database.read() as connection:
            return {
                str(name) for table in _RECORDS for name in connection.scalars(sa.select(table.c.project).distinct())
            }
    except PermanentError:
        return set()
