"""Reads for lineage: what hangs on an id, in both directions. Rows are dictionaries with the columns' names."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Repository

Row = Mapping[str, Any]
Kind = Literal["model", "snapshot", "verdict", "item", "label", "prediction"]
_ID_COLUMNS: tuple[tuple[Kind, sa.Column[str]], ...] = (
    ("model", t.model_versions.c.version),
    ("snapshot", t.snapshots.c.snapshot_id),
    ("verdict", t.verdicts.c.verdict_id),
    ("item", t.items.c.item_id),
    ("prediction", t.audits.c.prediction_id),
    ("prediction", t.outcomes.c.prediction_id),
)


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Subject:
    """Something that has a lineage."""

    kind: Kind
    project: str
    id: str


class LineageRepository(Repository):
    """Answers what came from what; counts are counted by the database."""

    def find(self, beginning: str, *, kind: Kind | None, project: str | None, limit: int) -> list[Subject]:
        """Return what has an id with this beginning; an id that is exactly this one leaves out longer ones.

        Predictions are found here only when they were audited or have an outcome. A label has its item's id.
        """
        wanted = "item" if kind == "label" else kind
        subjects: set[Subject] = set()
        for name, column in _ID_COLUMNS:
            if wanted in (None, name):
                subjects |= {
                    Subject(kind or name, row.project, row.id)
                    for row in self._ids(column, beginning, project=project, limit=limit)
                }
        exact = {subject for subject in subjects if subject.id == beginning}
        return sorted(exact or subjects)[:limit]

    def _ids(self, column: sa.Column[str], beginning: str, *, project: str | None, limit: int) -> Sequence[sa.Row[Any]]:
        of_project = column.table.c.project
        query = sa.select(of_project, column.label("id")).distinct().order_by(column, of_project).limit(limit)
        if project is not None:
            query = query.where(of_project == project)
        with self.database.read() as connection:
            exact = connection.execute(query.where(column == beginning)).all()
            starts = query.where(column.startswith(beginning, autoescape=True))
            # SQLite's LIKE does not tell capitals from small letters; ids do.
            return exact or [row for row in connection.execute(starts) if row.id.startswith(beginning)]

    def projects(self) -> list[str]:
        """Return the projects that something was recorded of."""
        tables = (t.projects, t.items, t.model_versions, t.routes)
        query = sa.union(*(sa.select(table.c.project) for table in tables))
        return sorted(self.database.scalars(query))

    # What an item is and what people said of it

    def item(self, project: str, item_id: str) -> Row | None:
        return self._one(t.items, project=project, item_id=item_id)

    def items_of_content(self, project: str, content_id: str) -> list[str]:
        """Return the items with this content, those of the exam before all others: equal rows are items each."""
        c = t.items.c
        query = sa.select(c.item_id).where(c.project == project, c.content_id == content_id)
        rows = self._rows(query.order_by(sa.case((c.split == "exam", 0), else_=1), c.item_id))
        return [str(row["item_id"]) for row in rows]

    def decisions(self, project: str, item_id: str) -> list[Row]:
        """Return every version of an item's label, oldest first."""
        return self._all(t.label_decisions, "version", project=project, item_id=item_id)

    def annotations(self, project: str, item_id: str) -> list[Row]:
        """Return the newest revision of each annotation of an item, oldest annotation first."""
        column = t.annotations.c
        newest = (
            sa.select(column.annotation_id, sa.func.max(column.revision).label("revision"))
            .where(column.project == project, column.item_id == item_id)
            .group_by(column.annotation_id)
            .subquery()
        )
        same = sa.and_(column.annotation_id == newest.c.annotation_id, column.revision == newest.c.revision)
        names = ("annotation_id", "annotator", "label", "queue", "cancelled", "deleted", "created_at")
        return self._rows(
            sa.select(*(column[name] for name in names))
            .join(newest, same)
            .where(column.project == project)
            .order_by(column.created_at, column.annotation_id)
        )

    def annotators(self, project: str) -> list[str]:
        """Return the names that the catalog has of a project's annotators."""
        query = sa.select(t.annotations.c.annotator).where(t.annotations.c.project == project).distinct()
        return sorted(self.database.scalars(query))

    def annotator_counts(self, project: str, annotator: str) -> tuple[int, int]:
        """Return how many annotations a person gave, and on how many items."""
        column = t.annotations.c
        query = sa.select(
            sa.func.count(column.annotation_id.distinct()), sa.func.count(column.item_id.distinct())
        ).where(column.project == project, column.annotator == annotator)
        num_annotations, num_items = self.database.rows(query)[0]
        return int(num_annotations), int(num_items)

    def exams(self, project: str) -> list[Row]:
        """Return a project's exam epochs, newest first."""
        return self._all(t.exams, "epoch", project=project)[::-1]

    def retirements(self, project: str, item_ids: Sequence[str]) -> list[Row]:
        """Return which of these items were taken out of use: by whom, when and why."""
        gone = t.item_retirements.c
        return self._rows(
            sa.select(t.item_retirements).where(gone.project == project, gone.item_id.in_(item_ids)).order_by(gone.at)
        )

    def retirements_in_exam(self, project: str, epoch: int) -> list[Row]:
        """Return the retired items of an exam epoch."""
        gone, member = t.item_retirements.c, t.exam_items.c
        same = sa.and_(gone.project == member.project, gone.item_id == member.item_id)
        query = sa.select(t.item_retirements).join(t.exam_items, same)
        return self._rows(query.where(member.project == project, member.epoch == epoch).order_by(gone.at))

    def exams_with(self, project: str, item_id: str) -> list[Row]:
        """Return the exam epochs that hold an item, with the label that it has there."""
        exam, member = t.exams.c, t.exam_items.c
        query = (
            sa.select(exam.epoch, exam.exam_id, exam.num_items, exam.object_key, member.label)
            .join(t.exam_items, sa.and_(exam.project == member.project, exam.epoch == member.epoch))
            .where(member.project == project, member.item_id == item_id)
            .order_by(exam.epoch.desc())
        )
        return self._rows(query)

    # Predictions that people looked at or callers told about

    def audits_of_item(self, project: str, item_id: str) -> list[Row]:
        """Return the predictions that made an item one to look at."""
        return self._all(t.audits, "predicted_at", "prediction_id", project=project, item_id=item_id)

    def audit(self, project: str, prediction_id: str) -> Row | None:
        """Return why and as which item a prediction was looked at."""
        return self._one(t.audits, project=project, prediction_id=prediction_id)

    def outcomes(self, project: str, prediction_id: str) -> list[Row]:
        """Return what callers told of a prediction."""
        return self._all(t.outcomes, "at", "outcome_id", project=project, prediction_id=prediction_id)

    # Snapshots, models, and what became of them

    def snapshots(self, project: str) -> list[Row]:
        """Return a project's snapshots, newest first."""
        return self._all(t.snapshots, "generation", project=project)[::-1]

    def snapshot(self, project: str, snapshot_id: str) -> Row | None:
        return self._one(t.snapshots, project=project, snapshot_id=snapshot_id)

    def batches(self, project: str, item_ids: Collection[str]) -> dict[str, str]:
        """Return the batch that each of these items came in."""
        column = t.items.c
        query = sa.select(column.item_id, column.batch_id).where(column.project == project)
        return {row.item_id: row.batch_id for row in self.database.rows_among(query, column.item_id, item_ids)}

    def model(self, project: str, version: str) -> Row | None:
        return self._one(t.model_versions, project=project, version=version)

    def models_of(self, project: str, snapshot_ids: Collection[str]) -> list[Row]:
        """Return the model versions that were trained on these snapshots, oldest first."""
        column = t.model_versions.c
        query = sa.select(t.model_versions).where(column.project == project, column.snapshot_id.in_(snapshot_ids))
        return self._rows(query.order_by(column.created_at, column.version))

    def verdict(self, project: str, verdict_id: str) -> Row | None:
        return self._one(t.verdicts, project=project, verdict_id=verdict_id)

    def verdicts(self, project: str) -> list[Row]:
        """Return a project's verdicts, oldest first."""
        return self._all(t.verdicts, "created_at", "verdict_id", project=project)

    def approvals(self, project: str, verdict_id: str) -> list[Row]:
        """Return the answers of people to a verdict, oldest first."""
        return self._all(t.approvals, "sequence", project=project, verdict_id=verdict_id)

    def releases(self, project: str) -> list[Row]:
        """Return a project's releases, oldest first, each with its images: several where the base image changed."""
        releases = self._all(t.releases, "created_at", "release_id", project=project)
        images = self._all(t.release_images, "created_at", "image", project=project)
        return [
            {**row, "images": [image_row for image_row in images if image_row["release_id"] == row["release_id"]]}
            for row in releases
        ]

    def deployments(self, project: str) -> list[Row]:
        """Return a project's deployments, oldest first."""
        return self._all(t.deployments, "created_at", "deployment_id", project=project)

    def routes(self, project: str) -> list[Row]:
        """Return every generation of a project's route, oldest first; the last one serves."""
        return self._all(t.routes, "generation", project=project)

    def _one(self, table: sa.Table, **equal: str) -> Row | None:
        return next(iter(self._all(table, **equal)), None)

    def _all(self, table: sa.Table, *order: str, **equal: str) -> list[Row]:
        """Return the rows that have these values, in the order of these columns."""
        query = sa.select(table).where(*(table.c[name] == value for name, value in equal.items()))
        return self._rows(query.order_by(*(table.c[name] for name in order)))

    def _rows(self, query: sa.Select[Any]) -> list[Row]:
        return [dict(row) for row in self.database.mappings(query)]
