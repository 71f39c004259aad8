"""The ledger in the catalog: appended to in the transaction of the row it speaks of, read to be shown and verified."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from pipeline_tasks.catalog import ledger
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import SIGNER, Database, Repository, columns_of, wait_for_turn
from pipeline_tasks.catalog.ledger import Draft, Kind, LedgerEntry

_COLUMNS = columns_of(t.ledger, LedgerEntry)


class LedgerRepository(Repository):
    """Reads the chains of entries."""

    def projects(self) -> list[str]:
        query = sa.select(t.ledger.c.project).distinct().order_by(t.ledger.c.project)
        return list(self.database.scalars(query))

    def entries(self, project: str) -> list[LedgerEntry]:
        """Return a project's entries, oldest first."""
        with self.database.read() as connection:
            return read_entries(connection, project)

    def head(self, project: str) -> LedgerEntry | None:
        """Return a project's newest entry."""
        with self.database.read() as connection:
            return _head(connection, project)

    def find(self, project: str, kind: Kind, subject: str) -> LedgerEntry | None:
        """Return the entry of one verdict, approval or route."""
        mine = (t.ledger.c.project == project, t.ledger.c.kind == kind, t.ledger.c.subject == subject)
        return self.database.record(LedgerEntry, sa.select(*_COLUMNS).where(*mine))


def lock(connection: sa.Connection, project: str) -> None:
    """Wait for the turn to write a project's ledger: before the head is read, so that two cannot both follow it."""
    wait_for_turn(connection, f"dethrone/ledger/{project}")


def append(connection: sa.Connection, draft: Draft) -> LedgerEntry:
    """Write the entry that follows the head, in the caller's transaction; InputError if a fact has a wrong type."""
    ledger.check_texts(draft)
    lock(connection, draft.project)
    entry = ledger.link(draft, _head(connection, draft.project))
    sign = connection.get_execution_options().get(SIGNER)
    if sign is not None:
        entry = dataclasses.replace(entry, signature=sign(entry))
    connection.execute(t.ledger.insert(), _row(entry))
    return entry


def append_verdict(connection: sa.Connection, row: Mapping[str, Any]) -> LedgerEntry:
    """Write the entry of a row of `verdicts` that this transaction has inserted."""
    return append(connection, ledger.verdict_draft(row))


def record_look(
    database: Database, project: str, verdict_id: str, *, digest: str, by: str, now: dt.datetime
) -> LedgerEntry:
    """Write that somebody read the exact figures and the items of a verdict whose epoch is open."""
    with database.write() as connection:
        lock(connection, project)
        told = t.ledger.c
        earlier = (told.project == project, told.kind == "look", told.subject.startswith(f"{verdict_id}/"))
        number = connection.execute(sa.select(sa.func.count()).select_from(t.ledger).where(*earlier)).scalar_one() + 1
        body = {"verdict_id": verdict_id, "by": by}
        return append(connection, Draft(project, "look", f"{verdict_id}/{number}", body, digest, now))


def append_approval(connection: sa.Connection, row: Mapping[str, Any]) -> LedgerEntry:
    """Write the entry of a row of `approvals` that this transaction has inserted."""
    return append(connection, ledger.approval_draft(row, evidence_digest=_verdict_digest(connection, row)))


def append_release(connection: sa.Connection, row: Mapping[str, Any]) -> LedgerEntry:
    """Write the entry of a row of `releases` that this transaction has inserted."""
    return append(connection, ledger.release_draft(row, evidence_digest=_verdict_digest(connection, row)))


def append_key(connection: sa.Connection, row: Mapping[str, Any]) -> LedgerEntry:
    """Write the newest entry of a row of `api_keys` that this transaction has inserted or revoked."""
    return append(connection, list(ledger.key_drafts(row))[-1])


def append_route(connection: sa.Connection, row: Mapping[str, Any]) -> LedgerEntry:
    """Write the entry of a row of `routes` that this transaction has inserted."""
    return append(connection, ledger.route_draft(row, evidence_digest=_verdict_digest(connection, row)))


def read_entries(connection: sa.Connection, project: str) -> list[LedgerEntry]:
    """Return a project's entries, oldest first."""
    query = sa.select(*_COLUMNS).where(t.ledger.c.project == project).order_by(t.ledger.c.sequence)
    return [LedgerEntry(**row) for row in connection.execute(query).mappings()]


