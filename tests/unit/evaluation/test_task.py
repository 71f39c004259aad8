"""Judging on a fake store and a real catalog: the answer, the evidence, repeats, races and what cannot be read."""

import itertools
import json

import pytest

from pipeline_tasks.catalog.verdicts import VerdictRepository
from pipeline_tasks.contracts import Attempt, Leak, sha256_hex
from pipeline_tasks.errors import DataCorrupt, LostRace, PermanentError, ServiceUnavailable, StaleAttempt
from pipeline_tasks.evaluation import verdict as vd
from tests.unit.evaluation import support as s


def document_of(store, ref):
    return json.loads(store.get(f"{ref.object_key}/verdict.json"))


def test_a_better_contender_is_promoted(run, object_store, verdicts):
    ref = run()
    assert (ref.answer, ref.code) == ("promote", "GAIN_SHOWN")
    assert (ref.champion_version, ref.contender_version) == ("old", "new")
    document = document_of(object_store, ref)
    current = document["evidence"]["current"]
    assert (current["epoch"], current["num_items"], current["num_groups"]) == (2, 240, 240)
    assert current["contender"]["accuracy"]["estimate"] == pytest.approx(230 / 240)
    assert current["champion"]["accuracy"]["estimate"] == pytest.approx(206 / 240)
    assert (current["gain"]["num_wins"], current["gain"]["num_losses"]) == (24, 0)
    epochs = document["evidence"]["epochs"]
    assert [(epoch["epoch"], epoch["gain"]["difference"], epoch["num_items"]) for epoch in epochs] == [
        (2, 0.2, 120),
        (1, 0.0, 120),
    ]
    measured = document["measured"]["contender"]
    assert (measured["latency_p50_ms"], measured["latency_p99_ms"], measured["repeats"]) == (1.0, 1.0, 1)
    assert document["question"]["contender"]["size_bytes"] == 1002
    record = verdicts.find("fashion", ref.verdict_id)
    assert record.digest == sha256_hex(object_store.get(f"{ref.object_key}/verdict.json"))
    assert record.report_digest == sha256_hex(object_store.get(f"{ref.object_key}/report.html"))
    assert record.ref == ref


def test_swapped_roles_keep_the_champion(run):
    assert run(contender="old", champion="new").answer == "keep"


def test_the_same_weights_are_never_promoted(run, world):
    world.models["copy"] = world.models["old"]
    assert (run(contender="copy").answer, run(contender="copy").code) == ("keep", "NO_GAIN")


def test_the_first_model_is_judged_by_floors(run):
    ref = run(champion=None)
    assert (ref.answer, ref.code, ref.champion_version) == ("promote", "FLOORS_MET", None)


def test_forgetting_the_old_keeps_the_champion(run, world):
    world.models["new"].answers |= s.answers(1, s.LABELS, wrong=range(30))
    ref = run()
    assert (ref.answer, ref.code) == ("keep", "EPOCH_WORSE")


def test_the_newest_two_exams_count_in_any_order(run, world, object_store):
    exams = [*reversed(world.exams)]
    first = run(exams=exams)
    assert [exam["epoch"] for exam in document_of(object_store, first)["question"]["exams"]] == [2, 1]


def test_the_stored_evidence_replays_byte_for_byte(run, object_store):
    ref = run()
    stored = object_store.get(f"{ref.object_key}/verdict.json")
    again = vd.replay(json.loads(stored), object_store.get(f"{ref.object_key}/evidence.parquet"))
    assert vd.document_bytes(again) == stored
    assert vd.verdict_id_of(again) == ref.verdict_id


@pytest.mark.parametrize("broken", ["nan", "raises", "shape"])
def test_replay_of_a_model_that_gave_nonsense(run, world, object_store, broken):
    world.models["new"].broken = broken
    ref = run()
    stored = object_store.get(f"{ref.object_key}/verdict.json")
    again = vd.replay(json.loads(stored), object_store.get(f"{ref.object_key}/evidence.parquet"))
    assert (ref.answer, ref.code) == ("keep", "METRIC_INVALID")
    assert vd.document_bytes(again) == stored


def test_replay_refuses_other_evidence(run, object_store):
    ref = run()
    evidence = object_store.get(f"{ref.object_key}/evidence.parquet")
    with pytest.raises(DataCorrupt, match=r"evidence\.parquet must hash to"):
        vd.replay(document_of(object_store, ref), evidence + b" ")


