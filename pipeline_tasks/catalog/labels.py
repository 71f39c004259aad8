"""Annotations and the decisions made of them: append-only histories, the newest entry counts."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import columns_of, insert_ignore, slices
from pipeline_tasks.catalog.labeling_tasks import (
    LabelingTaskRepository,
    close_tasks,
    has_decision,
    plan_for_bulk,
    queue_of_split,
)
from pipeline_tasks.catalog.schema_versions import SchemaRepository, SchemaVersion, record_version, same_classes
from pipeline_tasks.catalog.set_aside import BadRow, is_usable, put_aside
from pipeline_tasks.contracts import Fence, Queue

Status = Literal["decided", "disputed", "withdrawn"]
Method = Literal["imported", "single", "consensus", "outcome"]
STAGE = "labels"
DELETED = "~deleted"  # ends the revision of a tombstone: it sorts after the revision that it buries


@dataclasses.dataclass(frozen=True, slots=True)
class AnnotationRow:
    """One revision of an annotation; `revision` is its time of change, a tombstone's ends with `~deleted`."""

    annotation_id: str
    revision: str
    item_id: str
    queue: Queue
    annotator: str
    label: str | None
    result: Sequence[Mapping[str, Any]]
    cancelled: bool
    deleted: bool
    lead_time_seconds: float | None
    created_at: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class DecisionRow:
    """An item's label as of one version; `label` is None unless the status is `decided`."""

    item_id: str
    version: int
    status: Status
    label: str | None
    method: Method
    annotation_ids: tuple[str, ...]
    annotators: tuple[str, ...]
    agreement: float | None
    schema_version: int
    decided_at: dt.datetime


DECISION = columns_of(t.label_decisions, DecisionRow)


