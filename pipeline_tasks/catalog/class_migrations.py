"""Migrations of classes in the catalog: what has a class now, and new versions of the decisions that had another."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
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

    def under(self, project: str, names: Iterable[str]) -> tuple[list[str], int]:
        """Return the items with a decided label or an annotation under one of the names, and how many annotations."""
        chosen = sorted(names)
        decision, annotation = t.label_decisions.c, t.annotations.c
        decided = newest_decisions(project).where(decision.status == "decided", decision.label.in_(chosen))
        there = (annotation.deleted.is_(False), annotation.cancelled.is_(False), annotation.label.in_(chosen))
        given = newest_annotations(project).where(*there)
        with self.database.read() as connection:
            items = set(connection.scalars(decided.with_only_columns(decision.item_id, maintain_column_froms=True)))
            answered = connection.scalars(given.with_only_columns(annotation.item_id, maintain_column_froms=True)).all()
        return sorted(items.union(answered)), len(answered)

    def touched(self, project: str, labels: Iterable[str]) -> list[DecisionRow]:
        """Return the newest decision of each item that has one of the labels or is disputed."""
        decision = t.label_decisions.c
        mine = sa.or_(decision.status == "disputed", decision.label.in_(sorted(labels)))
        return self._decisions(newest_decisions(project).where(mine))

    def made_by(self, project: str, version: SchemaVersion) -> dict[str, DecisionRow]:
        """Return what a version's migration changed and nothing has changed since: the decision before, by item id."""
        newest, before = newest_decisions(project).subquery(), t.label_decisions
        same = sa.and_(
            before.c.project == newest.c.project,
            before.c.item_id == newest.c.item_id,
            before.c.version == newest.c.version - 1,
        )
        made = (newest.c.schema_version == version.version, newest.c.decided_at == version.created_at)
        rows = self._decisions(sa.select(before).join(newest, same).where(*made))
        return {row.item_id: row for row in rows}

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
