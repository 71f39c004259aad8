"""Note the ledger's newest entry down outside of the database, so that a cut end is seen."""

from __future__ import annotations

from pipeline_tasks.assembly import Parts
from pipeline_tasks.catalog import ledger
from pipeline_tasks.catalog.ledger_repository import LedgerRepository
from pipeline_tasks.contracts import canonical_json


def note_head(parts: Parts, project: str) -> None:
    """Write the newest entry of a project's ledger into the object store; what is there already stays the same.

    To be called after every verdict, approval and route. One that a crash left out is covered by the next: its hash
    follows from those before it. `dethrone verify` compares.
    """
    entry = LedgerRepository(parts.database).head(project)
    if entry is not None:
        body = canonical_json(ledger.entry_json(entry))
        parts.store.put(ledger.noted_key(entry), body, content_type="application/json")
