"""Counts of a project's items, labels and open labeling tasks."""

from __future__ import annotations

import dataclasses
from typing import Any

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.disputes import DisputeRepository
from pipeline_tasks.catalog.labels import newest_decisions


@dataclasses.dataclass(frozen=True, slots=True)
class LabelingState:
    """The state of labeling: what has a label, and what is open.

    Of the items on which people differ, `num_asked` are asked of a further person, `num_disputed` stay out.
    """

    num_items: int
    num_labels: int
    num_outstanding: int
    num_disputed: int
    num_asked: int


def labeling_state(database: Database, project: str) -> LabelingState:
    """Return the counts of a project's items, decided labels and open labeling tasks."""
    newest = newest_decisions(project).subquery()
    by_status = sa.select(newest.c.status, sa.func.count()).group_by(newest.c.status)
    num_asked = sum(DisputeRepository(database).num_asked(project).values())
    with database.read() as connection:
        statuses = {str(status): int(count) for status, count in connection.execute(by_status).all()}
        return LabelingState(
            num_items=_count(connection, t.items, project),
            num_labels=statuses.get("decided", 0),
            num_disputed=statuses.get("disputed", 0) - num_asked,
            num_asked=num_asked,
            num_outstanding=_count(connection, t.labeling_tasks, project, t.labeling_tasks.c.state != "done"),
        )


def _count(connection: sa.Connection, table: sa.Table, project: str, *conditions: Any) -> int:
    query = sa.select(sa.func.count()).select_from(table).where(table.c.project == project, *conditions)
    return int(connection.execute(query).scalar_one())
