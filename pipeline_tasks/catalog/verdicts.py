"""Verdicts, approvals and releases: each table only grows; verdicts and approvals write their ledger entry too."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa

from pipeline_tasks.catalog import ledger_repository
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Repository, columns_of, insert_ignore
from pipeline_tasks.contracts import Fence, ReleaseRef, VerdictRef
from pipeline_tasks.errors import LostRace

ApprovalDecision = Literal["approve", "reject", "expired"]


@dataclasses.dataclass(frozen=True, slots=True)
class VerdictRecord:
    """A verdict as the catalog has it; `digest` is the SHA-256 of its verdict.json, `report_digest` of its report.html.

    Verdicts of older releases have no `report_digest`.
    """

    ref: VerdictRef
    exam_ids: tuple[str, ...]
    policy_id: str
    digest: str
    run_id: str
    created_at: dt.datetime
    report_digest: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ApprovalRecord:
    """One person's answer to a request, or its expiry; `requested_by` triggered the run."""

    project: str
    verdict_id: str
    sequence: int
    decision: ApprovalDecision
    by: str
    requested_by: str | None
    reason: str
    at: dt.datetime


class VerdictRepository(Repository):
    """The gate's answers so far."""

    def find(self, project: str, verdict_id: str) -> VerdictRecord | None:
        return next(iter(self._select(t.verdicts.c.project == project, t.verdicts.c.verdict_id == verdict_id)), None)

    def find_beginning(self, beginning: str, *, project: str | None = None) -> list[VerdictRecord]:
        """Return the verdicts whose id begins so, of one project or of all."""
        conditions = [t.verdicts.c.verdict_id.startswith(beginning, autoescape=True)]
        return self._select(*conditions, *([t.verdicts.c.project == project] if project is not None else []))

    def find_same_question(
        self,
        project: str,
        *,
        contender_version: str,
        champion_version: str | None,
        exam_ids: Sequence[str],
        policy_id: str,
    ) -> VerdictRecord | None:
        """Return the verdict on the same contender, champion, exams and policy: asked once, answered once."""
        table = t.verdicts.c
        rows = self._select(
            table.project == project,
            table.contender_version == contender_version,
            table.champion_version.is_not_distinct_from(champion_version),
            table.policy_id == policy_id,
        )
        return next((record for record in rows if record.exam_ids == tuple(exam_ids)), None)

    def history(self, project: str) -> list[VerdictRecord]:
        """Return a project's verdicts, oldest first."""
        return self._select(t.verdicts.c.project == project)

    def count_uses(self, project: str, exam_id: str) -> int:
        """Return how many contenders were compared with a champion on this exam while it was the current one."""
        with self.database.read() as connection:
            return _count_uses(connection, project=project, exam_id=exam_id)

    def record(self, record: VerdictRecord, *, exam_use: int, fence: Fence) -> VerdictRecord:
        """Write a verdict; the first record of an id stays and is returned.

        Raises:
            StaleAttempt: a newer attempt holds the lease.
            LostRace: another contender used this exam meanwhile, so the level of confidence has moved.
        """
        ref = record.ref
        with self.database.write(fence) as connection:
            # Before the uses are counted: two contenders at one moment must not both be the n-th on an exam.
            ledger_repository.lock(connection, ref.project)
            known = connection.execute(
                sa.select(t.verdicts.c.verdict_id).where(
                    t.verdicts.c.project == ref.project, t.verdicts.c.verdict_id == ref.verdict_id
                )
            ).one_or_none()
            if known is None:
                uses = _count_uses(connection, project=ref.project, exam_id=record.exam_ids[0])
                if ref.champion_version is not None and uses + 1 != exam_use:
                    raise LostRace(f"exam_use must be {uses + 1} (got {exam_use}): another contender was judged on it.")
                row = _verdict_row(record)
                connection.execute(t.verdicts.insert(), row)
                ledger_repository.append_verdict(connection, row)
        return self.find(ref.project, ref.verdict_id) or record

    def class_counts(self, project: str, snapshot_id: str) -> Mapping[str, int] | None:
        """Return a snapshot's rows per class, or None if the catalog does not know it."""
        query = sa.select(t.snapshots.c.class_counts).where(
            t.snapshots.c.project == project, t.snapshots.c.snapshot_id == snapshot_id
        )
        counts: Mapping[str, int] | None = self.database.scalar(query)
        return counts

    def _select(self, *conditions: sa.ColumnElement[bool]) -> list[VerdictRecord]:
        query = sa.select(t.verdicts).where(*conditions).order_by(t.verdicts.c.created_at, t.verdicts.c.verdict_id)
        return self.database.records(_verdict, query)


