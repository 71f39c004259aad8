"""Note the ledger's newest entry down outside of the database, so that a cut end is seen."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline_tasks.catalog import ledger
from pipeline_tasks.catalog.ledger_repository import LedgerRepository
from pipeline_tasks.catalog.routes import EVERY_PROJECT
from pipeline_tasks.contracts import canonical_json
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.errors import PipelineError, ServiceUnavailable
from pipeline_tasks.orchestration.resources import Resources

logger = logging.getLogger(__name__)


def note_head(parts: Resources, project: str) -> None:
    """Write the newest entry of a project's ledger, and of that of the API keys, into the object store.

    What is there already stays the same.

    To be called after every verdict, approval, release and route, and by the monitor. One that a crash or a store that
    is away left out is covered by the next: its hash follows from those before it. `dethrone verify` compares, and
    names the entries that are still to be noted.
    """
    repository = LedgerRepository(parts.database)
    entries = [entry for entry in map(repository.head, dict.fromkeys((project, EVERY_PROJECT))) if entry is not None]
    if not entries:
        return
    newest = entries[0]
    with passed_over(
        f"entry {newest.sequence} of {newest.project}'s ledger is noted there later, by the next one or the monitor"
    ):
        for entry in entries:
            body = canonical_json(ledger.entry_json(entry))
            crash_point("note.put.before")
            parts.brisk_store.put(ledger.noted_key(entry), body, content_type="application/json")
            crash_point("note.put.after")


def waiting_notes(parts: Resources) -> list[str]:
    """Return, in words, the entries that the object store has not noted yet: a cut there would not be seen."""
    noted = ledger.noted_in(info.key for info in parts.store.list(ledger.NOTED_PREFIX))
    repository = LedgerRepository(parts.database)
    waiting = []
    for project in repository.projects():
        head = repository.head(project)
        newest = max((sequence for sequence, _ in noted.get(project, ())), default=0)
        if head is not None and head.sequence > newest:
            waiting.append(
                f"{project}: the ledger's entries {newest + 1} to {head.sequence} are not noted in the object store "
                "yet; the next decision or the monitor notes them."
            )
    return waiting


@contextmanager
def passed_over(what: str) -> Iterator[None]:
    """Go on without the object store while it is away or refuses, and say what was passed over."""
    try:
        yield
    except PipelineError as error:
        if not isinstance(error, ServiceUnavailable) and error.code != "S3_REFUSED":
            raise
        logger.warning("the object store must answer (got: %s). %s.", error, what)
