"""The history, what served at a time, and anchors, from functions and from the shell."""

import dataclasses
import datetime as dt
import json

import pytest

from pipeline_tasks.audit import history
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.contracts import RouteEntry
from pipeline_tasks.errors import ConfigError
from tests.ledger_case import NAME, minutes


def test_the_ledger_is_told_one_entry_a_line(case, parts):
    case.tell()
    *lines, empty, anchor = history.ledger_text(parts.database, parts.store, NAME).splitlines()
    head = history.ledger_rows(parts.database, NAME)[-1]
    told = [line[:25] + line[39:] for line in lines]
    assert told == [
        "   1  2026-01-01 12:01:00  verdict    promote  v1 against nobody: it gains 3 points  [verdict-v1]",
        "   2  2026-01-01 12:02:00  approval   yes  by ann on verdict verdict-v1: looks good",
        "   3  2026-01-01 12:03:00  promotion  generation 1: v1  by gate: it won",
        "   4  2026-01-01 12:04:00  verdict    keep  v2 against v1: it gains 3 points  [verdict-v2]",
        "   5  2026-01-01 12:05:00  verdict    promote  v3 against v1: it gains 3 points  [verdict-v3]",
        "   6  2026-01-01 12:06:00  promotion  generation 2: v3  by gate: it won",
        "   7  2026-01-01 12:07:00  rollback   generation 3: v1  by ops: complaints",
    ]
    assert lines[-1][27:39] == head["entry_hash"][:12]
    assert (empty, anchor.split(": ")[1]) == ("", f"fashion:7:{head['entry_hash']}")


def test_the_steps_of_a_rollout_and_its_shares_are_told(case, parts):
    case.judge("v1", at=1)
    head = case.move("v1", at=2)
    case.judge("v2", champion="v1", at=3)
    entries = (*head.entries, RouteEntry("d-v2", "v2", "http://127.0.0.1:2", 5))
    entries = (dataclasses.replace(entries[0], weight=95), entries[1])
    step = dataclasses.replace(head, generation=2, commit_id="c2", parent_commit_id=head.commit_id, entries=entries)
    facts = {"action": "canary", "attempt": "x/ship/1", "verdict_id": "verdict-v1", "actor": "gate"}
    case.serving.commit_route(step, **facts, reason="5 % to v2 beside v1", serving={}, at=minutes(4))
    case.move("v1", action="canary_failed", verdict_id="verdict-v1", at=5)
    told = [line[41:] for line in history.ledger_text(parts.database, parts.store, NAME).splitlines()]
    assert told[3] == "canary     generation 2: v1  by gate: 5 % to v2 beside v1"
    assert told[4] == "canary failed  generation 3: v1  by ops: complaints"
    assert [row["shares"] for row in history.route_rows(parts.database, NAME)] == [
        {"v1": 100},
        {"v1": 95, "v2": 5},
        {"v1": 100},
    ]
    assert "served v1 (generation 2: v1 95 %, v2 5 %)" in history.at_text(
        history.history_at(parts.database, parts.store, NAME, at=minutes(4))
    )


def test_a_reason_of_many_lines_stays_on_one(case, parts):
    verdict_id = case.judge("v1")
    facts = {"project": NAME, "verdict_id": verdict_id, "decision": "reject", "by": "ann", "requested_by": None}
    case.approvals.append(**facts, reason="no\n   7  forged", at=minutes(1))
    assert "approval no by ann on verdict verdict-v1: no 7 forged" in " ".join(
        history.ledger_text(parts.database, parts.store, NAME).split()
    )
    assert len(history.ledger_text(parts.database, parts.store, NAME).splitlines()) == 4


def test_the_rows_of_who_served_have_their_entries(case, parts):
    case.tell()
    rows = history.route_rows(parts.database, NAME)
    assert list(rows[0]) == [
        "generation",
        "at",
        "action",
        "champion",
        "shares",
        "verdict_id",
        "reason",
        "actor",
        "ledger_sequence",
        "entry_hash",
    ]
    entries = {entry["sequence"]: entry for entry in history.ledger_rows(parts.database, NAME)}
    assert [row["ledger_sequence"] for row in rows] == [3, 6, 7]
    assert [row["entry_hash"] for row in rows] == [entries[number]["entry_hash"] for number in (3, 6, 7)]


def test_history_from_the_shell(case, shell):
    assert shell("history", NAME)[:2] == (0, "fashion has no champion yet: nothing was judged.\n")
    assert json.loads(shell("history", NAME, "--json")[1]) == {"rows": []}
    case.tell()
    assert shell("history", NAME)[1].count("\n") == 9
    assert [row["action"] for row in json.loads(shell("history", NAME, "--json")[1])["rows"]] == [
        "promote",
        "promote",
        "rollback",
    ]
    entries = json.loads(shell("history", NAME, "--ledger", "--json")[1])["rows"]
    assert [entry["kind"] for entry in entries][:3] == ["verdict", "approval", "route"]
    assert entries[1]["previous_hash"] == entries[0]["entry_hash"]


