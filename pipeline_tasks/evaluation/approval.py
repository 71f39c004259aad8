"""Conditions of a release after a verdict: the stored answer, the champion it was compared with, a person's yes."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from pipeline_tasks.catalog.ledger_repository import LedgerRepository
from pipeline_tasks.catalog.verdicts import (
    ApprovalDecision,
    ApprovalRecord,
    ApprovalRepository,
    VerdictRecord,
    VerdictRepository,
)
from pipeline_tasks.contracts import VerdictRef, sha256_hex
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.errors import ConfigError, DataCorrupt, GateClosed
from pipeline_tasks.evaluation.verdict import verdict_id_of
from pipeline_tasks.evaluation.verdict_consistency import contradictions
from pipeline_tasks.project.schema import Approval, LoadedProject

REPORT_NAME = "report.html"
DECISIONS = ("approve", "reject", "expired")


def approval_needed(approval: Approval, verdict: VerdictRef) -> bool:
    """Return whether a person has to say yes before this verdict ships."""
    if verdict.answer != "promote":
        return False
    return approval.when == "always" or (approval.when == "first" and verdict.champion_version is None)


def is_valid_yes(policy: Approval, answer: ApprovalRecord | None) -> bool:
    """Return whether an answer lets a verdict ship: a yes, and where two people are asked for, of the second."""
    if answer is None or answer.decision != "approve":
        return False
    return not (policy.four_eyes and _same_person(answer.by, answer.requested_by))


def record_approval(
    project: LoadedProject,
    verdict_id: str,
    *,
    decision: ApprovalDecision,
    by: str,
    reason: str,
    requested_by: str | None,
    verdicts: VerdictRepository,
    approvals: ApprovalRepository,
    now: dt.datetime,
) -> ApprovalRecord:
    """Keep a person's answer, or that nobody gave one in time.

    Raises:
        GateClosed: VERDICT_UNKNOWN, NOT_PROMOTE or SELF_APPROVAL; nothing is kept.
        ConfigError: the decision is none of approve, reject, expired, or nobody's name comes with it.
    """
    if decision not in DECISIONS or not by.strip():
        raise ConfigError(
            f"an approval must be one of {', '.join(DECISIONS)} with the name of who gave it (got {decision!r} "
            f"by {by!r})."
        )
    record = _known(verdicts, project.name, verdict_id)
    if record.ref.answer != "promote":
        raise _closed("NOT_PROMOTE", record.ref, f"its answer must be promote to be approved (got {record.ref.answer})")
    if decision == "approve" and project.config.approval.four_eyes and _same_person(by, requested_by):
        raise _closed("SELF_APPROVAL", record.ref, f"somebody else than {by}, who started the run, must approve it")
    return approvals.append(
        project=project.name,
        verdict_id=verdict_id,
        decision=decision,
        by=by,
        requested_by=requested_by,
        reason=reason,
        at=now,
    )


def require_promotable(
    project: LoadedProject,
    verdict_id: str,
    *,
    head_version: str | None,
    verdicts: VerdictRepository,
    approvals: ApprovalRepository,
    ledger: LedgerRepository,
    store: ObjectStore,
) -> VerdictRef:
    """Return the verdict if it may become a release now; `head_version` is the champion that serves (None: nobody).

    Raises:
        GateClosed: VERDICT_UNKNOWN, NOT_IN_LEDGER, NOT_PROMOTE, STALE_BASELINE, CLASSES_CHANGED, APPROVAL_MISSING,
            APPROVAL_REJECTED, APPROVAL_EXPIRED or SELF_APPROVAL.
        DataCorrupt: the stored verdict is not the one that was given, or speaks of another comparison than its row.
    """
    record = _known(verdicts, project.name, verdict_id)
    document = read_verdict(store, record)
    entry = ledger.find(project.name, "verdict", verdict_id)
    if entry is None or entry.evidence_digest != record.digest:
        text = f"the ledger must have an entry with its SHA-256 (got {'another' if entry else 'none'})"
        raise _closed("NOT_IN_LEDGER", record.ref, text)
    if document["decision"]["answer"] != "promote":
        raise _closed("NOT_PROMOTE", record.ref, f"its answer must be promote (got {record.ref.answer})")
    # The contender itself at the head is a repeat of a promotion that went through: it must stay repeatable.
    if head_version not in {record.ref.champion_version, record.ref.contender_version}:
        compared = record.ref.champion_version or "nobody"
        text = f"the champion must still be {compared}, with which it was compared (got {head_version or 'nobody'})"
        raise _closed("STALE_BASELINE", record.ref, text)
    gone = set(document["question"].get("project_classes", ())) - set(project.config.labels.classes)
    if gone and head_version != record.ref.contender_version:
        lost = ", ".join(sorted(gone))
        text = f"the classes that it was judged on must be the project's (it has no {lost} any more). Train again"
        raise _closed("CLASSES_CHANGED", record.ref, text)
    if approval_needed(project.config.approval, record.ref):
        _require_yes(project.config.approval, record.ref, answer=approvals.latest(project.name, verdict_id))
    return record.ref


def _require_yes(policy: Approval, verdict: VerdictRef, *, answer: ApprovalRecord | None) -> None:
    if is_valid_yes(policy, answer):
        return
    if answer is None:
        raise _closed(
            "APPROVAL_MISSING", verdict, f"a person must approve it (approval.when is {policy.when}; got none)"
        )
    if answer.decision == "expired":
        raise _closed(
            "APPROVAL_EXPIRED", verdict, f"a person must approve it in {policy.deadline_hours:g} h (got none)"
        )
    if answer.decision != "approve":
        raise _closed("APPROVAL_REJECTED", verdict, f"a person must approve it (got: {answer.by} said no)")
    raise _closed("SELF_APPROVAL", verdict, f"somebody else than {answer.by}, who started the run, must approve it")


def read_verdict(store: ObjectStore, record: VerdictRecord) -> dict[str, Any]:
    """Return the stored document of a verdict after checking both of its hashes, and that its row says the same.

    Raises:
        DataCorrupt: it is missing, not the one that was given, or contradicts its row.
    """
    key = f"{record.ref.object_key}/verdict.json"
    try:
        data = store.get(key)
    except KeyError:
        raise DataCorrupt(f"{key} must exist (got nothing). Restore it from a backup, or judge again.") from None
    if sha256_hex(data) != record.digest:
        raise DataCorrupt(
            f"{key} must hash to {record.digest} (got {sha256_hex(data)}). "
            "It was changed after the verdict was given; restore it from a backup, or judge again."
        )
    document: dict[str, Any] = json.loads(data)
    if verdict_id_of(document) != record.ref.verdict_id:
        raise DataCorrupt(f"{key} must be the verdict {record.ref.verdict_id} (got {verdict_id_of(document)}).")
    faults = list(contradictions(record, document))
    if faults:
        raise DataCorrupt(
            f"{key} must say what the catalog says of verdict {record.ref.verdict_id[:12]} (got: {'; '.join(faults)}). "
            "The row was not written by the gate; `dethrone verify` names what else was not."
        )
    return document


def read_report(store: ObjectStore, record: VerdictRecord) -> bytes:
    """Return the page that a verdict's approver reads, as it was written when the verdict was given.

    A verdict of an older release has no digest of it: its page is returned as it lies there.

    Raises:
        DataCorrupt: it is missing, or another.
    """
    key = f"{record.ref.object_key}/{REPORT_NAME}"
    try:
        data = store.get(key)
    except KeyError:
        raise DataCorrupt(f"{key} must exist (got nothing). Restore it from a backup.") from None
    if record.report_digest not in (None, sha256_hex(data)):
        raise DataCorrupt(
            f"{key} must hash to {record.report_digest} (got {sha256_hex(data)}). This page was changed after the "
            "verdict was given and must not be believed; restore it from a backup. `dethrone verify` names what else "
            "was changed."
        )
    return data


def _known(verdicts: VerdictRepository, project: str, verdict_id: str) -> VerdictRecord:
    record = verdicts.find(project, verdict_id)
    if record is None:
        raise GateClosed(
            f"verdict_id must name a verdict of {project} (got {verdict_id[:80]!r}). "
            "Only what the gate has judged can ship.",
            code="VERDICT_UNKNOWN",
        )
    return record


def _same_person(first: str, other: str | None) -> bool:
    return other is not None and first.strip().casefold() == other.strip().casefold()


def _closed(code: str, verdict: VerdictRef, text: str) -> GateClosed:
    name = verdict.verdict_id[:12]
    return GateClosed(f"[{code}] for verdict {name} to ship, {text}. The champion keeps serving.", code=code)
