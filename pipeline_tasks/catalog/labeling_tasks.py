"""The queue of items that people should label, and how far each one's way into Label Studio has gone."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Repository, insert_ignore, slices
from pipeline_tasks.catalog.items import item_of
from pipeline_tasks.catalog.set_aside import is_usable
from pipeline_tasks.contracts import Fence, Item, Queue, Split

Reason = Literal["new", "uncertain", "audit", "manual"]
State = Literal["pending", "pushing", "pushed", "done"]
QUEUE_OF_SPLIT: Mapping[Split, Queue] = {"train": "label", "exam": "exam"}


@dataclasses.dataclass(frozen=True, slots=True)
class QueuedItem:
    """An item on its way to the labelers; `prediction` is {"label", "score"} or None."""

    item: Item
    queue: Queue
    prediction: Mapping[str, Any] | None
    ls_task_id: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class QueueCounts:
    """Labeling tasks of one queue by state."""

    pending: int = 0
    pushing: int = 0
    pushed: int = 0
    done: int = 0

    @property
    def outstanding(self) -> int:
        return self.pending + self.pushing + self.pushed


class LabelingTaskRepository(Repository):
    """Labeling tasks: pending -> pushing -> pushed -> done."""

    def request(
        self,
        items: Iterable[Item],
        *,
        reason: Reason,
        now: dt.datetime,
        priority: float = 0.0,
        predictions: Mapping[str, Mapping[str, Any]] | None = None,
        fence: Fence | None = None,
    ) -> int:
        """Ask people for labels and return how many items were new to the queue; the first request of an item stays.

        The queue follows the item's split, but for audits: they go where exam items do, to as many people, and like
        them never carry a prediction.
        """
        known = predictions or {}
        rows = [_request_row(item, reason, priority, known.get(item.item_id), now) for item in items]
        with self.database.write(fence) as connection:
            return sum(insert_ignore(connection, t.labeling_tasks, some) for some in slices(rows))

    def request_unlabeled(
        self, project: str, *, imported_in_exam: bool = False, now: dt.datetime, fence: Fence | None = None
    ) -> int:
        """Ask for labels for every good item from a source that has neither a decision nor a labeling task.

        Unless `imported_in_exam`, the label of its source is no decision of an exam item that is in no epoch.
        """
        queued = sa.exists().where(
            t.labeling_tasks.c.project == t.items.c.project, t.labeling_tasks.c.item_id == t.items.c.item_id
        )
        undecided = ~has_decision() if imported_in_exam else sa.or_(~has_decision(), waits_for_people())
        query = sa.select(
            t.items.c.project,
            t.items.c.item_id,
            queue_of_split(),
            sa.literal("pending"),
            sa.literal("new"),
            sa.literal(0.0),
            sa.literal(now, t.UtcDateTime()),
        ).where(t.items.c.project == project, t.items.c.origin == "source", is_usable(project), undecided, ~queued)
        columns = ["project", "item_id", "queue", "state", "reason", "priority", "requested_at"]
        with self.database.write(fence) as connection:
            plan_for_bulk(connection)
            if not imported_in_exam:
                _reopen_imported(connection, project)
            statement = t.labeling_tasks.insert().from_select(columns, query)
            return int(connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount)

    def has_items(self, project: str) -> bool:
        """Tell whether anything of the project was ingested."""
        return bool(self.database.scalar(sa.select(sa.exists().where(t.items.c.project == project))))

    def close_imported(self, project: str, *, in_exam: bool = False, fence: Fence | None = None) -> None:
        """Mark the tasks as done whose items have but their source's label, unless they were asked for on purpose.

        Exam tasks are closed so only `in_exam`.
        """
        task, decision = t.labeling_tasks.c, t.label_decisions.c
        mine = (decision.project == task.project) & (decision.item_id == task.item_id)
        imported = sa.exists().where(mine, decision.method == "imported", decision.status == "decided")
        decided_again = sa.exists().where(mine, decision.version > 1)
        waiting = [task.project == project, task.reason == "new", task.state != "done", imported, ~decided_again]
        waiting += [] if in_exam else [task.queue != "exam"]
        with self.database.write(fence) as connection:
            connection.execute(t.labeling_tasks.update().where(*waiting).values(state="done"))

    def without_prediction(self, project: str, *, limit: int, after: str = "") -> list[Item]:
        """Return pending items of the queue `label` that may carry a prediction and do not, by id from `after` on."""
        task = t.labeling_tasks.c
        query = (
            _queued(project)
            .where(task.queue == "label", task.state == "pending", task.item_id > after)
            .where(task.reason != "audit")  # people who see the model's answer tend to agree with it
            .where(sa.or_(task.prediction.is_(sa.null()), sa.cast(task.prediction, sa.Text) == "null"))
            .order_by(task.item_id)
            .limit(limit)
        )
        return [item_of(row) for row in self.database.rows(query)]

    def suggest(
        self, project: str, predictions: Mapping[str, Mapping[str, Any]], *, fence: Fence | None = None
    ) -> None:
        """Keep predictions of pending items; the less sure one is, the sooner its item is labeled."""
        rows = [
            {"of": item_id, "said": dict(prediction), "rank": 1.0 - float(prediction["score"])}
            for item_id, prediction in predictions.items()
        ]
        task = t.labeling_tasks.c
        mine = (task.project == project) & (task.item_id == sa.bindparam("of"))
        statement = (
            t.labeling_tasks.update()
            .where(mine, task.queue == "label", task.state == "pending")
            .values(prediction=sa.bindparam("said", type_=sa.JSON), priority=sa.bindparam("rank"))
        )
        if rows:
            with self.database.write(fence) as connection:
                connection.execute(statement, rows)

    def claim(self, project: str, queue: Queue, *, limit: int, fence: Fence | None = None) -> list[QueuedItem]:
        """Mark the most urgent pending items that are not set aside as `pushing` and return them."""
        task = t.labeling_tasks.c
        query = (
            _queued(project)
            .where(task.queue == queue, task.state == "pending", is_usable(project))
            .order_by(task.priority.desc(), task.requested_at, task.item_id)
            .limit(limit)
        )
        with self.database.write(fence) as connection:
            claimed = [_queued_item(row) for row in connection.execute(query)]
            _set_state(connection, project, [claim.item.item_id for claim in claimed], state="pushing")
        return claimed

    def queued(self, project: str, item_ids: Iterable[str]) -> list[QueuedItem]:
        """Return the named items of the queue."""
        query = _queued(project).where(t.labeling_tasks.c.item_id.in_(list(item_ids)))
        return [_queued_item(row) for row in self.database.rows(query)]

    def with_changed_task(self, project: str, queue: Queue) -> bool:
        """Tell whether an open task was found to say that it shows another item than its own."""
        task, bad = t.labeling_tasks.c, t.quarantine.c
        mine = (task.project == project, task.queue == queue, task.state == "pushed")
        refused = (bad.project == project, bad.digest == task.item_id, bad.code == "ITEM_CHANGED")
        return bool(self.database.scalar(sa.select(sa.exists().where(*mine, *refused))))

    def mark_pushed(
        self,
        project: str,
        task_ids: Mapping[str, int],
        *,
        ls_project_id: int,
        now: dt.datetime,
        fence: Fence | None = None,
    ) -> None:
        """Record the Label Studio task of each item."""
        task = t.labeling_tasks.c
        statement = (
            t.labeling_tasks.update()
            .where(task.project == project, task.item_id == sa.bindparam("of"), task.state != "done")
            .values(state="pushed", ls_project_id=ls_project_id, ls_task_id=sa.bindparam("ls_task"), pushed_at=now)
        )
        rows = [{"of": item_id, "ls_task": task_id} for item_id, task_id in task_ids.items()]
        if rows:
            with self.database.write(fence) as connection:
                connection.execute(statement, rows)

    def give_back(self, project: str, item_ids: Iterable[str], *, fence: Fence | None = None) -> None:
        """Put items back to `pending`: they have no task in Label Studio."""
        with self.database.write(fence) as connection:
            _set_state(connection, project, list(item_ids), state="pending", ls_project_id=None, ls_task_id=None)

    def forget_tasks(self, project: str, queue: Queue, *, now: dt.datetime, fence: Fence | None = None) -> None:
        """Let go of a Label Studio project that is gone: open items are pending again, its annotations stay.

        The annotations cursor of the queue starts anew; `began_at` says which of them no later project can lack.
        """
        task, cursor = t.labeling_tasks.c, t.cursors.c
        mine = (task.project == project, task.queue == queue)
        known = (cursor.project == project, cursor.name == f"annotations/{queue}")
        value = {"ls_project_id": None, "began_at": now.isoformat()}
        fresh = {"project": project, "name": f"annotations/{queue}", "value": value, "generation": 0, "updated_at": now}
        moved = {"value": value, "generation": cursor.generation + 1, "updated_at": now}
        with self.database.write(fence) as connection:
            connection.execute(t.labeling_tasks.update().where(*mine).values(ls_project_id=None, ls_task_id=None))
            connection.execute(
                t.labeling_tasks.update().where(*mine, task.state.in_(("pushed", "pushing"))).values(state="pending")
            )
            insert_ignore(connection, t.cursors, [fresh])
            connection.execute(t.cursors.update().where(*known).values(**moved))

    def in_state(self, project: str, queue: Queue, state: State) -> list[str]:
        """Return the item ids of a queue in a state, in order."""
        task = t.labeling_tasks.c
        query = sa.select(task.item_id).where(task.project == project, task.queue == queue, task.state == state)
        return list(self.database.scalars(query.order_by(task.item_id)))

    def recorded_tasks(
        self, project: str, queue: Queue, *, ls_project_id: int, task_ids: Sequence[int] | None = None
    ) -> dict[str, int]:
        """Return item id -> Label Studio task id of what was pushed into that project, of all tasks or the named."""
        task = t.labeling_tasks.c
        query = sa.select(task.item_id, task.ls_task_id).where(*_recorded(project, queue, ls_project_id))
        if task_ids is None:
            rows = self.database.rows(query)
        else:
            rows = self.database.rows_among(query, task.ls_task_id, task_ids)
        return {row.item_id: row.ls_task_id for row in rows}

    def num_recorded_tasks(self, project: str, queue: Queue, *, ls_project_id: int) -> int:
        """Return how many tasks of that project are recorded."""
        query = sa.select(sa.func.count()).where(*_recorded(project, queue, ls_project_id))
        return int(self.database.scalar(query))

    def pushed_elsewhere(self, project: str, queue: Queue, *, ls_project_id: int) -> list[str]:
        """Return items waiting in another Label Studio project than the present one (it was deleted or replaced)."""
        task = t.labeling_tasks.c
        query = sa.select(task.item_id).where(
            task.project == project, task.queue == queue, task.state == "pushed", task.ls_project_id != ls_project_id
        )
        return list(self.database.scalars(query.order_by(task.item_id)))

    def counts(self, project: str) -> dict[Queue, QueueCounts]:
        """Return how many labeling tasks of each queue are in each state."""
        task = t.labeling_tasks.c
        query = (
            sa.select(task.queue, task.state, sa.func.count())
            .where(task.project == project)
            .group_by(task.queue, task.state)
        )
        counts: dict[Queue, dict[str, int]] = {"label": {}, "exam": {}}
        for queue, state, count in self.database.rows(query):
            counts[queue][state] = count
        return {queue: QueueCounts(**states) for queue, states in counts.items()}


def plan_for_bulk(connection: sa.Connection) -> None:
    """Keep PostgreSQL, in this transaction, from comparing each row with each.

    It takes a table that was filled a moment ago for an empty one, and walks over the rows that the same statement
    inserts: 168 s for 20,000 rows.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL enable_nestloop = off")