def test_replay_refuses_another_rule(run, object_store):
    ref = run()
    document = document_of(object_store, ref)
    document["question"]["rule_version"] = 99
    with pytest.raises(DataCorrupt, match=r"rule_version must be one of 3, 4, 5, 6 .* \(got 99\)"):
        vd.replay(document, object_store.get(f"{ref.object_key}/evidence.parquet"))


def test_the_same_question_is_asked_once(run, world):
    first = run()
    world.loads.clear()
    assert run(attempt=Attempt("run-2", "judge")) == first
    assert world.loads == []


@pytest.mark.parametrize(
    "other", [{"confidence": 0.99, "exam": {"min_items": 10}}, {"min_gain": 0.01, "exam": {"min_items": 10}}]
)
def test_another_policy_is_another_question(run, other):
    assert run().verdict_id != run(project=s.project(gate=other)).verdict_id


def test_an_attempt_that_died_before_the_row_is_adopted(run, object_store, database, monkeypatch):
    """Kill after the objects: the next attempt measures other latencies, yet it is the same verdict."""
    with monkeypatch.context() as patch:
        patch.setattr(VerdictRepository, "record", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run()
    (key,) = [info.key for info in object_store.list("verdicts/") if info.key.endswith("verdict.json")]
    before = object_store.get(key)
    slow = itertools.count()
    ref = run(attempt=s.attempt(2), timer=lambda: next(slow) / 10)
    assert f"{ref.object_key}/verdict.json" == key
    assert object_store.get(key) == before
    assert len(list(object_store.list("verdicts/"))) == 3


def test_a_stale_attempt_publishes_nothing(run, world, database, object_store):
    def read(locations):
        database.acquire("judge/fashion/new", s.attempt(2), now=s.NOW)
        return world.read(locations)

    with pytest.raises(StaleAttempt, match="must hold the lease judge/fashion/new"):
        run(read=read)
    assert list(object_store.list("verdicts/")) == []


def test_uses_of_an_exam_are_counted_by_question(run, world, verdicts, object_store):
    run()
    run()
    assert verdicts.count_uses("fashion", world.exams[1].exam_id) == 1
    assert verdicts.count_uses("fashion", world.exams[0].exam_id) == 0
    world.models["third"] = world.models["new"]
    assert document_of(object_store, run(contender="third"))["question"]["exam_use"] == 2


def test_a_first_model_uses_nothing_up(run, world, verdicts):
    run(champion=None)
    assert verdicts.count_uses("fashion", world.exams[1].exam_id) == 0


def test_a_verdict_given_meanwhile_on_the_same_exam_is_counted(run, world, object_store, monkeypatch):
    world.models["third"] = world.models["new"]
    counted = VerdictRepository.count_uses
    calls = []

    def race(verdicts, project, exam_id):
        uses = counted(verdicts, project, exam_id)
        calls.append(uses)
        if len(calls) == 1:
            monkeypatch.setattr(VerdictRepository, "count_uses", counted)
            run(contender="third")
            monkeypatch.setattr(VerdictRepository, "count_uses", race)
        return uses

    monkeypatch.setattr(VerdictRepository, "count_uses", race)
    ref = run()
    assert calls == [0, 1]
    assert document_of(object_store, ref)["question"]["exam_use"] == 2


def test_endless_races_end(run, monkeypatch):
    monkeypatch.setattr(VerdictRepository, "count_uses", lambda *_: 7)
    with pytest.raises(LostRace, match="must be free for one verdict at a time"):
        run()


@pytest.mark.parametrize(
    ("role", "error"), [("old", KeyError("gone")), ("old", DataCorrupt("bad digest")), ("new", ValueError("bad"))]
)
def test_an_unreadable_model_is_an_error_and_no_verdict(run, world, verdicts, role, error):
    world.models[role] = error
    code = "CHAMPION_UNREADABLE" if role == "old" else "CONTENDER_UNREADABLE"
    with pytest.raises(PermanentError, match="must be readable from models/fashion/") as caught:
        run()
    assert caught.value.code == code
    assert verdicts.history("fashion") == []


def test_a_store_that_is_away_is_retried(run, world):
    world.models["old"] = ServiceUnavailable("S3 is away")
    with pytest.raises(ServiceUnavailable, match="S3 is away"):
        run()


@pytest.mark.parametrize("broken", ["nan", "raises", "shape", "constant"])
def test_nonsense_from_the_contender_keeps_the_champion(run, world, broken):
    world.models["new"].broken = broken
    assert (run().answer, run().code) == ("keep", "METRIC_INVALID")


@pytest.mark.parametrize("broken", ["nan", "raises", "shape"])
def test_nonsense_from_the_champion_is_no_win(run, world, broken):
    world.models["old"].broken = broken
    assert (run().answer, run().code) == ("keep", "CHAMPION_INVALID")


def test_a_leak_keeps_the_champion(run, world):
    world.trained["snapshot-new"] = {sha256_hex(s.payload(2, 7)), "something else"}
    ref = run()
    assert (ref.answer, ref.code) == ("keep", "EXAM_LEAK")
    assert sha256_hex(s.payload(2, 7))[:12] in ref.reasons[0]


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_near_duplicate_keeps_the_champion_and_stands_in_the_verdict(run, world, object_store, epoch):
    copy = s.put_item(object_store, b"all but item 7")
    world.near["snapshot-new"] = [Leak(sha256_hex(s.payload(epoch, 7)), copy, "near", 0.9971)]
    ref = run()
    assert (ref.answer, ref.code) == ("keep", "EXAM_LEAK")
    document = document_of(object_store, ref)
    item_id = sha256_hex(s.payload(epoch, 7))
    assert document["question"]["leaks"] == [
        {"item_id": item_id, "trained_item_id": copy, "kind": "near", "similarity": 0.9971}
    ]
    assert document["question"]["champion_leaks"] == []
    assert vd.replay(document, object_store.get(f"{ref.object_key}/evidence.parquet")) == document


def test_the_items_of_the_champions_snapshot_are_a_note_and_no_leak_of_the_contender(run, world, object_store):
    world.trained["snapshot-old"] = {sha256_hex(s.payload(2, 7))}
    ref = run()
    assert ref.answer == "promote"
    assert any("1 exam items are in the champion's training snapshot" in reason for reason in ref.reasons)
    document = document_of(object_store, ref)
    assert document["question"]["leaks"] == []
    assert [leak["kind"] for leak in document["question"]["champion_leaks"]] == ["exact"]
    assert vd.replay(document, object_store.get(f"{ref.object_key}/evidence.parquet")) == document


def test_an_old_verdict_without_pairs_says_which_rule_gave_it(run, object_store):
    document = document_of(object_store, run())
    document["question"]["rule_version"] = 1
    with pytest.raises(
        DataCorrupt, match=r"rule_version must be one of 3, 4, 5, 6 to be replayed by this release \(got 1\)"
    ):
        vd.question_from(document)


def test_models_with_other_classes_are_compared_by_name(run, world):
    flipped = {data: 1 - answer for data, answer in world.models["new"].answers.items()}
    world.models["new"] = s.TableModel(flipped, classes=("shoe", "shirt"))
    assert run().answer == "promote"


def test_a_champion_without_a_class_of_the_exam(run, world, object_store):
    labels = [*s.LABELS, *["hat"] * 30]
    exams = [world.exams[0], s.put_exam(object_store, epoch=2, labels=labels)]
    right = world.models["new"].answers | {s.payload(2, index): 2 for index in range(120, 150)}
    world.models["new"] = s.TableModel(right, classes=(*s.CLASSES, "hat"))
    world.models["old"].answers |= {s.payload(2, index): 0 for index in range(120, 150)}
    gate = {"exam": {"min_items": 10}}
    classes = (*s.CLASSES, "hat")
    ref = run(exams=exams, project=s.project(gate={**gate, "new_classes": "keep"}, classes=classes))
    assert (ref.answer, ref.code) == ("keep", "CHAMPION_CLASSES")
    ref = run(exams=exams, project=s.project(gate=gate, classes=classes))
    assert ref.answer == "promote"
    shared = document_of(object_store, ref)["evidence"]["current"]["shared_gain"]
    assert (shared["num_items"], shared["num_wins"]) == (240, 24)


def test_classes_that_the_champion_never_learned_are_left_out_of_the_comparison(run, world, object_store):
    hats = [["hat"] * 30, [*s.LABELS, *["hat"] * 30]]
    exams = [s.put_exam(object_store, epoch=epoch, labels=labels) for epoch, labels in enumerate(hats, 1)]
    classes = (*s.CLASSES, "hat")
    wrong = {s.payload(2, index): 0 for index in range(120, 150)} | {s.payload(1, index): 0 for index in range(30)}
    world.models["new"] = s.TableModel(world.models["new"].answers | wrong, classes=classes)
    world.models["old"].answers |= wrong
    gate = {"exam": {"min_items": 10}, "new_classes": "leave_out"}
    ref = run(exams=exams, project=s.project(gate=gate, classes=classes))
    document = document_of(object_store, ref)
    gain, epochs = document["evidence"]["current"]["gain"], document["evidence"]["epochs"]
    assert ref.answer == "promote"
    assert (gain["num_items"], gain["num_wins"], document["evidence"]["current"]["num_items"]) == (120, 24, 180)
    assert [(epoch["epoch"], epoch["gain"]["num_items"]) for epoch in epochs] == [(2, 120)]
    assert "(compared on the 120 items of classes that the champion knows)" in document["decision"]["headline"]
    stored = object_store.get(f"{ref.object_key}/verdict.json")
    again = vd.replay(json.loads(stored), object_store.get(f"{ref.object_key}/evidence.parquet"))
    assert vd.document_bytes(again) == stored


def test_macro_f1_is_compared_by_bootstrap(run, object_store):
    ref = run(project=s.project(gate={"metric": "macro_f1", "exam": {"min_items": 10}}))
    gain = document_of(object_store, ref)["evidence"]["current"]["gain"]
    assert (ref.answer, gain["metric"]) == ("promote", "macro_f1")
    assert 0.05 < gain["low"] < gain["difference"] < gain["high"] < 0.2


def test_a_verdict_in_the_place_of_another_is_refused(run, object_store, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(VerdictRepository, "record", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run()
    (key,) = [info.key for info in object_store.list("verdicts/") if info.key.endswith("verdict.json")]
    other = json.loads(object_store.get(key))
    other["decision"]["answer"] = "keep"
    object_store.objects[key] = vd.document_bytes(other)
    with pytest.raises(DataCorrupt, match=r"must be the verdict of its name \(got another\)"):
        run(attempt=s.attempt(2))


def test_a_verdict_from_before_a_gate_setting_came_replays_as_it_was(run, object_store):
    ref = run()
    evidence = object_store.get(f"{ref.object_key}/evidence.parquet")
    document = document_of(object_store, ref)
    assert document["question"]["policy"]["limits"]["latency_p50_ms"] is None  # defaults are spelled out
    del document["question"]["policy"]["limits"]["latency_p50_ms"]
    assert vd.replay(document, evidence) == document


def test_two_attempts_that_overlap_use_the_exam_once(run, verdicts, database, monkeypatch):
    acquire, taken = database.acquire, []

    def overlapped(name, attempt, *, now):
        if not taken:
            taken.append(name)
            run(attempt=s.attempt(1))  # a whole first attempt, just before the second takes the lease
        return acquire(name, attempt, now=now)

    monkeypatch.setattr(database, "acquire", overlapped)
    second = run(attempt=s.attempt(2))
    assert [verdict.ref for verdict in verdicts.history("fashion")] == [second]


def test_a_setting_at_its_default_asks_no_question_anew():
    gate = s.project().config.gate
    named = s.project(gate={"exam": {"min_items": 10}, "confidence": 0.95}).config.gate
    assert vd.policy_id(gate, s.CLASSES) == vd.policy_id(named, s.CLASSES)
    other = s.project(gate={"exam": {"min_items": 10}, "confidence": 0.9}).config.gate
    assert vd.policy_id(gate, s.CLASSES) != vd.policy_id(other, s.CLASSES)


def test_near_duplicates_count_as_one_group_in_every_epoch(run, world, object_store):
    """Items 0 and 1 of each epoch are copies; the second epoch's copy resembles another item, too."""
    copies = {sha256_hex(s.payload(epoch, index)): f"copies {epoch}" for epoch in (1, 2) for index in (0, 1)}
    ref = run(find_groups=lambda _ref: copies)
    current = document_of(object_store, ref)["evidence"]["current"]
    assert (current["num_items"], current["num_groups"]) == (240, 238)
    joined = dict.fromkeys(copies, "one photo")
    world.models["other"] = world.models["new"]
    again = run(find_groups=lambda _ref: joined, contender="other", project=s.project(gate={"exam": {"min_items": 11}}))
    assert document_of(object_store, again)["evidence"]["current"]["num_groups"] == 237


def test_items_of_one_group_key_are_one_group_across_epochs(run, world, object_store):
    groups = lambda ref: dict.fromkeys((sha256_hex(s.payload(ref.epoch, index)) for index in range(60)), "one user")  # noqa: E731
    ref = run(find_groups=groups)
    document = document_of(object_store, ref)
    assert document["evidence"]["current"]["num_groups"] == 121
    assert [epoch["num_groups"] for epoch in document["evidence"]["epochs"]] == [61, 61]
    assert document["evidence"]["current"]["gain"]["largest_group"] == 0.5
    assert "GROUP_LARGE" in [reason["code"] for reason in document["decision"]["reasons"]]
    evidence = object_store.get(f"{ref.object_key}/evidence.parquet")
    assert vd.document_bytes(vd.replay(document, evidence)) == vd.document_bytes(document)
