"""Items that are neither labeled nor trained on nor asked in an exam: what a check put aside, and what was retired."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Repository, insert_ignore, slices
from pipeline_tasks.contracts import UNDECODABLE, Fence

ITEM_STAGE = "items"


@dataclasses.dataclass(frozen=True, slots=True)
class BadRow:
    """An item, an annotation or a label that is put aside, for the quarantine of a stage."""

    source: str
    key: str
    item_id: str
    code: str
    reason: str
    object_key: str | None = None


def put_aside(connection: sa.Connection, project: str, stage: str, rows: Iterable[BadRow], *, at: dt.datetime) -> None:
    """Write rows into the quarantine of a stage; those that are there stay as they are."""
    place = {"project": project, "stage": stage, "at": at}
    bad = [dataclasses.asdict(row) for row in rows]
    insert_ignore(connection, t.quarantine, [{"digest": row.pop("item_id"), **row, **place} for row in bad])


@dataclasses.dataclass(frozen=True, slots=True)
class Retirement:
    """One item's taking out of use: who, when and why."""

    project: str
    item_id: str
    reason: str
    by: str
    at: dt.datetime


def is_usable(project: str) -> sa.ColumnElement[bool]:
    """Return the condition that an item of a project is in no quarantine of the items check and was not retired."""
    bad, retired = t.quarantine.c, t.item_retirements.c
    # Two lists that the database builds once: looked up item by item, they would be read from start to end each time.
    quarantined = sa.select(bad.digest).where(bad.project == project, bad.stage == ITEM_STAGE)
    gone = sa.select(retired.item_id).where(retired.project == project)
    return sa.and_(t.items.c.item_id.not_in(quarantined), t.items.c.item_id.not_in(gone))


class SetAsideRepository(Repository):
    """Retirements, and the items that the project's recipe could not decode."""

    def retire(self, retirement: Retirement) -> Retirement:
        """Record that an item is out of use, and return the record that stands: the first one stays."""
        where = sa.and_(
            t.item_retirements.c.project == retirement.project, t.item_retirements.c.item_id == retirement.item_id
        )
        with self.database.write() as connection:
            insert_ignore(connection, t.item_retirements, [dataclasses.asdict(retirement)])
            row = connection.execute(sa.select(t.item_retirements).where(where)).mappings().one()
        return Retirement(**row)

    def retirements(self, project: str) -> dict[str, Retirement]:
        """Return a project's retirements by item id."""
        query = sa.select(t.item_retirements).where(t.item_retirements.c.project == project)
        return {row["item_id"]: Retirement(**row) for row in self.database.mappings(query)}

    def exams_with(self, project: str, item_id: str) -> list[int]:
        """Return the epochs of the exams that hold an item."""
        member = t.exam_items.c
        query = sa.select(member.epoch).where(member.project == project, member.item_id == item_id)
        return [int(epoch) for epoch in self.database.scalars(query.order_by(member.epoch))]

    def unusable(self, project: str, item_ids: Iterable[str]) -> set[str]:
        """Return which of these items are set aside."""
        query = sa.select(t.items.c.item_id).where(t.items.c.project == project, ~is_usable(project))
        return {str(row.item_id) for row in self.database.rows_among(query, t.items.c.item_id, item_ids)}

    def undecodable(self, project: str, *, but_by: str, limit: int, after: str = "") -> list[Mapping[str, Any]]:
        """Return the items, from an id on, that were put aside as undecodable by another suite than `but_by`."""
        item, bad = t.items.c, t.quarantine.c
        same = sa.and_(bad.project == item.project, bad.digest == item.item_id)
        query = (
            sa.select(item.item_id, item.content_id, item.object_key, item.offset, item.size_bytes)
            .join(t.quarantine, same)
            .where(bad.project == project, bad.stage == ITEM_STAGE, bad.code == UNDECODABLE, item.item_id > after)
            .where(~bad.reason.contains(f"(suite {but_by})", autoescape=True))
            .order_by(item.item_id)
            .limit(limit)
        )
        return [dict(row) for row in self.database.mappings(query.distinct())]

    def release(self, project: str, item_ids: Iterable[str], *, fence: Fence | None = None) -> None:
        """Take items that decode now out of the quarantine of what does not."""
        bad = t.quarantine.c
        mine = sa.and_(bad.project == project, bad.stage == ITEM_STAGE, bad.code == UNDECODABLE)
        with self.database.write(fence) as connection:
            for some in slices(sorted(item_ids)):
                connection.execute(t.quarantine.delete().where(mine, bad.digest.in_(some)))
