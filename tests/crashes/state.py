"""State of an installation, as two runs are compared: rows, chain, Label Studio, servers; times and tries apart."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.ledger import LedgerEntry
from pipeline_tasks.catalog.ledger_repository import LedgerRepository
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.invariants import check
from pipeline_tasks.orchestration.ledger_anchors import waiting_notes
from tests.crashes.world import PROJECT, World

OF_ATTEMPTS = frozenset({"attempt", "commit_id", "parent_commit_id", "body_digest", "seconds", "report_key", "page"})
TABLES_APART = frozenset({"leases", "alembic_version", "ledger"})


def state_of(world: World) -> dict[str, Any]:
    """Return what must be the same after any kill."""
    parts = world.parts
    with parts.database.read() as connection:
        rows = {
            table.name: sorted(json.dumps(_timeless(dict(row)), sort_keys=True, default=str) for row in table_rows)
            for table in t.metadata.sorted_tables
            if table.name not in TABLES_APART
            for table_rows in [connection.execute(sa.select(*_kept(table))).mappings().all()]
        }
    head = ServingRepository(parts.database).head_route(PROJECT)
    entries = LedgerRepository(parts.database).entries(PROJECT)
    tool = world.labeling.state
    return {
        "champion": head.champion_version if head else None,
        "weights": {stored.key: stored.etag for stored in world.store.list("models/")},
        "chain": [
            (entry.sequence, entry.kind, json.dumps(_timeless(_said(entry)), sort_keys=True)) for entry in entries
        ],
        "rows": rows,
        "objects": Counter(stored.key.split("/")[0] for stored in world.store.list("")),
        "tasks": sorted((task["project"], task["data"]["item_id"]) for task in tool["tasks"].values()),
        "servers": sorted(parts.target.list()),
        "bentos": sorted(path.name for path in (world.folder / "home" / "bentoml").glob("dethrone_*")),
    }


def violations_of(world: World, *, now: Any) -> list[str]:
    """Return what `dethrone verify` would say of the installation at rest."""
    violations = check.check(world.parts.database, world.store, now=now, labeling=world.labeling, deep=True)
    return [*map(str, violations), *waiting_notes(world.parts)]


def _said(entry: LedgerEntry) -> dict[str, Any]:
    """Return what an entry says; a seal's object has the digest of rows that times and seconds stand in."""
    return {key: value for key, value in entry.body.items() if entry.kind != "seal" or key != "object_key"}


def _kept(table: sa.Table) -> list[sa.Column[Any]]:
    return [column for column in table.columns if not isinstance(column.type, t.UtcDateTime)]


def _timeless(value: Any) -> Any:
    """Return a value without its times, and without what names an attempt or a page that a time stands in."""
    if isinstance(value, dict):
        return {key: _timeless(part) for key, part in sorted(value.items()) if key not in OF_ATTEMPTS}
    return [_timeless(part) for part in value] if isinstance(value, list | tuple) else value