def _count_uses(connection: sa.Connection, *, project: str, exam_id: str) -> int:
    query = sa.select(t.verdicts.c.exam_ids).where(
        t.verdicts.c.project == project, t.verdicts.c.champion_version.is_not(None)
    )
    return sum(1 for row in connection.execute(query) if row.exam_ids and row.exam_ids[0] == exam_id)


def _verdict_row(record: VerdictRecord) -> dict[str, Any]:
    row = dataclasses.asdict(record)
    ref = row.pop("ref")
    reasons = {"code": ref.pop("code"), "texts": list(ref.pop("reasons"))}
    return {**ref, **row, "reasons": reasons, "exam_ids": list(record.exam_ids)}


def _verdict(reasons: Mapping[str, Any], exam_ids: Sequence[str], **row: Any) -> VerdictRecord:
    plain = ("project", "verdict_id", "answer", "champion_version", "contender_version", "object_key")
    said = {"reasons": tuple(reasons["texts"]), "code": reasons["code"]}
    ref = VerdictRef(**{name: row.pop(name) for name in plain}, **said)
    return VerdictRecord(ref, tuple(exam_ids), **row)


class ApprovalRepository(Repository):
    """The yes or no of people to promotions, with their time and reason."""

    def history(self, project: str, verdict_id: str) -> list[ApprovalRecord]:
        """Return the answers to a verdict's requests, oldest first."""
        with self.database.read() as connection:
            return _approvals(connection, project=project, verdict_id=verdict_id)

    def latest(self, project: str, verdict_id: str) -> ApprovalRecord | None:
        """Return the answer that counts."""
        return next(reversed(self.history(project, verdict_id)), None)

    def append(
        self,
        *,
        project: str,
        verdict_id: str,
        decision: ApprovalDecision,
        by: str,
        requested_by: str | None,
        reason: str,
        at: dt.datetime,
    ) -> ApprovalRecord:
        """Write an answer; `at` is when it was given, so the same one again, from a retry, changes nothing.

        The newest answer counts: a run that asks again can be told no after a yes, and yes after a no.
        """
        with self.database.write() as connection:
            ledger_repository.lock(connection, project)
            earlier = _approvals(connection, project=project, verdict_id=verdict_id)
            last = earlier[-1] if earlier else None
            if last is not None and (last.decision, last.by, last.at) == (decision, by, at):
                return last
            record = ApprovalRecord(project, verdict_id, len(earlier) + 1, decision, by, requested_by, reason, at)
            connection.execute(t.approvals.insert(), dataclasses.asdict(record))
            ledger_repository.append_approval(connection, dataclasses.asdict(record))
        return record


def _approvals(connection: sa.Connection, *, project: str, verdict_id: str) -> list[ApprovalRecord]:
    table = t.approvals.c
    query = sa.select(t.approvals).where(table.project == project, table.verdict_id == verdict_id)
    return [ApprovalRecord(**row) for row in connection.execute(query.order_by(table.sequence)).mappings()]


class ReleaseRepository(Repository):
    """The releases: each with its model version and verdict."""

    def get(self, project: str, release_id: str) -> ReleaseRef | None:
        return next(iter(self._select(t.releases.c.project == project, t.releases.c.release_id == release_id)), None)

    def of_model(self, project: str, model_version: str) -> ReleaseRef | None:
        """Return the newest release of a model version: what a rollback starts again."""
        rows = self._select(t.releases.c.project == project, t.releases.c.model_version == model_version)
        return rows[-1] if rows else None

    def facts(self, project: str, release_id: str) -> Mapping[str, Any] | None:
        """Return a release's whole row: digest, object key, infra check, run, time."""
        query = sa.select(t.releases).where(t.releases.c.project == project, t.releases.c.release_id == release_id)
        return self.database.record(dict, query)

    def record(
        self,
        release: ReleaseRef,
        *,
        bento_digest: str,
        object_key: str,
        infra_check: Mapping[str, Any],
        fence: Fence,
        run_id: str,
        now: dt.datetime,
    ) -> ReleaseRef:
        """Write a release; the first record of an id stays and is returned."""
        row = {
            **dataclasses.asdict(release),
            "bento_digest": bento_digest,
            "object_key": object_key,
            "infra_check": dict(infra_check),
            "run_id": run_id,
            "created_at": now,
        }
        with self.database.write(fence) as connection:
            if insert_ignore(connection, t.releases, [row]):
                ledger_repository.append_release(connection, row)
        return self.get(release.project, release.release_id) or release

    def _select(self, *conditions: sa.ColumnElement[bool]) -> list[ReleaseRef]:
        query = sa.select(*columns_of(t.releases, ReleaseRef)).where(*conditions)
        return self.database.records(ReleaseRef, query.order_by(t.releases.c.created_at, t.releases.c.release_id))
