"""The history, what served at a time, anchors, and verdicts computed again, from functions and from the shell."""

import dataclasses
import datetime as dt
import json
import types

import pytest
import sqlalchemy as sa

from pipeline_tasks.audit import history, replay
from pipeline_tasks.backup import verify
from pipeline_tasks.catalog import ledger_repository
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.verdicts import VerdictRepository
from pipeline_tasks.cli import main
from pipeline_tasks.contracts import RouteEntry, sha256_hex
from pipeline_tasks.errors import ConfigError, DataCorrupt
from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.evaluation.task import judge
from pipeline_tasks.orchestration import resources
from tests.ledger_case import NAME, Case, minutes
from tests.unit.evaluation import support as s

LABELS = [s.CLASSES[index % 2] for index in range(120)]


@pytest.fixture
def parts(database, object_store, tmp_path):
    settings = types.SimpleNamespace(projects_dir=tmp_path, home=tmp_path, signing_key=None)
    return types.SimpleNamespace(database=database, store=object_store, labeling=None, settings=settings)


@pytest.fixture
def case(database, object_store):
    return Case(database, object_store)


@pytest.fixture
def shell(parts, monkeypatch, capsys):
    """Run a command and return its exit code, its output and its errors."""
    monkeypatch.setattr(resources, "build_resources", lambda: parts)
    monkeypatch.setattr(verify, "build_resources", lambda: parts)

    def run(*arguments):
        code = main.main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


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


@pytest.fixture
def judged(database, object_store):
    """Return a real verdict: `new` beats `old` on the current of two exams."""

    def give(version="new"):
        exams = [s.put_exam(object_store, epoch=epoch, labels=LABELS) for epoch in (1, 2)]
        old = s.answers(1, LABELS, wrong=range(10)) | s.answers(2, LABELS, wrong=range(24))
        new = s.answers(1, LABELS, wrong=range(10)) | s.answers(2, LABELS)
        world = s.World(object_store, {"old": s.TableModel(old), version: s.TableModel(new)}, exams)
        contender, champion = s.put_model(object_store, version), s.put_model(object_store, "old")
        return judge(s.project(), contender, exams, champion=champion, context=world.context(database))

    return give


def test_a_verdict_replays_to_the_same_bytes(judged, parts, shell):
    ref = judged()
    replayed = replay.replay(parts.database, parts.store, ref.verdict_id[:8])
    assert (replayed.verdict_id, replayed.same, replayed.differences) == (ref.verdict_id, True, ())
    code, out, _ = shell("replay", ref.verdict_id)
    assert (code, out.split(":")[0]) == (0, "same")
    code, out, _ = shell("replay", ref.verdict_id[:6], "--json", "--project", "fashion")
    assert (code, json.loads(out)["same"], json.loads(out)["answer"]) == (0, True, "promote")


def rewrite(parts, ref, change):
    """Change verdict.json in the store and return its new bytes."""
    key = f"{ref.object_key}/verdict.json"
    document = json.loads(parts.store.objects[key])
    change(document)
    parts.store.objects[key] = vd.document_bytes(document)
    return parts.store.objects[key]


def test_a_changed_answer_is_named_by_hash_and_path(judged, parts, shell):
    ref = judged()
    data = rewrite(parts, ref, lambda document: document["decision"].update(answer="keep"))
    replayed = replay.replay(parts.database, parts.store, ref.verdict_id)
    digest = VerdictRepository(parts.database).find("fashion", ref.verdict_id).digest
    assert replayed.differences == (
        f"verdict.json must hash to {digest}, as the catalog says (got {sha256_hex(data)})",
        f"verdict.json must hash to what the ledger says, {digest} (got {sha256_hex(data)})",
        'decision.answer: stored "keep", computed "promote"',
    )
    code, out, _ = shell("replay", ref.verdict_id)
    assert (code, out.splitlines()[0].split(":")[0], len(out.splitlines())) == (1, "different", 4)


def test_a_catalog_that_was_adapted_to_a_changed_verdict_does_not_help(judged, parts):
    ref = judged()
    data = rewrite(parts, ref, lambda document: document["decision"].update(answer="keep"))
    case = Case(parts.database, parts.store)
    case.tamper(t.verdicts, t.verdicts.update().values(digest=sha256_hex(data)))
    assert [
        difference[:43] for difference in replay.replay(parts.database, parts.store, ref.verdict_id).differences
    ] == [
        "verdict.json must hash to what the ledger s",
        'decision.answer: stored "keep", computed "p',
    ]


def test_a_row_that_points_at_another_projects_genuine_verdict_is_different(judged, parts, database):
    ref = judged()
    with database.write() as connection:
        forged = dict(connection.execute(sa.select(t.verdicts)).mappings().one())
        forged |= {"project": "shoes", "contender_version": "evil", "champion_version": None, "exam_ids": ["e9"]}
        connection.execute(t.verdicts.insert(), forged)
        ledger_repository.append_verdict(connection, forged)
    assert replay.replay(parts.database, parts.store, ref.verdict_id, project="fashion").same
    exams = list(VerdictRepository(database).find("fashion", ref.verdict_id).exam_ids)
    assert replay.replay(parts.database, parts.store, ref.verdict_id, project="shoes").differences == (
        "project: the catalog says 'shoes', the document 'fashion'",
        "contender: the catalog says 'evil', the document 'new'",
        "champion: the catalog says None, the document 'old'",
        f"exams: the catalog says ['e9'], the document {exams}",
    )


