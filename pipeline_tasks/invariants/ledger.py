"""The invariant of the ledger: an unbroken chain that says what the rows and the stored evidence say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from pipeline_tasks.catalog import ledger
from pipeline_tasks.catalog.ledger import Draft, LedgerEntry
from pipeline_tasks.catalog.verdicts import VerdictRecord
from pipeline_tasks.contracts import VerdictRef, sha256_hex
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.evaluation.approval import REPORT_NAME
from pipeline_tasks.evaluation.verdict_consistency import contradictions
from pipeline_tasks.invariants.violation import Violation


def ledger_violations(
    project: str,
    entries: Sequence[LedgerEntry],
    drafts: Sequence[Draft],
    *,
    store: ObjectStore,
    anchors: Sequence[tuple[int, str]] = (),
    noted: Sequence[tuple[int, str]] = (),
    deep: bool = False,
) -> Iterator[Violation]:
    """I10: the chain is whole, agrees with the rows (`drafts`), holds its anchors, and its evidence is what it was.

    `anchors` are (sequence, hash) pairs that people noted down elsewhere, `noted` those that the object store has;
    `deep` hashes the models' answers too.
    """
    messages = [
        *ledger.chain_faults(entries),
        *ledger.row_faults(entries, drafts),
        *(
            fault
            for sequence, entry_hash in anchors
            for fault in ledger.anchor_faults(entries, sequence=sequence, entry_hash=entry_hash)
        ),
        *ledger.noted_faults(entries, noted),
        *(fault for draft in drafts if draft.kind == "verdict" for fault in _evidence_faults(draft, store, deep=deep)),
    ]
    yield from (Violation("I10", project, message) for message in messages)


def _evidence_faults(draft: Draft, store: ObjectStore, *, deep: bool) -> Iterator[str]:
    name, folder = ledger.name_of(draft), str(draft.body["object_key"]).rstrip("/")
    data, stored = _read(store, f"{folder}/verdict.json")
    if stored != draft.evidence_digest:
        yield f"{name} must have {folder}/verdict.json with the SHA-256 {draft.evidence_digest} (got {stored})"
        return
    yield from (f"{name} contradicts its document; {fault}" for fault in _contradictions(draft, data))
    report = draft.body.get("report_digest")
    if report is not None:
        _data, stored = _read(store, f"{folder}/{REPORT_NAME}")
        if stored != report:
            yield f"{name} must have {folder}/{REPORT_NAME} with the SHA-256 {report} (got {stored})"
    if deep:
        expected = _evidence_digest(data)
        _data, stored = _read(store, f"{folder}/evidence.parquet")
        if stored != expected:
            yield f"{name} must have {folder}/evidence.parquet with the SHA-256 {expected} (got {stored})"


def _contradictions(draft: Draft, document: bytes) -> Iterator[str]:
    body = draft.body
    ref = VerdictRef(
        project=draft.project,
        verdict_id=draft.subject,
        answer=body["answer"],
        champion_version=body["champion_version"],
        contender_version=body["contender_version"],
        reasons=(),
        object_key=body["object_key"],
    )
    record = VerdictRecord(
        ref, tuple(body["exam_ids"]), body["policy_id"], str(draft.evidence_digest), body["run_id"], draft.at
    )
    try:
        parsed = json.loads(document)
    except ValueError:
        yield "verdict.json must be JSON (got something else)"
        return
    yield from contradictions(record, parsed)


def _evidence_digest(document: bytes) -> str | None:
    """Return the hash of evidence.parquet that a verdict.json names; the ledger covers it with the document."""
    try:
        return str(json.loads(document)["evidence"]["digest"])
    except (ValueError, KeyError, TypeError):
        return None


def _read(store: ObjectStore, key: str) -> tuple[bytes, str]:
    """Return an object and its SHA-256, or the name of the error that came instead."""
    try:
        data = store.get(key)
    except (KeyError, DataCorrupt) as error:
        return b"", type(error).__name__
    return data, sha256_hex(data)
