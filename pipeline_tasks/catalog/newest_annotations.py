"""People's answers of now, one of each person to each item, whatever was decided from them."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.labels import newest_annotations
from pipeline_tasks.catalog.schema_versions import SchemaRepository

ROWS_AT_ONCE = 10_000


def answers_of(database: Database, project: str) -> list[tuple[str, str, str]]:
    """Return (item id, labeler, label) of both queues, sorted; deleted, skipped and refused answers are none.

    Labels are under the class names of now; an answer of a removed class is none.
    """
    former = SchemaRepository(database).names_now(project)
    newest: dict[tuple[str, str], tuple[str, str, str]] = {}
    with database.read() as connection:
        for row in connection.execution_options(yield_per=ROWS_AT_ONCE).execute(_newest_revisions(project)):
            key, rows = (row.item_id, row.annotator), (row.revision, row.annotation_id, row.label)
            newest[key] = max(newest.get(key, rows), rows)
    named = ((*key, former.get(label, label)) for key, (_, _, label) in newest.items())
    return sorted((item_id, labeler, label) for item_id, labeler, label in named if label is not None)


@dataclasses.dataclass(frozen=True, slots=True)
class Submit:
    """Newest state of a submit: an answer or a skip, its time, and how long the task was open in the browser."""

    annotator: str
    at: dt.datetime
    skipped: bool
    seconds: float | None


def submits_of(database: Database, project: str) -> list[Submit]:
    """Return what stands of everybody's submits, in no order; deleted and refused ones are none."""
    column = t.annotations.c
    counts = (column.deleted.is_(False), sa.or_(column.cancelled.is_(True), column.label.is_not(None)))
    chosen = (column.annotator, column.created_at, column.cancelled, column.lead_time_seconds)
    query = newest_annotations(project).where(*counts).with_only_columns(*chosen, maintain_column_froms=True)
    with database.read() as connection:
        return [Submit(*row) for row in connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query)]


def num_labelers(database: Database, project: str) -> int:
    """Return how many different people have answered anything."""
    column = t.annotations.c
    query = sa.select(sa.func.count(sa.distinct(column.annotator))).where(column.project == project)
    return int(database.scalar(query))


def _newest_revisions(project: str) -> sa.Select[Any]:
    column = t.annotations.c
    counts = (column.deleted.is_(False), column.cancelled.is_(False), column.label.is_not(None))
    chosen = (column.item_id, column.annotator, column.label, column.revision, column.annotation_id)
    newest = newest_annotations(project).where(*counts)
    return newest.with_only_columns(*chosen, maintain_column_froms=True)
