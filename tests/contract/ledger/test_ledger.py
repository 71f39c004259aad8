"""The ledger on SQLite and PostgreSQL: written with its rows, one chain under racing writers, tampering is named."""

import dataclasses
import datetime as dt
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic import command

from pipeline_tasks.catalog import ledger, ledger_repository, migrate
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.ledger_repository import LedgerRepository
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.errors import InputError, LostRace
from pipeline_tasks.invariants.check import check
from tests.ledger_case import NAME, NOW, Case, minutes

KINDS = ["verdict", "approval", "route", "verdict", "verdict", "route", "route"]


def count(database, table) -> int:
    with database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def test_each_verdict_approval_and_route_has_an_entry(case, entries, faults):
    case.tell()
    assert [entry.kind for entry in entries()] == KINDS
    assert [entry.sequence for entry in entries()] == [1, 2, 3, 4, 5, 6, 7]
    assert [entry.at for entry in entries()] == [minutes(number) for number in range(1, 8)]
    assert list(ledger.chain_faults(entries())) == []
    assert faults() == []


def test_an_entry_says_who_decided_what_why_and_on_which_evidence(case, entries, database):
    case.tell()
    verdict, approval, route = entries()[:3]
    (digest, *_others) = [stored.digest for stored in case.verdicts.history(NAME)]
    assert {entry.evidence_digest for entry in (verdict, approval, route)} == {digest}
    assert verdict.body["reasons"] == {"code": "CODE", "texts": ["it gains 3 points", "no class lost"]}
    assert (verdict.body["answer"], verdict.body["contender_version"]) == ("promote", "v1")
    assert dict(approval.body) == {
        "verdict_id": "verdict-v1",
        "sequence": 1,
        "decision": "approve",
        "by": "ann",
        "requested_by": "bob",
        "reason": "looks good",
    }
    assert (route.body["action"], route.body["generation"], route.body["actor"]) == ("promote", 1, "gate")
    assert LedgerRepository(database).find(NAME, "route", "fashion-commit-1") == route
    assert LedgerRepository(database).find(NAME, "route", "nothing") is None


def test_the_same_again_writes_no_second_entry(case, entries):
    case.answer(case.judge("v1"))
    route = case.move("v1")
    case.answer(case.judge("v1"))
    facts = {"action": "promote", "attempt": "a", "verdict_id": "verdict-v1", "actor": "gate", "reason": "again"}
    case.serving.commit_route(route, **facts, serving={}, at=NOW)
    assert [entry.kind for entry in entries()] == ["verdict", "approval", "route"]


def test_what_was_refused_writes_no_entry(case, entries):
    case.answer(case.judge("v1"), "reject")
    route = case.move("v1")
    case.answer("verdict-v1", "reject")  # the same answer again, from a retry
    facts = {"action": "promote", "attempt": "a", "verdict_id": "verdict-v1", "actor": "gate", "reason": "late"}
    with pytest.raises(LostRace, match="must follow None"):
        case.serving.commit_route(dataclasses.replace(route, commit_id="other"), **facts, serving={}, at=NOW)
    assert [entry.kind for entry in entries()] == ["verdict", "approval", "route"]


def test_an_approval_whose_reason_is_no_text_is_not_written(case, entries, database):
    facts = {"project": NAME, "verdict_id": case.judge("v1"), "decision": "approve", "by": "ann", "requested_by": None}
    with pytest.raises(InputError, match=r"reason of the approval must be text \(got 5\)"):
        case.approvals.append(**facts, reason=5, at=NOW)
    assert count(database, t.approvals) == 0
    assert [entry.kind for entry in entries()] == ["verdict"]


@pytest.mark.parametrize("table", [t.verdicts, t.approvals, t.routes], ids=lambda table: table.name)
def test_a_row_whose_entry_cannot_be_written_is_not_written(case, database, monkeypatch, table):
    def fail(*_arguments):
        raise ZeroDivisionError("the ledger is full")

    case.judge("v0")
    before = count(database, table)
    monkeypatch.setattr(ledger_repository, "append", fail)
    write = {"verdicts": lambda: case.judge("v1"), "approvals": lambda: case.answer("verdict-v0")}
    with pytest.raises(ZeroDivisionError, match="the ledger is full"):
        write.get(table.name, lambda: case.move("v0"))()
    assert count(database, table) == before


