"""`dethrone verify`: every invariant, of the installation or of a backup that lies anywhere."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from pipeline_tasks.audit.history import parse_anchors
from pipeline_tasks.audit.signing_keys import known_keys, read_keys, signatures_text
from pipeline_tasks.backup.read_in_place import BackupStore, open_catalog
from pipeline_tasks.backup.repository import BackupRepository
from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.ledger_repository import LedgerRepository
from pipeline_tasks.catalog.signatures import PublicKey
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.core.ports import LabelingTool, ObjectStore
from pipeline_tasks.invariants import check
from pipeline_tasks.orchestration.ledger_anchors import waiting_notes
from pipeline_tasks.orchestration.resources import build_resources

NOT_COVERED = "Not covered: what came in since each project's newest verdict, and what docs/evidence.md lists."


@dataclasses.dataclass(frozen=True, slots=True)
class Verification:
    """Every broken invariant in words, and what was looked at only in part."""

    violations: tuple[str, ...]
    notes: tuple[str, ...]


def verify_installation(anchors: Sequence[str] = (), *, public_key: Path | None = None) -> Verification:
    """Check every invariant; the loop should be at rest.

    `anchors` are `PROJECT:SEQ:HASH` of ledger entries that were noted down elsewhere, `public_key` is a file of keys
    that may have signed the entries; without it these are the stack's own and those of TRUSTED_KEYS in the home.
    """
    parts = build_resources()
    verification = _verify(
        parts.database,
        parts.store,
        anchors,
        keys=known_keys(parts.settings, public_key),
        now=utc_now(),
        labeling=parts.labeling,
    )
    return dataclasses.replace(verification, notes=(*verification.notes, *waiting_notes(parts)))


def verify_backup(folder: Path, anchors: Sequence[str] = (), *, public_key: Path | None = None) -> Verification:
    """Check the newest backup of a folder where it lies: on another machine, with nothing started or restored."""
    repository = BackupRepository(folder.resolve())
    manifest = repository.manifest()
    keys = [] if public_key is None else read_keys(public_key)
    with open_catalog(repository, manifest) as database:
        # As of then: a run that was under way is over its deadline by now, and nobody goes on with it.
        now = dt.datetime.fromisoformat(manifest["created_at"])
        return _verify(database, BackupStore(repository, manifest), anchors, keys=keys, now=now)


def _verify(
    database: Database,
    store: ObjectStore,
    anchors: Sequence[str],
    *,
    keys: Sequence[PublicKey],
    now: dt.datetime,
    labeling: LabelingTool | None = None,
) -> Verification:
    ledger = LedgerRepository(database)
    violations = check.check(
        database,
        store,
        now=now,
        labeling=labeling,
        anchors=parse_anchors(anchors, projects=ledger.projects()),
        public_keys=keys,
        deep=True,
    )
    entries = [entry for project in ledger.projects() for entry in ledger.entries(project)]
    return Verification(tuple(map(str, violations)), (signatures_text(entries, keys), NOT_COVERED))