class LabelRepository(LabelingTaskRepository):
    """Labeling tasks, annotations and decisions of all projects."""

    def accept_imported(
        self,
        project: str,
        *,
        classes: Sequence[str],
        schema_version: int,
        in_exam: bool = False,
        now: dt.datetime,
        fence: Fence | None = None,
    ) -> int:
        """Make a decision of the label that each good item's source gave: version 1, and after a correction the next.

        Exam items are decided so only `in_exam`. A decision that people made stays. A source's label of an
        earlier class list is read as what it stands for now; items whose source label is no class go to the quarantine
        of the stage `labels`, and to people. Returns how many decisions are new.
        """
        former = {name: to for name, to in SchemaRepository(self.database).names_now(project).items() if to is not None}
        told = (
            sa.case(former, value=t.items.c.source_label, else_=t.items.c.source_label)
            if former
            else t.items.c.source_label
        )
        unlabeled = (
            t.items.c.project == project,
            t.items.c.source_label.is_not(None),
            is_usable(project),
            ~has_decision(),
        )
        taken = () if in_exam else (t.items.c.split != "exam",)
        known = told.in_(classes)
        values: dict[str, sa.ColumnElement[Any]] = {
            "project": t.items.c.project,
            "item_id": t.items.c.item_id,
            "version": sa.literal(1),
            "status": sa.literal("decided"),
            "label": told,
            "method": sa.literal("imported"),
            "annotation_ids": sa.literal([], sa.JSON),
            "annotators": sa.literal([], sa.JSON),
            "schema_version": sa.literal(schema_version),
            "decided_at": sa.literal(now, t.UtcDateTime()),
        }
        with self.database.write(fence) as connection:
            plan_for_bulk(connection)
            _insert_from(connection, t.quarantine, _unknown_class(classes, now), [*unlabeled, ~known])
            num_new = _insert_from(connection, t.label_decisions, values, [*unlabeled, known, *taken])
            newest = t.label_decisions.alias("newest")
            values |= {"version": newest.c.version + 1}
            corrected = [known, *taken, *_is_corrected(project, newest, told)]
            return num_new + _insert_from(connection, t.label_decisions, values, corrected)

    def commit(
        self,
        project: str,
        *,
        annotations: Iterable[AnnotationRow] = (),
        decisions: Iterable[DecisionRow] = (),
        refusals: Iterable[BadRow] = (),
        reopened: Sequence[str] = (),
        kept_open: Sequence[str] = (),
        now: dt.datetime,
        fence: Fence | None = None,
    ) -> None:
        """Record a batch whole or not at all: revisions, decisions, refusals, and the labeling tasks they close.

        The tasks of items that are `kept_open` stay as they are.

        Raises:
            StaleAttempt: a newer attempt holds the lease; nothing is written.
        """
        decided = list(decisions)
        rows = [{"project": project, **dataclasses.asdict(row), "collected_at": now} for row in annotations]
        with self.database.write(fence) as connection:
            for some in slices(rows):
                insert_ignore(connection, t.annotations, some)
            if decided:
                connection.execute(
                    t.label_decisions.insert(), [decision_values(project, decision) for decision in decided]
                )
            put_aside(connection, project, STAGE, refusals, at=now)
            done = [
                decision.item_id
                for decision in decided
                if decision.status != "withdrawn" and decision.item_id not in kept_open
            ]
            close_tasks(connection, project, done=done, reopened=reopened)

    def refuse(
        self, project: str, refusal: BadRow, *, closed: bool, now: dt.datetime, fence: Fence | None = None
    ) -> None:
        """Put an item that cannot be shown to people into the quarantine; closed, nobody is asked for it."""
        with self.database.write(fence) as connection:
            put_aside(connection, project, STAGE, [refusal], at=now)
            close_tasks(connection, project, done=[refusal.item_id] if closed else [], reopened=[])

    def annotations(
        self, project: str, item_ids: Iterable[str], *, collected_since: dt.datetime | None = None
    ) -> dict[str, list[AnnotationRow]]:
        """Return the newest revision of each annotation of the items, tombstones too, by item id."""
        column = t.annotations.c
        recent = [] if collected_since is None else [column.collected_at >= collected_since]
        query = sa.select(*columns_of(t.annotations, AnnotationRow)).where(column.project == project, *recent)
        rows: dict[str, dict[str, AnnotationRow]] = {}
        for row in self.database.rows_among(query, column.item_id, item_ids):
            known = rows.setdefault(row.item_id, {})
            if row.annotation_id not in known or known[row.annotation_id].revision < row.revision:
                known[row.annotation_id] = AnnotationRow(*row)
        return {item_id: sorted(known.values(), key=_by_id) for item_id, known in rows.items()}

    def has_revision(self, project: str, annotation_id: str, revision: str) -> bool:
        """Tell whether this revision of an annotation is recorded, the newest or an earlier one."""
        column = t.annotations.c
        this = (column.project == project, column.annotation_id == annotation_id, column.revision == revision)
        return bool(self.database.scalar(sa.select(sa.exists().where(*this))))

    def decisions(self, project: str, item_ids: Iterable[str]) -> dict[str, DecisionRow]:
        """Return the newest decision of each item that has one, of any status."""
        query = newest_decisions(project).with_only_columns(*DECISION, maintain_column_froms=True)
        rows = self.database.rows_among(query, t.label_decisions.c.item_id, item_ids)
        return {row.item_id: decision_row(**row._asdict()) for row in rows}

    def history(self, project: str, item_id: str) -> list[DecisionRow]:
        """Return every decision on an item, oldest first."""
        decision = t.label_decisions.c
        query = sa.select(*DECISION).where(decision.project == project, decision.item_id == item_id)
        return self.database.records(decision_row, query.order_by(decision.version))

    def live_counts(self, project: str, queue: Queue, *, collected_since: dt.datetime | None = None) -> dict[str, int]:
        """Return the number of annotations, skips too, that are not deleted of each item of a queue that has any."""
        item_id = t.annotations.c.item_id
        query = _alive(project, queue, collected_since).with_only_columns(item_id, sa.func.count()).group_by(item_id)
        return {row[0]: row[1] for row in self.database.rows(query)}

    def num_live(self, project: str, queue: Queue, *, collected_since: dt.datetime | None = None) -> int:
        """Return the number of annotations, skips too, of a queue that are not deleted."""
        return int(self.database.scalar(_alive(project, queue, collected_since).with_only_columns(sa.func.count())))

    def empty_answers(self, project: str, queue: Queue, *, collected_since: dt.datetime | None) -> list[str]:
        """Return the ids of the empty submits that are there and whose items wait for an answer."""
        column, task = t.annotations.c, t.labeling_tasks.c
        waiting = (task.project == project, task.item_id == column.item_id, task.queue == queue, task.state == "pushed")
        query = _alive(project, queue, collected_since).where(
            column.cancelled.is_(False), column.label.is_(None), sa.exists().where(*waiting)
        )
        return [row.annotation_id for row in self.database.rows(query) if not row.result]

    def known_items(self, project: str, item_ids: Iterable[str], *, queue: Queue) -> set[str]:
        """Return which of the ids are items of the project that belong into the queue: that of their labeling task."""
        item, task = t.items.c, t.labeling_tasks.c
        asked = sa.and_(task.project == item.project, task.item_id == item.item_id)
        in_queue = sa.func.coalesce(task.queue, queue_of_split()) == queue
        query = sa.select(item.item_id).outerjoin(t.labeling_tasks, asked).where(item.project == project, in_queue)
        return {row.item_id for row in self.database.rows_among(query, item.item_id, item_ids)}

    def num_labeled(self, project: str) -> int:
        """Return how many items have a decision of any kind or a person's label."""
        decision, annotation = t.label_decisions.c, t.annotations.c
        labeled = sa.union(
            sa.select(decision.item_id).where(decision.project == project),
            sa.select(annotation.item_id).where(annotation.project == project, annotation.label.is_not(None)),
        ).subquery()
        return int(self.database.scalar(sa.select(sa.func.count()).select_from(labeled)))

    def registration(self, project: str) -> tuple[list[str], int, dict[str, int]] | None:
        """Return a project's classes, their version and its Label Studio projects by queue, or None if it is new."""
        row = t.projects.c
        query = sa.select(row.labels, row.schema_version, row.ls_project_ids).where(row.project == project)
        registered = next(iter(self.database.rows(query)), None)
        return None if registered is None else (list(registered[0]), int(registered[1]), dict(registered[2]))

    def register(
        self,
        project: str,
        *,
        classes: Sequence[str],
        schema_version: int,
        ls_project_ids: Mapping[str, int],
        now: dt.datetime,
        fence: Fence | None = None,
    ) -> None:
        """Keep a project's classes and Label Studio projects; other classes than before need a version of their own.

        With them, source labels that were refused for the old ones are judged anew.
        """
        values = {"labels": list(classes), "schema_version": schema_version, "ls_project_ids": dict(ls_project_ids)}
        new = {"project": project, "split_key": "", "created_at": now, **values}
        with self.database.write(fence) as connection:
            before = connection.execute(sa.select(t.projects.c.labels).where(t.projects.c.project == project)).scalar()
            if before is not None and not same_classes(before, classes):
                forget_unknown_classes(connection, project)
            record_version(connection, project, SchemaVersion(schema_version, tuple(classes), now))
            insert_ignore(connection, t.projects, [new])
            connection.execute(t.projects.update().where(t.projects.c.project == project).values(**values))


