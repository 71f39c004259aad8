"""Verdicts computed again, from functions and from the shell."""

import dataclasses
import json

import pytest
import sqlalchemy as sa

from pipeline_tasks.audit import replay
from pipeline_tasks.catalog import ledger_repository
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.verdicts import VerdictRepository
from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.errors import ConfigError, DataCorrupt
from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.evaluation.task import judge
from tests.ledger_case import Case
from tests.unit.evaluation import support as s


@pytest.fixture
def judged(database, object_store):
    """Return a real verdict: `new` beats `old` on the current of two exams."""

    def give(version="new"):
        exams = [s.put_exam(object_store, epoch=epoch, labels=s.LABELS) for epoch in (1, 2)]
        old = s.answers(1, s.LABELS, wrong=range(10)) | s.answers(2, s.LABELS, wrong=range(24))
        new = s.answers(1, s.LABELS, wrong=range(10)) | s.answers(2, s.LABELS)
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