@pytest.mark.parametrize(
    ("at", "champion", "until"),
    [(2.9, None, 3), (3, ("v1", 1), 6), (5.9, ("v1", 1), 6), (6, ("v3", 2), 7), (7, ("v1", 3), None)],
)
def test_what_served_at_a_time(case, parts, at, champion, until):
    case.tell()
    state = history.history_at(parts.database, parts.store, NAME, at=minutes(at))
    assert (state["champion"], state.get("generation")) == (champion or (None, None))
    assert state["until"] == (minutes(until) if until else None)


def test_what_served_says_since_when_by_which_verdict_and_who_approved(case, parts):
    case.tell()
    assert history.at_text(history.history_at(parts.database, parts.store, NAME, at=minutes(7.5))).splitlines() == [
        "At 2026-01-01 12:07:30 UTC fashion served v1 (generation 3: v1 100 %).",
        "since     2026-01-01 12:07:00, to this day",
        "how       rollback by ops: complaints",
        "verdict   verdict-v1 said promote: it gains 3 points; no class lost",
        "approval  yes, by ann at 2026-01-01 12:02:00: looks good",
    ]
    assert (
        history.at_text(history.history_at(parts.database, parts.store, NAME, at=minutes(6))).splitlines()[4]
        == "approval  nobody was asked"
    )
    assert history.at_text(history.history_at(parts.database, parts.store, NAME, at=minutes(0))) == (
        "At 2026-01-01 12:00:00 UTC nothing of fashion served, until 2026-01-01 12:03:00."
    )
    assert history.at_text(history.history_at(parts.database, parts.store, "texts", at=minutes(0))).endswith(
        "nothing of texts served, to this day."
    )


def test_what_served_without_a_recorded_verdict_says_so(case, parts):
    case.move("v1")
    assert "verdict-v1 is not recorded" in history.at_text(
        history.history_at(parts.database, parts.store, NAME, at=minutes(1))
    )


def test_history_at_a_time_from_the_shell(case, shell):
    case.tell()
    code, out, _ = shell("history", NAME, "--at", "2026-01-01T13:06:30+01:00", "--json")
    assert (code, json.loads(out)["champion"], json.loads(out)["shares"]) == (0, "v3", {"v3": 100})
    assert shell("history", NAME, "--at", "2026-01-01T12:06:30")[1].startswith("At 2026-01-01 12:06:30 UTC fashion")
    code, _, err = shell("history", NAME, "--at", "yesterday")
    assert (code, "--at must be an ISO time such as 2026-11-21T14:00:00Z (got 'yesterday')" in err) == (2, True)


def test_a_time_that_has_not_come_is_refused():
    with pytest.raises(ConfigError, match="--at must be a time that has come"):
        history.parse_time("2026-01-01T12:00:01", now=minutes(0))
    assert history.parse_time("2026-01-01T14:00+02:00", now=minutes(0)) == minutes(0)
    assert history.parse_time("2026-01-01", now=minutes(0)) == dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


HASH = "a" * 64


def test_anchors_name_project_number_and_hash():
    texts = [f"pets:3:{HASH}", f"pets:4:{HASH}", f"texts:1:{HASH}"]
    assert history.parse_anchors(texts, projects=[]) == {"pets": [(3, HASH), (4, HASH)], "texts": [(1, HASH)]}
    assert history.parse_anchors([f"3:{HASH}"], projects=["pets"]) == {"pets": [(3, HASH)]}


@pytest.mark.parametrize(
    "text", ["", "x", "3", f"x:{HASH}", f"pets:x:{HASH}", "3:abc", f"3:{'A' * 64}", f"a:b:3:{HASH}"]
)
def test_an_anchor_of_another_form_is_refused(text):
    with pytest.raises(ConfigError, match="--anchor must be PROJECT:SEQ:HASH with the whole hash"):
        history.parse_anchors([text], projects=["pets"])


@pytest.mark.parametrize("projects", [[], ["pets", "texts"]])
def test_an_anchor_without_its_project_is_refused_where_that_is_not_clear(projects):
    with pytest.raises(ConfigError, match="--anchor must name its project"):
        history.parse_anchors([f"3:{HASH}"], projects=projects)


def test_verify_names_a_changed_row_and_an_anchor_that_no_longer_holds(case, shell, parts):
    verdict_id = case.judge("v1")
    (entry,) = history.ledger_rows(parts.database, NAME)
    assert shell("verify", "--anchor", f"1:{entry['entry_hash']}")[0] == 0
    code, out, _ = shell("verify", "--anchor", f"{NAME}:1:{HASH}")
    assert (code, out.startswith(f"I10 fashion: entry 1 must have the hash {HASH} that was noted down")) == (1, True)
    case.tamper(t.verdicts, t.verdicts.update().values(answer="keep"))
    code, out, _ = shell("verify")
    assert (code, f"I10 fashion: entry 1 (verdict {verdict_id}) says answer 'promote'" in out) == (1, True)
