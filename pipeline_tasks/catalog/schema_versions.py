"""Schema versions: the class lists of a project, newest last, and what the classes of each became in the next.

A name keeps its meaning. So any label, answer or prediction ever given is read by its name alone: a class of now is
itself, and every other name is what the versions after it made of it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database, insert_ignore

Names = Mapping[str, str | None]  # former class -> class now, None: removed


@dataclasses.dataclass(frozen=True, slots=True)
class SchemaVersion:
    """A class list; `mapping` says what the classes became that the version before had and this one has not."""

    version: int
    classes: tuple[str, ...]
    created_at: dt.datetime
    mapping: Names = dataclasses.field(default_factory=dict)
    undoes: int | None = None
    changed_by: str = ""


def names_now(history: Iterable[SchemaVersion]) -> dict[str, str | None]:
    """Return what each name that is no class any more stands for, of versions oldest first.

    An undo gives the names that were there before what it undoes their meaning of then.
    """
    now: dict[str, str | None] = {}
    classes: tuple[str, ...] = ()
    after: dict[int, dict[str, str | None]] = {}
    for version in history:
        classes = version.classes
        before = {} if version.undoes is None else after.get(version.undoes - 1, {})
        restored = {name: to for name, to in before.items() if name not in version.mapping}
        now = {name: _next(to, version.mapping) for name, to in now.items()} | restored
        now |= {name: name for name in classes}
        after[version.version] = now
    known = {*classes, None}
    return {name: to for name, to in now.items() if name not in classes and to in known}


def counts_now(counts: Mapping[str, int], former: Names) -> dict[str, int]:
    """Return counts by class under the names of now, without classes that were removed."""
    now: dict[str, int] = {}
    for name, count in counts.items():
        to = former.get(name, name)
        if to is not None:
            now[to] = now.get(to, 0) + int(count)
    return now


def _next(name: str | None, mapping: Names) -> str | None:
    return None if name is None else mapping.get(name, name)


class SchemaRepository:
    """The schema versions of all projects."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def history(self, project: str) -> list[SchemaVersion]:
        """Return a project's versions, oldest first; none before its first labeling."""
        row = t.schema_versions.c
        query = sa.select(t.schema_versions).where(row.project == project).order_by(row.version)
        with self.database.read() as connection:
            return [_version(entry) for entry in connection.execute(query).mappings()]

    def names_now(self, project: str) -> dict[str, str | None]:
        """Return what each former class of a project stands for."""
        return names_now(self.history(project))

    def names_told(self, project: str, classes: Sequence[str]) -> list[str]:
        """Return what a source may call a class: the classes, and every former name that stands for one."""
        former = self.names_now(project)
        return [*classes, *sorted(name for name, to in former.items() if to is not None)]


def record_version(connection: sa.Connection, project: str, version: SchemaVersion) -> bool:
    """Record a version unless it is there; tell whether it is new."""
    values = {**dataclasses.asdict(version), "classes": list(version.classes), "mapping": dict(version.mapping)}
    return bool(insert_ignore(connection, t.schema_versions, [{"project": project, **values}]))


def same_classes(first: Sequence[str], second: Sequence[str]) -> bool:
    """Tell whether two lists hold the same classes; their order means nothing."""
    return set(first) == set(second)


def _version(row: sa.RowMapping) -> SchemaVersion:
    values = {field.name: row[field.name] for field in dataclasses.fields(SchemaVersion)}
    return SchemaVersion(**(values | {"classes": tuple(row["classes"])}))
