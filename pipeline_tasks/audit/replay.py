"""Replay of a verdict: computed again from its stored evidence and compared byte for byte. Only reads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.ledger import SHORT, LedgerEntry
from pipeline_tasks.catalog.ledger_repository import LedgerRepository
from pipeline_tasks.catalog.verdicts import VerdictRecord, VerdictRepository
from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.errors import ConfigError, DataCorrupt
from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.evaluation.verdict_consistency import contradictions

NUM_PATHS = 10
_MISSING = object()


@dataclasses.dataclass(frozen=True, slots=True)
class Replay:
    """A verdict computed again; `differences` is empty when every byte is the same."""

    project: str
    verdict_id: str
    answer: str
    digest: str
    differences: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Return whether the verdict is what its evidence gives."""
        return not self.differences


def replay(database: Database, store: ObjectStore, beginning: str, *, project: str | None = None) -> Replay:
    """Compute a stored verdict again from its stored evidence and compare it with what is kept, byte for byte.

    Raises:
        ConfigError: the beginning names no verdict, or several.
        DataCorrupt: another rule than this release's gave the verdict.
    """
    record = _named_verdict(VerdictRepository(database), beginning, project=project)
    entry = LedgerRepository(database).find(record.ref.project, "verdict", record.ref.verdict_id)
    differences = tuple(_differences(store, record, entry))
    return Replay(record.ref.project, record.ref.verdict_id, record.ref.answer, record.digest, differences)


def replay_text(replayed: Replay) -> str:
    """Return the result of a replay for people."""
    name = f"verdict {replayed.verdict_id[:SHORT]} of {replayed.project} ({replayed.answer})"
    if replayed.same:
        return f"same: {name} is byte for byte what its evidence gives (SHA-256 {replayed.digest})."
    return "\n".join(
        [
            f"different: {name} is not what its evidence gives:",
            *(f"  {difference}" for difference in replayed.differences),
        ]
    )


def _named_verdict(verdicts: VerdictRepository, beginning: str, *, project: str | None) -> VerdictRecord:
    candidates = verdicts.find_beginning(beginning, project=project)
    if len(candidates) == 1:
        return candidates[0]
    names = ", ".join(
        f"{candidate.ref.verdict_id[: max(SHORT, len(beginning))]} of {candidate.ref.project}"
        for candidate in candidates[:10]
    )
    known = (
        f"it fits {names}: give more of it, or --project" if candidates else "`dethrone history <project>` shows them"
    )
    raise ConfigError(f"verdict must be the beginning of one verdict's id (got {beginning[:80]!r}; {known}).")


def _differences(store: ObjectStore, record: VerdictRecord, entry: LedgerEntry | None) -> Iterator[str]:
    folder = record.ref.object_key.rstrip("/")
    stored, evidence = _object(store, f"{folder}/verdict.json"), _object(store, f"{folder}/evidence.parquet")
    if stored is None or evidence is None:
        yield f"{folder} must hold verdict.json and evidence.parquet (got: one is missing or unreadable)"
        return
    wrong_hashes = list(_wrong_hashes(sha256_hex(stored), record, entry))
    yield from wrong_hashes
    try:
        yield from _recomputed(stored, evidence, record)
    except DataCorrupt as error:
        if not wrong_hashes:
            raise
        yield str(error)


def _wrong_hashes(digest: str, record: VerdictRecord, entry: LedgerEntry | None) -> Iterator[str]:
    if digest != record.digest:
        yield f"verdict.json must hash to {record.digest}, as the catalog says (got {digest})"
    said = entry.evidence_digest if entry else "no entry"
    if digest != said:
        yield f"verdict.json must hash to what the ledger says, {said} (got {digest})"


def _recomputed(stored: bytes, evidence: bytes, record: VerdictRecord) -> Iterator[str]:
    try:
        document = json.loads(stored)
        expected = document["evidence"]["digest"]
    except (ValueError, LookupError, TypeError) as error:
        yield f"verdict.json must be a verdict (got {type(error).__name__})"
        return
    if sha256_hex(evidence) != expected:
        yield f"evidence.parquet must hash to {expected} (got {sha256_hex(evidence)})"
        return
    try:
        again = vd.replay(document, evidence)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        yield f"verdict.json must be a verdict that can be computed again (got {type(error).__name__}: {error})"
        return
    if vd.verdict_id_of(again) != record.ref.verdict_id:
        yield f"the id must be {record.ref.verdict_id} (got {vd.verdict_id_of(again)})"
    yield from contradictions(record, again)
    paths = list(differing_paths(document, json.loads(vd.document_bytes(again))))
    yield from paths[:NUM_PATHS]
    if len(paths) > NUM_PATHS:
        yield f"and {len(paths) - NUM_PATHS} more"
    elif not paths and vd.document_bytes(again) != stored:
        yield "verdict.json says the same in other bytes"


def differing_paths(stored: Any, again: Any, path: str = "") -> Iterator[str]:
    """Yield where two JSON documents differ, in the order of the keys."""
    if isinstance(stored, dict) and isinstance(again, dict):
        for key in sorted(stored.keys() | again.keys()):
            inner = f"{path}.{key}" if path else key
            yield from differing_paths(stored.get(key, _MISSING), again.get(key, _MISSING), inner)
    elif isinstance(stored, list) and isinstance(again, list) and len(stored) == len(again):
        for number, (value, other) in enumerate(zip(stored, again, strict=True)):
            yield from differing_paths(value, other, f"{path}[{number}]")
    elif stored != again:
        yield f"{path}: stored {_brief(stored)}, computed {_brief(again)}"


def _brief(value: Any) -> str:
    text = "nothing" if value is _MISSING else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _object(store: ObjectStore, key: str) -> bytes | None:
    try:
        return store.get(key)
    except (KeyError, DataCorrupt):
        return None
