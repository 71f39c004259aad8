"""Seals on SQLite and PostgreSQL: the same rows have the same marks, and an owner's edit is named."""

from types import SimpleNamespace

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.ledger import seals
from pipeline_tasks.invariants.check import check
from pipeline_tasks.orchestration.ledger_seals import seal
from tests.ledger_case import NAME, minutes

SEALED = "2e8943fa336b"


def test_h8_rows_have_one_mark_on_every_database(case, database, object_store, entries):
    case.tell()
    seal(SimpleNamespace(database=database, store=object_store), NAME)
    (entry,) = seals(entries())
    assert entry.evidence_digest[:12] == SEALED

    def faults():
        return [
            violation.message
            for violation in check(database, object_store, now=minutes(60))
            if violation.invariant == "I11"
        ]

    assert faults() == []
    case.tamper(t.verdicts, t.verdicts.update().where(t.verdicts.c.verdict_id == "verdict-v2").values(run_id="x"))
    assert "rows of verdicts that are not as they were sealed: verdict-v2" in faults()[1]
