"""Migrations of classes in the catalog: what has a class now, and new versions of the decisions that had another."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database, slices
from pipeline_tasks.catalog.labeling_tasks import close_tasks
from pipeline_tasks.catalog.labels import (
    DECISION,
    DecisionRow,
    decision_row,
    decision_values,
    forget_unknown_classes,
    newest_annotations,
    newest_decisions,
)
from pipeline_tasks.catalog.schema_versions import SchemaRepository, SchemaVersion, record_version
from pipeline_tasks.contracts import Fence


@dataclasses.dataclass(frozen=True, slots=True)
class ClassUse:
    """Counts of what has a class: decided labels, annotations that are there, exam items, labels of the source."""

    decided: int = 0
    annotations: int = 0
    exam_items: int = 0
    source_labels: int = 0


class ClassMigrations:
    """The migrations of all projects."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._schema = SchemaRepository(database)

    def uses(self, project: str) -> dict[str, ClassUse]:
        """Return what has each class of now, under whatever name it was given."""
        decision, annotation, member, item = t.label_decisions.c, t.annotations.c, t.exam_items.c, t.items.c
        newest = newest_decisions(project).where(decision.status == "decided")
        given = newest_annotations(project).where(annotation.deleted.is_(False), annotation.cancelled.is_(False))
        frozen = sa.select(member.label).where(member.project == project)
        told = sa.select(item.source_label).where(item.project == project)
        queries = {
            "decided": newest.with_only_columns(decision.label, maintain_column_froms=True),
            "annotations": given.with_only_columns(annotation.label, maintain_column_froms=True),
            "exam_items": frozen,
            "source_labels": told,
        }
        former = self._schema.names_now(project)
        counts: dict[str, Counter[str]] = {}
        with self.database.read() as connection:
            for kind, query in queries.items():
                labels = query.subquery()
                (label,) = labels.c
                for name, count in connection.execute(sa.select(label, sa.func.count()).group_by(label)):
                    now = former.get(name, name)
                    if now is not None:
                        counts.setdefault(now, Counter())[kind] += count
        return {name: ClassUse(**count) for name, count in counts.items()}

    def decided(self, project: str, names: Iterable[str]) -> set[str]:
        """Return the items with a decided label under one of the names."""
        decision = t.label_decisions.c
        query = newest_decisions(project).where(decision.status == "decided", decision.label.in_(sorted(names)))
        return set(self.database.scalars(query.with_only_columns(decision.item_id, maintain_column_froms=True)))

    def answered(self, project: str, names: Iterable[str], *, since: dt.datetime | None = None) -> Counter[str]:
        """Return the number of annotations that are there under one of the names, or were collected since, by item."""
        annotation = t.annotations.c
        mine = [annotation.label.in_(sorted(names)), *([] if since is None else [annotation.collected_at >= since])]
        there = (annotation.deleted.is_(False), annotation.cancelled.is_(False), sa.or_(*mine))
        query = newest_annotations(project).where(*there)
        return Counter(self.database.scalars(query.with_only_columns(annotation.item_id, maintain_column_froms=True)))

    def touched(self, project: str, labels: Iterable[str]) -> list[DecisionRow]:
        """Return the newest decision of each item that has one of the labels or is disputed."""
        decision = t.label_decisions.c
        mine = sa.or_(decision.status == "disputed", decision.label.in_(sorted(labels)))
        return self._decisions(newest_decisions(project).where(mine))

    def made_by(
        self, project: str, version: SchemaVersion, *, undos: Iterable[SchemaVersion]
    ) -> dict[str, DecisionRow]:
        """Return the decision that each item had before a version's migration changed it, as of its newest version.

        Items that something else has changed since are left out; `undos` are versions that took later ones back.
        """
        later = {_stamp(undo) for undo in undos}
        decision = t.label_decisions.c
        made = [
            sa.and_(decision.schema_version == number, decision.decided_at == at)
            for number, at in (*later, _stamp(version))
        ]
        items = (
            newest_decisions(project)
            .where(sa.or_(*made))
            .with_only_columns(decision.item_id, maintain_column_froms=True)
        )
        query = sa.select(t.label_decisions).where(decision.project == project, decision.item_id.in_(items))
        rows = self._decisions(query.order_by(decision.item_id, decision.version))
        before = {}
        for item_id, line in itertools.groupby(rows, key=lambda row: row.item_id):
            history = list(line)
            previous = _before(history, _stamp(version), later)
            if previous is not None:
                before[item_id] = dataclasses.replace(previous, version=history[-1].version)
        return before

    def apply(
        self, project: str, version: SchemaVersion, decisions: Sequence[DecisionRow], *, fences: Sequence[Fence]
    ) -> bool:
        """Record a version and the decisions that follow from it, whole or not at all; False where it was there.

        Source labels that were refused for the list before are judged anew.
        """
        values = {"labels": list(version.classes), "schema_version": version.version}
        with self.database.write(*fences) as connection:
            if not record_version(connection, project, version):
                return False
            forget_unknown_classes(connection, project)
            connection.execute(t.projects.update().where(t.projects.c.project == project).values(**values))
            for some in slices(decisions):
                connection.execute(t.label_decisions.insert(), [decision_values(project, row) for row in some])
            done = [row.item_id for row in decisions if row.status == "decided"]
            close_tasks(connection, project, done=done, reopened=[])
        return True

    def _decisions(self, query: sa.Select[Any]) -> list[DecisionRow]:
        return self.database.records(decision_row, query.with_only_columns(*DECISION, maintain_column_froms=True))


def _stamp(version: SchemaVersion) -> tuple[int, dt.datetime]:
    return version.version, version.created_at


def _before(
    history: Sequence[DecisionRow], stamp: tuple[int, dt.datetime], undos: Collection[tuple[int, dt.datetime]]
) -> DecisionRow | None:
    """Return the decision before the one of this stamp, where that is the newest but for what was taken back since."""
    at = len(history) - 1
    while at > 1 and _stamp_of(history[at]) in undos and _what(history[at]) == _what(history[at - 2]):
        at -= 2
    return history[at - 1] if at > 0 and _stamp_of(history[at]) == stamp else None


def _stamp_of(row: DecisionRow) -> tuple[int, dt.datetime]:
    return row.schema_version, row.decided_at


def _what(row: DecisionRow) -> tuple[object, ...]:
    return row.status, row.label, row.method, row.annotation_ids
