"""The invariant of the evidence: rows and objects are what seals and names say, and the triggers are there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from pipeline_tasks.catalog import ledger, seals
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.append_only import missing_triggers
from pipeline_tasks.catalog.ledger import LedgerEntry
from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.core.ports import ObjectInfo, ObjectStore
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.invariants.violation import Row, Violation, listed
from pipeline_tasks.models.artifact import MANIFEST_NAME
from pipeline_tasks.validation import manifest

INVARIANT = "I11"


def trigger_violations(connection: sa.Connection) -> Iterator[Violation]:
    """I11: the database refuses to change what was recorded."""
    missing = missing_triggers(connection, [table.name for table in t.APPEND_ONLY])
    yield from listed(INVARIANT, "*", "tables without the triggers that make them append-only", missing)


def sealed_violations(
    connection: sa.Connection, store: ObjectStore, project: str, entries: Sequence[LedgerEntry], *, deep: bool
) -> Iterator[Violation]:
    """I11: every row that a seal marks is there and as it was; so are, in a deep check, the objects."""
    known: dict[str, dict[bytes, tuple[bytes, Sequence[str]]]] = {}
    for entry in ledger.seals(entries):
        try:
            data = store.get(entry.body["object_key"])
        except (KeyError, DataCorrupt):
            data = b""
        if sha256_hex(data) != entry.evidence_digest:
            text = f"{ledger.name_of(entry)} must have {entry.body['object_key']} as it was (got another, or none)"
            yield Violation(INVARIANT, project, text)
            continue
        for name, marks in seals.read(entry, data).items():
            columns = entry.body["tables"][name]["columns"]
            known.setdefault(name, {}).update({key: (mark, columns) for key, mark in marks.items()})
    for table in seals.sealed_tables():
        yield from _rows_against(connection, table, project, known.get(table.name, {}))
    if deep:
        yield from _objects_against(connection, store, project, known.get(seals.OBJECTS, {}))


def _rows_against(
    connection: sa.Connection, table: sa.Table, project: str, known: dict[bytes, tuple[bytes, Sequence[str]]]
) -> Iterator[Violation]:
    if not known:
        return
    changed = []
    for row in seals.read_rows(connection, table, project):
        key = seals.key_of(table, row)
        mark, columns = known.pop(seals.key_mark(table.name, key), (None, ()))
        if mark is not None and seals.row_mark(table.name, {name: row.get(name) for name in columns}) != mark:
            changed.append("/".join(map(str, key[1:] or key)))
    yield from listed(INVARIANT, project, f"rows of {table.name} that are not as they were sealed", changed)
    if known:
        yield Violation(INVARIANT, project, f"{len(known)} sealed rows of {table.name} are gone, or have another key")


def _objects_against(
    connection: sa.Connection,
    store: ObjectStore,
    project: str,
    known: dict[bytes, tuple[bytes, Sequence[str]]],
) -> Iterator[Violation]:
    changed = []
    for info in seals.marked_objects(connection, store, project) if known else ():
        mark, _columns = known.pop(seals.key_mark(seals.OBJECTS, [info.key]), (None, ()))
        if mark is not None and _mark_or_none(store, info) != mark:
            changed.append(info.key)
    yield from listed(INVARIANT, project, "objects that are not as they were sealed", changed)
    if known:
        yield Violation(INVARIANT, project, f"{len(known)} sealed objects are gone, or no row names them any more")


def _mark_or_none(store: ObjectStore, info: ObjectInfo) -> bytes | None:
    try:
        return seals.object_mark(store, info)
    except (KeyError, DataCorrupt):
        return None


def model_violations(project: str, rows: Sequence[Row], store: ObjectStore) -> Iterator[Violation]:
    """I11: every recorded model version says what its model.json says, which its weights are bound to."""
    for row in rows:
        key = f"{row['object_key'].rstrip('/')}/{MANIFEST_NAME}"
        differences = list(_differences(row, _json_of(store, key)))
        if differences:
            said = ", ".join(differences)
            yield Violation(INVARIANT, project, f"model version {row['version']} must say what {key} says (got {said})")


def _differences(row: Row, document: Mapping[str, Any]) -> Iterator[str]:
    config, origin = document.get("config", {}), document.get("origin", {})
    names = ("project", "version", "recipe", "params", "snapshot_id", "training_key", "seed", "lock_hash")
    said = {name: config.get(name) for name in names}
    said |= {"digest": document.get("weights_digest"), "metrics": document.get("metrics")}
    said |= {"code_revision": origin.get("code_revision")}
    for name, value in said.items():
        if value != row[name]:
            yield f"{name} {str(row[name])[:40]!r}, there {str(value)[:40]!r}"


def _json_of(store: ObjectStore, key: str) -> Mapping[str, Any]:
    try:
        document = json.loads(store.get(key))
    except (KeyError, DataCorrupt, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def manifest_violations(
    project: str, exams: Sequence[Row], exam_items: Sequence[Row], snapshots: Sequence[Row], store: ObjectStore
) -> Iterator[Violation]:
    """I11: exams and snapshots hash to their ids, and the catalog's exam items are those of the exams' files."""
    told = {(row["epoch"], row["item_id"], row["label"]) for row in exam_items}
    stored = set()
    for row in exams:
        try:
            table = manifest.read(store, row["object_key"])
        except DataCorrupt as error:
            yield Violation(INVARIANT, project, f"exam {row['epoch']}: {error}")
            continue
        if manifest.exam_id(table) != row["exam_id"] or table.num_rows != row["num_items"]:
            text = f"exam {row['epoch']} must hash to {row['exam_id'][:12]} with {row['num_items']} items"
            yield Violation(INVARIANT, project, f"{text} (got {manifest.exam_id(table)[:12]} with {table.num_rows})")
        labels = zip(table["item_id"].to_pylist(), table["label"].to_pylist(), strict=True)
        stored |= {(row["epoch"], item_id, label) for item_id, label in labels}
    names = (f"{item_id} ({label}) of epoch {epoch}" for epoch, item_id, label in told ^ stored)
    yield from listed(INVARIANT, project, "exam items that catalog and exam file do not share", names)
    for row in snapshots:
        try:
            manifest_id = manifest.manifest_id(manifest.read(store, row["object_key"]))
        except DataCorrupt as error:
            manifest_id = str(error)
        if manifest_id != row["snapshot_id"]:
            text = f"snapshot {row['snapshot_id'][:12]} must hash to its id (got {manifest_id[:200]})"
            yield Violation(INVARIANT, project, text)


def page_violations(
    project: str, checks: Sequence[Row], windows: Sequence[Row], store: ObjectStore
) -> Iterator[Violation]:
    """I11: the pages of checks and of the monitor are there, and hash to their names."""
    pages = {row["report_key"] for row in checks} | {row["statistics"].get("page") for row in windows}
    yield from listed(INVARIANT, project, "pages that are gone or were changed", _bad(sorted(pages - {None}), store))


def noted_violations(project: str, store: ObjectStore) -> Iterator[Violation]:
    """I11: what the bucket has noted down of the ledger is what its name says."""
    wrong = []
    for info in store.list(f"{ledger.NOTED_PREFIX}{project}/"):
        match = ledger.NOTED.fullmatch(info.key)
        if match is not None and ledger.hash_of_json(_json_of(store, info.key)) != match[3]:
            wrong.append(info.key)
    yield from listed(INVARIANT, project, "noted entries of the ledger that are not what their name says", wrong)


def _bad(keys: Sequence[str], store: ObjectStore) -> Iterator[str]:
    for key in keys:
        try:
            store.get(key)
        except (KeyError, DataCorrupt):
            yield key


def item_violations(project: str, items: Sequence[Row], store: ObjectStore) -> Iterator[Violation]:
    """I11: every item's bytes, in whatever object they lie, have the SHA-256 that its row says."""
    by_object: dict[str, list[Row]] = {}
    for row in items:
        by_object.setdefault(row["object_key"], []).append(row)
    wrong = []
    for key, rows in by_object.items():
        try:
            data = store.get(key)
        except (KeyError, DataCorrupt):
            continue  # said by what looks for objects
        wrong += [row["item_id"] for row in rows if sha256_hex(_part(data, row)) != row["content_id"]]
    yield from listed(INVARIANT, project, "items whose bytes do not hash to their content", wrong)


def _part(data: bytes, row: Row) -> bytes:
    return data[row["offset"] : row["offset"] + row["size_bytes"]]
