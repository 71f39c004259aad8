"""Migrations of a project's classes on the catalog and Label Studio of this installation."""

from __future__ import annotations

from pipeline_tasks.annotation import class_migration
from pipeline_tasks.annotation.class_migration import Migration
from pipeline_tasks.annotation.class_plan import ClassOptions
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.core.settings import user_name
from pipeline_tasks.orchestration.resources import Resources


def prepare(parts: Resources, project: str, options: ClassOptions, *, undo: bool) -> Migration:
    """Return what a migration would do; nothing is changed."""
    loaded = parts.project(project)
    return class_migration.prepare(loaded, options, undo=undo, database=parts.database, by=user_name(), now=utc_now())


def migrate(parts: Resources, project: str, options: ClassOptions, *, undo: bool, attempt: Attempt) -> Migration:
    """Carry a migration out."""
    return class_migration.migrate(
        parts.project(project),
        options,
        undo=undo,
        labels=LabelRepository(parts.database),
        labeling=parts.labeling,
        installation=parts.settings.split_key,
        attempt=attempt,
        database=parts.database,
        by=user_name(),
        now=utc_now(),
    )