def read_drafts(connection: sa.Connection, project: str, *, as_first: bool = False) -> list[Draft]:
    """Return what the ledger has to say of a project's rows, or of the API keys, in the order of their time.

    `as_first`: of verdicts, approvals and routes, from the columns that there were when the ledger came.
    """
    if project == ledger.KEYS:
        return ledger.in_order(draft for row in _keys(connection) for draft in ledger.key_drafts(row))
    names = (*ledger.VERDICT_FACTS, "verdict_id", "digest", "created_at", *(() if as_first else ledger.NEVER_ADDED))
    verdicts = _facts(connection, t.verdicts, project, names)
    digests = {row["verdict_id"]: row["digest"] for row in verdicts}
    approvals = _facts(connection, t.approvals, project, (*ledger.APPROVAL_FACTS, "at"))
    routes = _facts(connection, t.routes, project, (*ledger.ROUTE_FACTS, "body", "created_at"))
    releases = [] if as_first else _releases(connection, project)
    return ledger.in_order(
        [
            *(ledger.verdict_draft(row) for row in verdicts),
            *(ledger.approval_draft(row, evidence_digest=digests.get(row["verdict_id"])) for row in approvals),
            *(ledger.release_draft(row, evidence_digest=digests.get(row["verdict_id"])) for row in releases),
            *(ledger.route_draft(row, evidence_digest=digests.get(row["verdict_id"])) for row in routes),
        ]
    )


def backfill(connection: sa.Connection) -> None:
    """Write the ledgers of a catalog that is older than the ledger: once, by the migration that brings the table.

    Never later: a row that has come in past the ledger must stay visible as one.
    """
    tables = (t.verdicts, t.approvals, t.routes)
    for project in connection.execute(sa.union(*(sa.select(table.c.project) for table in tables))).scalars().all():
        rows = [_row(entry) for entry in ledger.chain(read_drafts(connection, project, as_first=True))]
        connection.execute(t.ledger.insert(), rows)


def backfill_later(connection: sa.Connection) -> None:
    """Add the entries of releases and API keys that are older than their entries: once, by the migration for it."""
    projects = connection.execute(sa.select(t.releases.c.project).distinct().order_by(t.releases.c.project)).scalars()
    for project in (*projects.all(), ledger.KEYS):
        drafts = [draft for draft in read_drafts(connection, project) if draft.kind in {"release", "key"}]
        for draft in drafts:
            append(connection, draft)


def _releases(connection: sa.Connection, project: str) -> list[sa.RowMapping]:
    return _facts(connection, t.releases, project, (*ledger.RELEASE_FACTS, "release_id", "infra_check", "created_at"))


def _keys(connection: sa.Connection) -> list[sa.RowMapping]:
    columns = [t.api_keys.c[name] for name in ("key_id", *ledger.KEY_FACTS, "created_at", "revoked_at")]
    return list(connection.execute(sa.select(*columns)).mappings())


def _facts(connection: sa.Connection, table: sa.Table, project: str, names: Sequence[str]) -> list[sa.RowMapping]:
    # Named columns only: the migration reads tables that later ones may have widened in tables.py.
    columns = [table.c[name] for name in ("project", *names)]
    return list(connection.execute(sa.select(*columns).where(table.c.project == project)).mappings())


def _verdict_digest(connection: sa.Connection, row: Mapping[str, Any]) -> str | None:
    verdict = t.verdicts.c
    where = (verdict.project == row["project"], verdict.verdict_id == row["verdict_id"])
    return connection.execute(sa.select(verdict.digest).where(*where)).scalar_one_or_none()


def _head(connection: sa.Connection, project: str) -> LedgerEntry | None:
    query = sa.select(*_COLUMNS).where(t.ledger.c.project == project).order_by(t.ledger.c.sequence.desc()).limit(1)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else LedgerEntry(**row)


def _row(entry: LedgerEntry) -> dict[str, Any]:
    row = {column.name: getattr(entry, column.name) for column in _COLUMNS} | {"body": dict(entry.body)}
    return row if entry.signature is not None else {name: row[name] for name in row if name != "signature"}