def has_decision() -> sa.Exists:
    """The condition that an item has a decision of any kind."""
    decision = t.label_decisions.c
    return sa.exists().where(decision.project == t.items.c.project, decision.item_id == t.items.c.item_id)


def waits_for_people() -> sa.ColumnElement[bool]:
    """The condition that an exam item, in no epoch yet, has no other decision than the label of its source."""
    item, decision, member = t.items.c, t.label_decisions.c, t.exam_items.c
    mine = sa.and_(decision.project == item.project, decision.item_id == item.item_id)
    by_people = sa.exists().where(mine, decision.method != "imported")
    in_epoch = sa.exists().where(member.project == item.project, member.item_id == item.item_id)
    return sa.and_(item.split == "exam", ~by_people, ~in_epoch)


def queue_of_split() -> sa.ColumnElement[str]:
    """The queue that an item of a split goes to."""
    return sa.case((t.items.c.split == "exam", "exam"), else_="label")


def close_tasks(connection: sa.Connection, project: str, *, done: Sequence[str], reopened: Sequence[str]) -> None:
    """Mark the tasks of decided items as done, and those of items whose decision fell as waiting again."""
    task = t.labeling_tasks.c
    for state, was, item_ids in (("done", ("pushed", "pushing", "pending"), done), ("pushed", ("done",), reopened)):
        for some in slices(item_ids):
            where = (task.project == project, task.item_id.in_(some), task.state.in_(was))
            connection.execute(t.labeling_tasks.update().where(*where).values(state=state))