def forget_unknown_classes(connection: sa.Connection, project: str) -> None:
    """Let go of what was refused for the class list before."""
    bad = t.quarantine.c
    stale = (bad.project == project, bad.stage == STAGE, bad.code == "UNKNOWN_CLASS")
    connection.execute(t.quarantine.delete().where(*stale))


def _insert_from(
    connection: sa.Connection, table: sa.Table, values: Mapping[str, sa.ColumnElement[Any]], where: Sequence[Any]
) -> int:
    module = postgresql if connection.dialect.name == "postgresql" else sqlite
    query = sa.select(*(value.label(f"new_{name}") for name, value in values.items())).where(*where)
    statement = module.insert(table).from_select(list(values), query).on_conflict_do_nothing()
    return int(connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount)


def _is_corrected(project: str, newest: sa.FromClause, told: sa.ColumnElement[Any]) -> list[sa.ColumnElement[bool]]:
    """The conditions that an item's newest decision is its source's, with another label than the source gives now.

    One that was dropped with its class is compared by the label that it had.
    """
    later, dropped = t.label_decisions.alias("later"), t.label_decisions.alias("dropped")
    same_item = (later.c.project == newest.c.project, later.c.item_id == newest.c.item_id)
    same_line = (dropped.c.project == newest.c.project, dropped.c.item_id == newest.c.item_id)
    had_other = sa.exists().where(*same_line, dropped.c.version == newest.c.version - 1, dropped.c.label != told)
    return [
        t.items.c.project == project,
        newest.c.project == t.items.c.project,
        newest.c.item_id == t.items.c.item_id,
        newest.c.method == "imported",
        sa.or_(newest.c.label != told, sa.and_(newest.c.label.is_(None), had_other)),
        ~sa.exists().where(*same_item, later.c.version > newest.c.version),
        is_usable(project),
    ]


