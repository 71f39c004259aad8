"""Items on which people differ: which are asked of a further person, and what an exam and the audits lack by them."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Collection, Sequence

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Repository, slices
from pipeline_tasks.catalog.exam_window import ExamLabels
from pipeline_tasks.catalog.labels import newest_decisions
from pipeline_tasks.catalog.set_aside import is_usable
from pipeline_tasks.contracts import Fence, Queue


@dataclasses.dataclass(frozen=True, slots=True)
class DisputedItem:
    """An item whose people differ, and its labeling task; a task that is open is asked of a further person."""

    item_id: str
    is_open: bool
    ls_project_id: int | None
    ls_task_id: int | None


class DisputeRepository(Repository):
    """Disputed decisions of all projects, beside the labeling tasks of their items."""

    def disputed(self, project: str, queue: Queue) -> list[DisputedItem]:
        """Return the items of a queue whose newest decision is disputed, by id; retired ones are left alone."""
        task = t.labeling_tasks.c
        query = (
            sa.select(task.item_id, (task.state != "done").label("is_open"), task.ls_project_id, task.ls_task_id)
            .select_from(_disputed_tasks(project))
            .where(task.queue == queue, is_usable(project))
            .order_by(task.item_id)
        )
        return [
            DisputedItem(row.item_id, bool(row.is_open), row.ls_project_id, row.ls_task_id)
            for row in self.database.rows(query)
        ]

    def set_open(self, project: str, *, asked: Sequence[str], settled: Sequence[str], fence: Fence) -> None:
        """Open the tasks of items that are asked of a further person, and close those that are asked no more.

        One whose task in Label Studio is gone waits to be pushed again.
        """
        task = t.labeling_tasks.c
        again = sa.case((task.ls_task_id.is_(None), "pending"), else_="pushed")
        with self.database.write(fence) as connection:
            for state, item_ids, was in ((again, asked, task.state == "done"), ("done", settled, task.state != "done")):
                for some in slices(item_ids):
                    mine = (task.project == project, task.item_id.in_(some), was)
                    connection.execute(t.labeling_tasks.update().where(*mine).values(state=state))

    def num_asked(self, project: str) -> dict[Queue, int]:
        """Return how many items of each queue are asked of a further person now."""
        task = t.labeling_tasks.c
        query = (
            sa.select(task.queue, sa.func.count())
            .select_from(_disputed_tasks(project))
            .where(task.state != "done", is_usable(project))
            .group_by(task.queue)
        )
        asked: dict[Queue, int] = {"label": 0, "exam": 0}
        return asked | {queue: int(count) for queue, count in self.database.rows(query)}

    def exam_decisions(self, project: str) -> dict[tuple[bool, bool], int]:
        """Return how many exam items have a label, by whether they are in an epoch, and it is their source's."""
        item, member = t.items.c, t.exam_items.c
        newest = newest_decisions(project).where(t.label_decisions.c.status == "decided").subquery()
        in_epoch = sa.exists().where(member.project == item.project, member.item_id == item.item_id)
        by_source = newest.c.method == "imported"
        query = (
            sa.select(in_epoch.label("in_epoch"), by_source.label("by_source"), sa.func.count())
            .select_from(t.items.join(newest, newest.c.item_id == item.item_id))
            .where(item.project == project, item.split == "exam", is_usable(project))
            .group_by(in_epoch, by_source)
        )
        counts = {(place, source): 0 for place in (True, False) for source in (True, False)}
        return counts | {(bool(row[0]), bool(row[1])): int(row[2]) for row in self.database.rows(query)}

    def exam_labels(
        self, project: str, epochs: Collection[int], *, after: dt.datetime | None, until: dt.datetime
    ) -> ExamLabels:
        """Return what the labels of these epochs are worth: items that they lack, and labels that nobody looked at.

        Lacking is an exam item that was disputed for the first time after `after` (the opening of the epoch before the
        first of these) and not after `until` (that of the last), and is in no epoch.
        """
        item, member, decision, task = t.items.c, t.exam_items.c, t.label_decisions.c, t.labeling_tasks.c
        newest = newest_decisions(project).subquery()
        first_at = (
            sa.select(sa.func.min(decision.decided_at))
            .where(decision.project == item.project, decision.item_id == item.item_id, decision.status == "disputed")
            .scalar_subquery()
        )
        in_epoch = sa.exists().where(member.project == item.project, member.item_id == item.item_id)
        same_task = sa.and_(task.project == item.project, task.item_id == item.item_id)
        lacking = (
            sa.select(newest.c.status, task.state, sa.func.count())
            .select_from(t.items)
            .join(newest, newest.c.item_id == item.item_id)
            .outerjoin(t.labeling_tasks, same_task)
            .where(item.project == project, item.split == "exam", is_usable(project), ~in_epoch)
            .where(first_at <= until, *([first_at > after] if after is not None else []))
            .group_by(newest.c.status, task.state)
        )
        imported = (
            sa.select(sa.func.count())
            .select_from(t.exam_items)
            .join(newest, newest.c.item_id == member.item_id)
            .where(member.project == project, member.epoch.in_(list(epochs)), newest.c.method == "imported")
        )
        counts = {"asked": 0, "disputed": 0, "decided": 0}
        with self.database.read() as connection:
            for status, state, count in connection.execute(lacking):
                is_asked = status == "withdrawn" or (status == "disputed" and state not in {None, "done"})
                counts["asked" if is_asked else status] += int(count)
            num_imported = int(connection.execute(imported).scalar_one())
        return ExamLabels(counts["asked"], counts["disputed"], counts["decided"], num_imported)


def _disputed_tasks(project: str) -> sa.Join:
    """Join the labeling tasks of a project with the newest decisions that are disputed, and their items."""
    task, item = t.labeling_tasks.c, t.items.c
    newest = newest_decisions(project).where(t.label_decisions.c.status == "disputed").subquery()
    same_item = sa.and_(item.project == task.project, item.item_id == task.item_id)
    mine = sa.and_(task.item_id == newest.c.item_id, task.project == project)
    return t.labeling_tasks.join(newest, mine).join(t.items, same_item)