def _reopen_imported(connection: sa.Connection, project: str) -> None:
    """Ask people again of exam items whose tasks the label of their source had closed."""
    task, item = t.labeling_tasks.c, t.items.c
    decided = sa.select(item.item_id).where(item.project == project, has_decision(), waits_for_people())
    again = sa.case((task.ls_task_id.is_(None), "pending"), else_="pushed")
    mine = (task.project == project, task.queue == "exam", task.state == "done", task.item_id.in_(decided))
    connection.execute(t.labeling_tasks.update().where(*mine).values(state=again))


def _recorded(project: str, queue: Queue, ls_project_id: int) -> list[sa.ColumnElement[bool]]:
    task = t.labeling_tasks.c
    in_project = (task.ls_project_id == ls_project_id, task.ls_task_id.is_not(None))
    return [task.project == project, task.queue == queue, *in_project]


def _queued(project: str) -> sa.Select[Any]:
    join = t.items.join(
        t.labeling_tasks,
        (t.labeling_tasks.c.project == t.items.c.project) & (t.labeling_tasks.c.item_id == t.items.c.item_id),
    )
    task = t.labeling_tasks.c
    return (
        sa.select(t.items, task.queue, task.prediction, task.ls_task_id)
        .select_from(join)
        .where(task.project == project)
    )


def _queued_item(row: sa.Row[Any]) -> QueuedItem:
    return QueuedItem(item=item_of(row), queue=row.queue, prediction=row.prediction, ls_task_id=row.ls_task_id)


def _request_row(
    item: Item, reason: Reason, priority: float, prediction: Mapping[str, Any] | None, now: dt.datetime
) -> dict[str, Any]:
    queue = "exam" if reason == "audit" else QUEUE_OF_SPLIT[item.split]
    return {
        "project": item.project,
        "item_id": item.item_id,
        "queue": queue,
        "state": "pending",
        "reason": reason,
        "priority": priority,
        "ls_project_id": None,
        "ls_task_id": None,
        "prediction": dict(prediction) if prediction and queue == "label" else None,
        "requested_at": now,
        "pushed_at": None,
    }


def _set_state(connection: sa.Connection, project: str, item_ids: Sequence[str], **values: Any) -> None:
    task = t.labeling_tasks.c
    for some in slices(item_ids):
        where = (task.project == project, task.item_id.in_(some))
        connection.execute(t.labeling_tasks.update().where(*where).values(**values))
