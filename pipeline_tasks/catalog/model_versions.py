"""Model versions: one row per training, never changed."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Repository, insert_ignore
from pipeline_tasks.contracts import Fence, ModelRef


@dataclasses.dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model version as the catalog has it; `tracker` says where its experiment run is."""

    ref: ModelRef
    training_key: str
    recipe: str
    params: Mapping[str, Any]
    metrics: Mapping[str, Any]
    seed: int
    lock_hash: str
    code_revision: str
    tracker: Mapping[str, str]
    run_id: str
    created_at: dt.datetime


class ModelRepository(Repository):
    """The model versions of all projects."""

    def get(self, project: str, version: str) -> ModelRecord | None:
        return self._one(t.model_versions.c.project == project, t.model_versions.c.version == version)

    def find(self, project: str, *, training_key: str) -> ModelRecord | None:
        """Return the model version that this training gave, if it has been done."""
        return self._one(t.model_versions.c.project == project, t.model_versions.c.training_key == training_key)

    def history(self, project: str) -> list[ModelRecord]:
        """Return a project's model versions, oldest first."""
        return self._select(t.model_versions.c.project == project)

    def newest(self, project: str) -> ModelRecord | None:
        """Return a project's newest model version."""
        columns = t.model_versions.c
        query = sa.select(t.model_versions).where(columns.project == project)
        newest_first = query.order_by(columns.created_at.desc(), columns.version.desc())
        return self.database.record(_record, newest_first.limit(1))

    def record(self, record: ModelRecord, *, fence: Fence) -> ModelRecord:
        """Write a model version; the first record of a training stays and is returned.

        Raises:
            StaleAttempt: a newer attempt holds the lease.
        """
        with self.database.write(fence) as connection:
            insert_ignore(connection, t.model_versions, [_row(record)])
        known = self.find(record.ref.project, training_key=record.training_key)
        return record if known is None else known

    def _one(self, *conditions: sa.ColumnElement[bool]) -> ModelRecord | None:
        return next(iter(self._select(*conditions)), None)

    def _select(self, *conditions: sa.ColumnElement[bool]) -> list[ModelRecord]:
        columns = t.model_versions.c
        query = sa.select(t.model_versions).where(*conditions).order_by(columns.created_at, columns.version)
        return self.database.records(_record, query)


def _row(record: ModelRecord) -> dict[str, Any]:
    fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {**dataclasses.asdict(fields.pop("ref")), **fields, "tracker": dict(record.tracker)}


def _record(**fields: Any) -> ModelRecord:
    ref = ModelRef(**{field.name: fields.pop(field.name) for field in dataclasses.fields(ModelRef)})
    return ModelRecord(ref=ref, **fields)