def _unknown_class(classes: Sequence[str], now: dt.datetime) -> dict[str, sa.ColumnElement[Any]]:
    allowed = ", ".join(classes)
    reason = sa.literal("label must be one of ") + allowed + " (got " + t.items.c.source_label + ")."
    return {
        "project": t.items.c.project,
        "stage": sa.literal(STAGE),
        "source": t.items.c.source,
        "key": t.items.c.key,
        "digest": t.items.c.item_id,
        "code": sa.literal("UNKNOWN_CLASS"),
        "reason": reason,
        "at": sa.literal(now, t.UtcDateTime()),
    }


def newest_decisions(project: str) -> sa.Select[Any]:
    """Return the query of each item's newest decision."""
    decision, later = t.label_decisions.c, t.label_decisions.alias().c
    same = (later.project == decision.project, later.item_id == decision.item_id)
    is_replaced = sa.exists().where(*same, later.version > decision.version)
    return sa.select(t.label_decisions).where(decision.project == project, ~is_replaced)


def newest_annotations(project: str, queue: Queue | None = None) -> sa.Select[Any]:
    """Return the query of each annotation's newest revision, of one queue or of both."""
    column, later = t.annotations.c, t.annotations.alias().c
    same = [later.project == column.project, later.annotation_id == column.annotation_id]
    mine = [column.project == project]
    if queue is not None:
        same.append(later.queue == queue)
        mine.append(column.queue == queue)
    is_replaced = sa.exists().where(*same, later.revision > column.revision)
    return sa.select(t.annotations).where(*mine, ~is_replaced)


def _alive(project: str, queue: Queue, collected_since: dt.datetime | None) -> sa.Select[Any]:
    column = t.annotations.c
    alive = newest_annotations(project, queue).where(column.deleted.is_(False))
    return alive if collected_since is None else alive.where(column.collected_at >= collected_since)


def _by_id(row: AnnotationRow) -> tuple[int, str]:
    return len(row.annotation_id), row.annotation_id


def decision_row(annotation_ids: Sequence[str], annotators: Sequence[str], **fields: Any) -> DecisionRow:
    """Return the decision in a row of the columns DECISION."""
    return DecisionRow(annotation_ids=tuple(annotation_ids), annotators=tuple(annotators), **fields)


def decision_values(project: str, row: DecisionRow) -> dict[str, Any]:
    """Return the row of a decision."""
    lists = {"annotation_ids": list(row.annotation_ids), "annotators": list(row.annotators)}
    return {"project": project, **dataclasses.asdict(row), **lists}