def test_a_verdict_that_is_not_in_the_ledger_is_different(judged, parts):
    ref = judged()
    Case(parts.database, parts.store).tamper(t.ledger, t.ledger.delete())
    (difference,) = replay.replay(parts.database, parts.store, ref.verdict_id).differences
    assert difference.startswith("verdict.json must hash to what the ledger says, no entry")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("evidence.parquet", b"x"), "evidence.parquet must hash to"),
        (("evidence.parquet", None), "must hold verdict.json and evidence.parquet"),
        (("verdict.json", None), "must hold verdict.json and evidence.parquet"),
        (("verdict.json", b"not json"), "verdict.json must be a verdict (got JSONDecodeError)"),
        (("verdict.json", b"[]"), "verdict.json must be a verdict (got TypeError)"),
    ],
)
def test_a_broken_object_is_named(judged, parts, shell, change, message):
    ref, (name, data) = judged(), change
    key = f"{ref.object_key}/{name}"
    if data is None:
        del parts.store.objects[key]
    else:
        parts.store.objects[key] = data
    code, out, _ = shell("replay", ref.verdict_id)
    assert code == 1
    assert message in out


def test_a_document_without_a_question_cannot_be_computed_again(judged, parts):
    ref = judged()
    rewrite(parts, ref, lambda document: document.pop("question"))
    assert (
        "verdict.json must be a verdict that can be computed again (got KeyError"
        in (replay.replay(parts.database, parts.store, ref.verdict_id).differences[-1])
    )


def test_the_same_words_in_other_bytes_are_different(judged, parts):
    ref = judged()
    key = f"{ref.object_key}/verdict.json"
    parts.store.objects[key] = json.dumps(json.loads(parts.store.objects[key]), indent=1).encode()
    assert (
        replay.replay(parts.database, parts.store, ref.verdict_id).differences[-1]
        == "verdict.json says the same in other bytes"
    )


def test_a_verdict_of_another_rule_says_which_release_can_replay_it(judged, parts, shell, monkeypatch):
    ref = judged()
    monkeypatch.setattr(vd, "REPLAYED", (vd.RULE_VERSION + 1,))
    with pytest.raises(DataCorrupt, match="Replay it with the release that gave it"):
        replay.replay(parts.database, parts.store, ref.verdict_id)
    assert shell("replay", ref.verdict_id)[0] == 1


def test_a_rule_version_that_was_forged_is_a_difference(judged, parts):
    ref = judged()
    rewrite(parts, ref, lambda document: document["question"].update(rule_version=99))
    differences = replay.replay(parts.database, parts.store, ref.verdict_id).differences
    assert [difference.split(" must")[0] for difference in differences] == [
        "verdict.json",
        "verdict.json",
        "rule_version",
    ]


def test_a_beginning_that_names_no_verdict_or_several_is_refused(case, judged, parts, shell, object_store):
    with pytest.raises(ConfigError, match="got 'nothing'; `dethrone history <project>` shows them"):
        replay.replay(parts.database, parts.store, "nothing")
    case.judge("v1")
    case.judge("v2")
    Case(parts.database, object_store, project="texts").judge("v1")
    with pytest.raises(ConfigError, match="it fits verdict-v1 of fashion, verdict-v1 of texts: give more of it, or"):
        replay.replay(parts.database, parts.store, "verdict-v1")
    assert replay.replay(parts.database, parts.store, "verdict-v1", project="texts").project == "texts"
    with pytest.raises(ConfigError, match="must be the beginning of one verdict's id"):
        replay.replay(parts.database, parts.store, "verdict%")
    assert shell("replay", "verdict-v")[0] == 2


def test_differing_paths_lead_to_the_value():
    stored = {"a": {"b": [1, {"c": 2}]}, "same": 1, "gone": 1, "short": [1]}
    again = {"a": {"b": [1, {"c": 3}]}, "same": 1, "new": None, "short": [1, 2]}
    assert list(replay.differing_paths(stored, again)) == [
        "a.b[1].c: stored 2, computed 3",
        "gone: stored 1, computed nothing",
        "new: stored nothing, computed null",
        "short: stored [1], computed [1, 2]",
    ]


def test_a_long_list_of_differences_is_cut(judged, parts):
    ref = judged()
    rewrite(parts, ref, lambda document: document["evidence"].update({f"extra{number:02d}": 1 for number in range(13)}))
    differences = replay.replay(parts.database, parts.store, ref.verdict_id).differences
    assert len(differences) == 2 + replay.NUM_PATHS + 1
    assert differences[-1] == "and 3 more"
    assert dataclasses.replace(replay.replay(parts.database, parts.store, ref.verdict_id), differences=()).same