def test_projects_have_chains_of_their_own(case, entries, faults, database, object_store):
    other = Case(database, object_store, project="texts")
    other.judge("w1")
    case.tell()
    other.move("w1")
    assert [entry.sequence for entry in entries("texts")] == [1, 2]
    assert LedgerRepository(database).projects() == ["fashion", "texts"]
    assert faults() == []


def test_two_threads_that_append_fifty_entries_each_leave_one_chain(case, entries, faults):
    def judge(writer: int) -> None:
        for number in range(50):
            case.judge(f"{writer}-{number}")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(judge, range(2)))
    assert [entry.sequence for entry in entries()] == list(range(1, 101))
    assert faults(deep=False) == []


def test_a_verdict_an_approval_and_a_promotion_at_one_moment_all_succeed(case, entries, faults):
    for number in range(20):
        case.judge(f"asked-{number}")
    writers = (
        lambda: [case.judge(f"new-{number}") for number in range(20)],
        lambda: [case.answer(f"verdict-asked-{number}") for number in range(20)],
        lambda: [case.move(f"asked-{number}") for number in range(20)],
    )
    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(writer) for writer in writers]:
            future.result(timeout=120)
    kinds = [entry.kind for entry in entries()]
    assert (kinds.count("verdict"), kinds.count("approval"), kinds.count("route")) == (40, 20, 20)
    assert faults(deep=False) == []


def test_two_contenders_at_one_moment_are_not_both_the_same_use_of_an_exam(case):
    """The level of confidence falls with each use: two that count as the same one would both get the higher level."""
    case.judge("v0", champion="none")
    first = case.verdicts.history(NAME)[0]

    def judge(number: int) -> int | None:
        ref = dataclasses.replace(first.ref, verdict_id=f"verdict-{number}")
        fence = case.database.acquire(f"judge/{number}", Attempt("run-1", "judge"), now=NOW)
        use = case.verdicts.count_uses(NAME, "exam1") + 1
        try:
            case.verdicts.record(dataclasses.replace(first, ref=ref), exam_use=use, fence=fence)
        except LostRace:
            return None
        return use

    with ThreadPoolExecutor(8) as pool:
        uses = [use for use in pool.map(judge, range(80)) if use is not None]
    assert sorted(uses) == list(range(2, len(uses) + 2))


LATER = ("report_digest",)  # columns that migrations after the ledger's brought


def test_an_older_catalog_gets_its_ledger_when_it_is_upgraded(catalog_url, object_store):
    with migrate._connection(catalog_url) as connection:
        command.upgrade(migrate._config(connection), "0001")
    told, expected = _told_rows(object_store)
    engine = create_engine(catalog_url)
    with engine.begin() as connection:
        for table, rows in told.items():
            connection.execute(table.insert(), list(reversed(rows)))
    assert migrate.upgrade(catalog_url) == migrate.head_revision()

    entries = LedgerRepository(Database(engine)).entries(NAME)
    assert entries == expected
    messages = check(Database(engine), object_store, now=minutes(60), deep=True)
    assert [violation for violation in messages if violation.invariant == "I10"] == []
    engine.dispose()


def _told_rows(store):
    """Return the rows of a told history by table, and the entries that were written with them."""
    engine = create_engine("sqlite://")
    t.metadata.create_all(engine)
    database = Database(engine)
    Case(database, store).tell()
    with engine.connect() as connection:
        rows = {
            table: [
                {name: value for name, value in row.items() if name not in LATER}
                for row in connection.execute(sa.select(table)).mappings()
            ]
            for table in (t.verdicts, t.approvals, t.routes)
        }
        entries = ledger_repository.read_entries(connection, NAME)
    engine.dispose()
    return rows, entries


def test_a_reader_sees_rows_and_entries_of_one_moment(case, database):
    case.judge("v1")
    with database.read() as connection:
        before = ledger_repository.read_entries(connection, NAME)
        case.judge("v2")
        drafts = ledger_repository.read_drafts(connection, NAME)
    assert list(ledger.row_faults(before, drafts)) == []


def test_times_of_entries_keep_their_microseconds(case, entries, faults):
    case.judge("v1", at=1 / 7)
    assert entries()[0].at == minutes(1 / 7)
    assert entries()[0].at.microsecond
    assert entries()[0].at.tzinfo == dt.UTC
    assert faults() == []
