"""Marks of rows: what a seal in the ledger says of the tables that have no entries of their own.

A mark is 32 bytes: half a SHA-256 of the row's key, and half a one of its lasting columns. A seal lists the marks of
the rows that came in since the seal before, table by table, in an object of the bucket; its entry in the ledger holds
the object's SHA-256. A row that a seal marks can be neither changed nor removed without `dethrone verify` saying so.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.ledger import Draft, LedgerEntry
from pipeline_tasks.contracts import sha256_hex, sha256_of_file
from pipeline_tasks.core.ports import ObjectInfo, ObjectStore

HALF = 16
OBJECTS = "objects"  # the name under which objects of the bucket are marked beside the tables
ROWS_AT_ONCE = 10_000
MAX_HELD_BYTES = 16_000_000
# Columns that the loop changes later: of items the place of the bytes (they are hashed) and what a source corrects.
CHANGING: Mapping[str, frozenset[str]] = {
    "items": frozenset({"key", "source_label", "object_key", "offset", "size_bytes", "content_id"}),
    "projects": frozenset({"labels", "schema_version", "ls_project_ids"}),
}
Marks = dict[bytes, bytes]


def sealed_tables() -> list[sa.Table]:
    """Return the tables whose rows are marked, by name: those that only grow, but for the ledger itself."""
    return sorted({*t.APPEND_ONLY, t.items, t.projects} - {t.ledger}, key=lambda table: table.name)


def lasting_columns(table: sa.Table) -> list[str]:
    """Return the columns of a table that never change once a row is there."""
    return [column.name for column in table.columns if column.name not in CHANGING.get(table.name, ())]


def key_mark(table: str, key: Sequence[Any]) -> bytes:
    """Return the first half of a mark: of a table's name and a row's primary key."""
    return _half([table, *key])


def row_mark(table: str, values: Mapping[str, Any]) -> bytes:
    """Return the second half of a mark: of the values by column."""
    return _half([table, dict(values)])


def _half(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_time)
    return hashlib.sha256(text.encode()).digest()[:HALF]


def _time(value: Any) -> str:
    if not isinstance(value, dt.datetime):
        raise TypeError(f"a row must hold JSON values and times (got {type(value).__name__}).")
    return value.astimezone(dt.UTC).isoformat(timespec="microseconds")


def read_rows(connection: sa.Connection, table: sa.Table, project: str) -> Iterator[Mapping[Any, Any]]:
    """Yield a project's rows of a table, a part at a time."""
    query = sa.select(table).where(table.c.project == project).execution_options(yield_per=ROWS_AT_ONCE)
    for part in connection.execute(query).mappings().partitions():
        yield from part


def key_of(table: sa.Table, row: Mapping[Any, Any]) -> list[Any]:
    """Return a row's primary key."""
    return [row[column.name] for column in table.primary_key]


def new_marks(connection: sa.Connection, table: sa.Table, project: str, *, known: Marks) -> Marks:
    """Return the marks of the rows that no seal has yet."""
    columns, table_marks = lasting_columns(table), Marks()
    for row in read_rows(connection, table, project):
        key = key_mark(table.name, key_of(table, row))
        if key not in known:
            table_marks[key] = row_mark(table.name, {name: row[name] for name in columns})
    return table_marks


def marked_objects(connection: sa.Connection, store: ObjectStore, project: str) -> list[ObjectInfo]:
    """Return the objects that rows name and that never change once the row is there.

    Snapshots are not among them: their id is the hash of their rows, and their bytes may be written anew.
    """

    def values(column: sa.Column[str]) -> list[str]:
        return list(connection.execute(sa.select(column).where(column.table.c.project == project)).scalars())

    prefixes = [
        *values(t.exams.c.object_key),
        *(f"{folder.rstrip('/')}/" for folder in values(t.model_versions.c.object_key)),
        *(f"bentos/{project}/{release_id}" for release_id in values(t.releases.c.release_id)),
        *values(t.release_images.c.sbom_key),
    ]
    objects = {info.key: info for prefix in set(prefixes) for info in store.list(prefix)}
    return [objects[key] for key in sorted(objects)]


def object_mark(store: ObjectStore, info: ObjectInfo) -> bytes:
    """Return the second half of an object's mark; a large one is not held in memory."""
    if info.size_bytes <= MAX_HELD_BYTES:
        return row_mark(OBJECTS, {"sha256": sha256_hex(store.get(info.key))})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "object"
        store.get_file(info.key, path)
        return row_mark(OBJECTS, {"sha256": sha256_of_file(path)})


def write(project: str, marks: Mapping[str, Marks], *, now: dt.datetime) -> tuple[str, bytes, Draft]:
    """Return the object of a seal, where it lies, and what the ledger says of it."""
    tables = {name: table_marks for name, table_marks in sorted(marks.items()) if table_marks}
    data = b"".join(key + value for table_marks in tables.values() for key, value in sorted(table_marks.items()))
    digest = sha256_hex(data)
    object_key = f"seals/{project}/{digest}"
    columns = {table.name: lasting_columns(table) for table in sealed_tables()} | {OBJECTS: ["sha256"]}
    body = {name: {"num_rows": len(table_marks), "columns": columns[name]} for name, table_marks in tables.items()}
    # A time in the name: the same rows may be sealed again after their seal's object was lost.
    subject = f"{digest}/{_time(now)}"
    return object_key, data, Draft(project, "seal", subject, {"object_key": object_key, "tables": body}, digest, now)


def read(entry: LedgerEntry, data: bytes) -> dict[str, Marks]:
    """Return the marks of a seal's object by table; the ledger says how many rows of which tables it holds."""
    marks: dict[str, Marks] = {}
    start = 0
    for name, facts in sorted(entry.body["tables"].items()):
        end = start + facts["num_rows"] * 2 * HALF
        part = data[start:end]
        marks[name] = {part[at : at + HALF]: part[at + HALF : at + 2 * HALF] for at in range(0, len(part), 2 * HALF)}
        start = end
    return marks
