"""The chain by itself: what is hashed, in which order, and that no field can change unseen."""

import dataclasses
import datetime as dt
import hashlib
import json
import random

import pytest

from pipeline_tasks.catalog import ledger

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
VERDICT = {
    "project": "pets",
    "verdict_id": "v1",
    "answer": "promote",
    "champion_version": None,
    "contender_version": "m1",
    "exam_ids": ["e1"],
    "reasons": {"code": "FLOORS_MET", "texts": ["größer"]},
    "policy_id": "p",
    "object_key": "verdicts/pets/v1",
    "digest": "d" * 64,
    "run_id": "r",
    "created_at": NOW,
}
APPROVAL = {
    "project": "pets",
    "verdict_id": "v1",
    "sequence": 1,
    "decision": "approve",
    "by": "ann",
    "requested_by": None,
    "reason": "",
    "at": NOW,
}
ROUTE = {
    "project": "pets",
    "generation": 1,
    "commit_id": "c1",
    "parent_commit_id": None,
    "attempt": "a",
    "action": "promote",
    "champion_version": "m1",
    "verdict_id": "v1",
    "actor": "gate",
    "reason": "won",
    "body": {"entries": [], "shadows": [], "serving": {"review_below": 0.6}},
    "created_at": NOW,
}

HASHED = [
    field.name for field in dataclasses.fields(ledger.LedgerEntry) if field.name != "signature"
]  # which is made of it


HASHES = ["db22ebe4376c", "645b22c75e83", "75142b24cd5d", "6b9372cfadb8"]


def drafts() -> list[ledger.Draft]:
    later = NOW + dt.timedelta(hours=1)
    return [
        ledger.verdict_draft(VERDICT),
        ledger.approval_draft(APPROVAL, evidence_digest="d" * 64),
        ledger.route_draft(ROUTE, evidence_digest="d" * 64),
        ledger.verdict_draft(VERDICT | {"verdict_id": "v2", "created_at": later}),
    ]


def test_anybody_can_compute_the_hash_from_the_printed_entry():
    first, second = ledger.chain(drafts()[:2])
    printed = json.loads(json.dumps(ledger.entry_json(second)))
    entry_hash = printed.pop("entry_hash")
    text = json.dumps(printed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == entry_hash
    assert printed["previous_hash"] == first.entry_hash
    assert printed["at"] == "2026-01-01T12:00:00.000000+00:00"


def test_the_format_of_entries_stays_as_it_is():
    """A change of what is hashed would make every ledger out there look forged."""
    assert [entry.entry_hash[:12] for entry in ledger.chain(drafts())] == HASHES


def test_rows_in_any_order_give_the_same_chain():
    expected = ledger.chain(drafts())
    for seed in range(20):
        shuffled = random.Random(seed).sample(drafts(), 4)
        assert ledger.chain(ledger.in_order(shuffled)) == expected


def test_rows_of_one_moment_keep_their_numbers_in_order():
    routes = [ledger.route_draft(ROUTE | {"generation": number}, evidence_digest=None) for number in (10, 9, 2)]
    assert [draft.body["generation"] for draft in ledger.in_order(routes)] == [2, 9, 10]


@pytest.mark.parametrize("field", HASHED)
def test_no_field_of_an_entry_can_change_unseen(field):
    entries = ledger.chain(drafts())
    values = {"sequence": 9, "body": {}, "at": NOW + dt.timedelta(microseconds=1)}
    changed = dataclasses.replace(entries[1], **{field: values.get(field, "other")})
    assert list(ledger.chain_faults([entries[0], changed, *entries[2:]])) != []
    assert list(ledger.chain_faults(entries)) == []


@pytest.mark.parametrize("name", sorted(set(VERDICT) - {"project"}))
def test_no_fact_of_a_verdict_can_change_unseen(name):
    entries = ledger.chain(drafts()[:1])
    changed = NOW - dt.timedelta(days=1) if name == "created_at" else "other"
    assert list(ledger.row_faults(entries, [ledger.verdict_draft(VERDICT | {name: changed})])) != []


@pytest.mark.parametrize("name", sorted(set(APPROVAL) - {"project"}))
def test_no_fact_of_an_approval_can_change_unseen(name):
    entries = ledger.chain(drafts()[1:2])
    changed = NOW - dt.timedelta(days=1) if name == "at" else "other"
    row = APPROVAL | {name: changed}
    assert list(ledger.row_faults(entries, [ledger.approval_draft(row, evidence_digest="d" * 64)])) != []


@pytest.mark.parametrize("name", sorted(set(ROUTE) - {"project"}))
def test_no_fact_of_a_route_can_change_unseen(name):
    entries = ledger.chain(drafts()[2:3])
    changed = NOW - dt.timedelta(days=1) if name == "created_at" else "other"
    row = ROUTE | {name: changed}
    assert list(ledger.row_faults(entries, [ledger.route_draft(row, evidence_digest="d" * 64)])) != []


def test_an_entry_of_an_older_release_may_tell_less():
    (draft,) = drafts()[:1]
    told = dataclasses.replace(draft, body={"answer": "promote"})
    assert list(ledger.row_faults(ledger.chain([told]), [draft])) == []


def test_a_route_of_today_says_the_rule_of_its_time_and_an_older_entry_need_not():
    body = ROUTE["body"] | {"serving": {"review_below": 0.6, "approval": "always"}}
    today = ledger.route_draft(ROUTE | {"body": body}, evidence_digest=None)
    assert today.body["approval"] == "always"
    older = ledger.route_draft(ROUTE, evidence_digest=None)
    assert "approval" not in older.body
    told = dataclasses.replace(today, body={name: today.body[name] for name in older.body})
    assert list(ledger.row_faults(ledger.chain([told]), [today])) == []


def test_a_subject_that_is_told_twice_is_named():
    entries = ledger.chain([*drafts(), drafts()[1]])
    assert list(ledger.chain_faults(entries)) == ["entry 5 (approval v1/1) must be told once (got it in entry 2 too)"]


def test_a_first_entry_that_follows_something_is_named():
    forged = dataclasses.replace(ledger.chain(drafts())[0], previous_hash="f" * 64)
    messages = list(ledger.chain_faults([dataclasses.replace(forged, entry_hash=ledger.hash_of(forged))]))
    assert messages == [
        (
            "entry 1 (verdict v1) must follow nothing with the hash none (got ffffffffffff): "
            "one of the two was changed, removed, inserted or moved"
        )
    ]
