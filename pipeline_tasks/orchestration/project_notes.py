"""Notes on a project's data for `dethrone project validate` and `dethrone status`: its exam, and unknown values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa

from pipeline_tasks.annotation.people import further_line
from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.disputes import DisputeRepository
from pipeline_tasks.catalog.items import ItemRepository
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.catalog.model_versions import ModelRecord, ModelRepository
from pipeline_tasks.errors import PipelineError
from pipeline_tasks.evaluation.exam_planning import few_groups
from pipeline_tasks.evaluation.reasons import percent
from pipeline_tasks.orchestration.resources import build_resources
from pipeline_tasks.project.loader import load_projects
from pipeline_tasks.project.schema import LoadedProject

MAX_VALUES = 6


def catalog_there() -> Database | None:
    """Return the catalog, or None where there is none yet or it does not answer; nothing is made."""
    try:
        parts = build_resources()
        url = sa.make_url(parts.settings.catalog_url)
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
            return None
        with parts.database.read() as connection:
            connection.execute(sa.text("SELECT 1 FROM label_decisions LIMIT 1"))
    except (PipelineError, sa.exc.SQLAlchemyError, OSError):
        return None
    return parts.database


def project_notes(projects: Sequence[LoadedProject], database: Database) -> list[str]:
    """Return what is to be known of each project: few groups, labels nobody looked at, ties, values not declared."""
    disputes, labels = DisputeRepository(database), LabelRepository(database)
    lines = [groups_line(project, ItemRepository(database)) for project in projects]
    lines += [imported_line(project, disputes.exam_decisions(project.name)) for project in projects]
    lines += [further_line(project, labels=labels) for project in projects]
    lines += [unknown_values_line(project.name, ModelRepository(database).newest(project.name)) for project in projects]
    return [line for line in lines if line]


def groups_line(project: LoadedProject, items: ItemRepository) -> str:
    """Return that the project's items are of too few groups for an exam, or ""."""
    groups = items.num_groups(project.name)
    num_exam, num_all = groups.get("exam", 0), sum(groups.values())
    return few_groups(project.config, num_exam=num_exam, num_all=num_all, num_items=items.count(project.name))


def unknown_values_line(project: str, newest: ModelRecord | None) -> str:
    """Return which values of categories the newest training did not know, or ""; pure."""
    unmatched = (newest.metrics.get("inputs") or {}).get("unmatched") if newest is not None else None
    if not unmatched:
        return ""
    shown = [
        f"{column} ({', '.join(f'{value} {count:,}' for value, count in list(counts.items())[:MAX_VALUES])})"
        for column, counts in unmatched.items()
    ]
    return (
        f"{project}: the newest training counted values as unknown that `columns` does not declare, with their rows: "
        f"{'; '.join(shown)}. Add them to the `values` of the column in project.yaml, or mend the source."
    )


def status_lines() -> list[str]:
    """Return the same lines of all projects."""
    parts = build_resources()
    projects, _errors = load_projects(parts.settings.projects_dir)
    return project_notes(projects, parts.database)


def imported_line(project: LoadedProject, counts: Mapping[tuple[bool, bool], int]) -> str:
    """Return what becomes of exam labels that came with the source, in words; pure."""
    frozen, waiting = counts[True, True], counts[False, True]
    if project.config.labels.imported_in_exam:
        total = sum(counts.values())
        if not frozen + waiting:
            return ""
        share = percent((frozen + waiting) / total)
        return (
            f"{project.name}: nobody looked at {frozen + waiting:,} of {total:,} exam labels ({share}): they came with "
            "the source (labels.imported_in_exam)."
        )
    kept = f" {frozen:,} items of epochs that were opened keep such labels." if frozen else ""
    if not waiting:
        return f"{project.name}: {kept.strip()}" if kept else ""
    return (
        f"{project.name}: the labels that came with {waiting:,} exam items do not decide them, people are asked "
        f"(labels.imported_in_exam is false).{kept}"
    )
