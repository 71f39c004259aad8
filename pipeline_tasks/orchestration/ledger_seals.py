"""Seal what came into the catalog and the bucket since the project's last seal."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline_tasks.catalog import ledger_repository, seals
from pipeline_tasks.catalog.ledger import LedgerEntry
from pipeline_tasks.catalog.ledger import seals as seals_of
from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.ports import ObjectInfo, ObjectStore
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.orchestration.resources import Resources


def seal(parts: Resources, project: str) -> None:
    """Write one seal of all rows and objects that none has yet; nothing where there are none.

    What an unreadable seal marked is marked again; `dethrone verify` names the unreadable one.
    """
    database, store = parts.database, parts.store
    with database.read() as connection:
        known = known_marks(seals_of(ledger_repository.read_entries(connection, project)), store)
        marks = {
            table.name: seals.new_marks(connection, table, project, known=known.get(table.name, {}))
            for table in seals.sealed_tables()
        }
        objects = seals.marked_objects(connection, store, project)
    marks[seals.OBJECTS] = _new_objects(store, objects, known=known.get(seals.OBJECTS, {}))
    if not any(marks.values()):
        return
    key, data, draft = seals.write(project, marks, now=utc_now())
    crash_point("seal.put.before")
    store.put(key, data)
    crash_point("seal.put.after")
    with database.write() as connection:
        ledger_repository.append(connection, draft)
    crash_point("seal.put.recorded")


def known_marks(entries: list[LedgerEntry], store: ObjectStore) -> dict[str, seals.Marks]:
    """Return what the seals of a ledger mark, by table; the newest seal of a row counts."""
    known: dict[str, seals.Marks] = {}
    for entry in entries:
        try:
            data = store.get(entry.body["object_key"])
        except (KeyError, DataCorrupt):
            continue
        if sha256_hex(data) == entry.evidence_digest:
            for name, marks in seals.read(entry, data).items():
                known.setdefault(name, {}).update(marks)
    return known


def _new_objects(store: ObjectStore, objects: Iterable[ObjectInfo], *, known: seals.Marks) -> seals.Marks:
    marks = {seals.key_mark(seals.OBJECTS, [info.key]): info for info in objects}
    return {mark: seals.object_mark(store, info) for mark, info in marks.items() if mark not in known}
