"""A project with a short history in the catalog: judged, approved, promoted, kept, rolled back."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.catalog.verdicts import ApprovalRepository, VerdictRecord, VerdictRepository
from pipeline_tasks.contracts import Attempt, Route, RouteEntry, VerdictRef, canonical_json, sha256_hex
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.invariants.check import check
from tests.documents import verdict_document

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
NAME = "fashion"


def minutes(count: float) -> dt.datetime:
    return NOW + dt.timedelta(minutes=count)


class Case:
    """Writes the history of one project through the repositories, and changes it behind their backs."""

    def __init__(self, database: Database, store: ObjectStore, *, project: str = NAME) -> None:
        self.database, self.store, self.project = database, store, project
        self.verdicts = VerdictRepository(database)
        self.approvals = ApprovalRepository(database)
        self.serving = ServingRepository(database)

    def judge(
        self,
        version: str,
        *,
        answer: str = "promote",
        champion: str | None = None,
        at: float = 0,
        report: bytes | None = None,
    ) -> str:
        """Write a verdict with its evidence; its id is `verdict-<version>`. Older releases recorded no report."""
        key, answers = f"verdicts/{self.project}/verdict-{version}", f"answers of {version}".encode()
        said = {"project": self.project, "contender": version, "champion": champion, "answer": answer}
        document = canonical_json(verdict_document(**said, exam_ids=["exam1"], evidence=answers))
        self.store.put(f"{key}/verdict.json", document)
        self.store.put(f"{key}/evidence.parquet", answers)
        reasons = ("it gains 3 points", "no class lost")
        ref = VerdictRef(self.project, f"verdict-{version}", answer, champion, version, reasons, key, "CODE")
        digest = None
        if report is not None:
            self.store.put(f"{key}/report.html", report)
            digest = sha256_hex(report)
        record = VerdictRecord(ref, ("exam1",), "policy", sha256_hex(document), "run-1", minutes(at), digest)
        fence = self.database.acquire(f"judge/{self.project}/{version}", Attempt("run-1", "judge"), now=NOW)
        use = self.verdicts.count_uses(self.project, "exam1") + 1
        return self.verdicts.record(record, exam_use=use, fence=fence).ref.verdict_id

    def answer(self, verdict_id: str, decision: str = "approve", *, by: str = "ann", at: float = 0) -> None:
        facts = {"project": self.project, "verdict_id": verdict_id, "decision": decision, "by": by}
        self.approvals.append(**facts, requested_by="bob", reason="looks good", at=minutes(at))

    def move(
        self,
        version: str,
        *,
        action: str = "promote",
        verdict_id: str | None = None,
        at: float = 0,
        run: str | None = None,
    ) -> Route:
        head = self.serving.head_route(self.project)
        generation = head.generation + 1 if head else 1
        route = Route(
            project=self.project,
            generation=generation,
            commit_id=f"{self.project}-commit-{generation}",
            parent_commit_id=head.commit_id if head else None,
            champion_version=version,
            entries=(RouteEntry(f"d-{version}", version, "http://127.0.0.1:1", 100),),
        )
        return self.serving.commit_route(
            route,
            action=action,
            attempt=f"{run or f'run-{generation}'}/ship/1",
            verdict_id=verdict_id or f"verdict-{version}",
            actor="gate" if action == "promote" else "ops",
            reason="it won" if action == "promote" else "complaints",
            serving={"review_below": 0.6},
            at=minutes(at),
        )

    def tell(self) -> None:
        """Write seven entries: v1 judged, approved, promoted; v2 kept; v3 judged, promoted, rolled back to v1."""
        self.answer(self.judge("v1", at=1), at=2)
        self.move("v1", at=3)
        self.judge("v2", answer="keep", champion="v1", at=4)
        self.judge("v3", champion="v1", at=5)
        self.move("v3", at=6)
        self.move("v1", action="rollback", at=7)

    def tamper(self, table: sa.Table, *statements: Any) -> None:
        """Run statements on a table whose triggers are gone, as somebody with the database's password could."""
        with self.database.write() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"DROP TRIGGER {table.name}_append_only ON {table.name}")
            else:
                for verb in ("UPDATE", "DELETE"):
                    connection.exec_driver_sql(f"DROP TRIGGER {table.name}_append_only_{verb}")
            for statement in statements:
                connection.execute(statement)


def entry_of(sequence: int) -> Any:
    """Return the condition of one entry."""
    return t.ledger.c.sequence == sequence


def faults_of(database: Database, store: ObjectStore):
    """Return a call that tells what `dethrone verify` says of the ledger."""

    def call(*, anchors=None, deep=True):
        violations = check(database, store, now=minutes(60), anchors=anchors, deep=deep)
        return [violation.message for violation in violations if violation.invariant == "I10"]

    return call
