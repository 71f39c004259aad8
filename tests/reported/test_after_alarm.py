"""After an alarm the exam is fed first, and whoever judges knows of it."""

from __future__ import annotations

import datetime as dt
import json
import threading
from types import SimpleNamespace

import pytest

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.items import Chunk, ItemRepository
from pipeline_tasks.catalog.runs import RunRepository
from pipeline_tasks.contracts import Attempt, Item, Location, sha256_hex
from pipeline_tasks.errors import GateClosed
from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.ingest.exam_split import split_of
from pipeline_tasks.monitoring.log_import import share_of_exam
from pipeline_tasks.orchestration.entrypoints import snapshot
from pipeline_tasks.orchestration.overview import _line
from pipeline_tasks.orchestration.overview_page import render_overview
from pipeline_tasks.orchestration.run_outcome import RunFacts, ending_of
from pipeline_tasks.orchestration.training_plan import exam_after_alarm, plan
from pipeline_tasks.project.gate_schema import Gate
from pipeline_tasks.validation.after_alarm import AfterAlarm, Counted, after_alarm, awaited, tally
from pipeline_tasks.validation.task import open_exam
from pipeline_tasks.validation.training_trigger import enough_new_labels
from tests.unit.evaluation.conftest import run, verdicts, world  # noqa: F401 - fixtures
from tests.unit.monitoring.builders import NOW, SPLIT_KEY, Production, record
from tests.unit.monitoring.test_task import with_audits
from tests.unit.validation.builders import Scene, loaded_project, png

LATER = NOW + dt.timedelta(hours=1)
GATE = Gate.model_validate({"exam": {"min_items": 10, "max_group_items": 2}})


def side(group: str, share: float) -> str:
    return split_of(group, project="pets", split_key=SPLIT_KEY, exam_share=share)


@pytest.fixture
def alarmed(database, object_store, tmp_path):
    """A champion of whom 12 of 20 audited answers are wrong, and what the monitor said at NOW."""
    production = Production(database, object_store, tmp_path, audit_share=1.0)
    production.crown("m1", accuracy=0.9)
    with_audits(production, right=8, wrong=12)
    assert production.run("run-2").state == "ALARM"
    return production


def sides(production) -> dict[str, str]:
    return {row["group_key"]: row["split"] for row in production.rows(t.items)}


def test_audits_after_an_alarm_feed_the_exam_until_it_has_what_it_needs(alarmed):
    """5 % audits times 10 % exam share were 20,000 requests for one epoch."""
    groups = [f"user-{number}" for number in range(100, 140)]
    alarmed.log(*[record(number, user_key=f"user-{number}") for number in range(100, 140)])
    alarmed.run("run-3", at=LATER)
    both = sides(alarmed)
    assert {group: both[group] for group in groups} == {group: side(group, 0.8) for group in groups}
    later = [f"user-{number}" for number in range(200, 240)]
    alarmed.log(*[record(number, user_key=f"user-{number}") for number in range(200, 240)])
    alarmed.run("run-4", at=LATER + dt.timedelta(hours=1))
    both = sides(alarmed)
    assert {group: both[group] for group in later} == {group: side(group, 0.3) for group in later}
    assert (
        sum(side(group, 0.8) == "exam" for group in groups) > sum(side(group, 0.3) == "exam" for group in groups) + 10
    )


def test_a_group_keeps_its_side_in_the_alarm_and_after_it(alarmed):
    """A group of the training side by split.exam_share that the alarm's share would give to the exam, and back."""
    moved = [f"user-{number}" for number in range(100) if side(f"user-{number}", 0.3) != side(f"user-{number}", 0.8)]
    before, new = moved[0], moved[1]
    alarmed.insert(t.items, item_row("known", group=before, split="train"))
    alarmed.log(record(100, user_key=before), record(101, user_key=new))
    alarmed.run("run-3", at=LATER)
    assert (sides(alarmed)[before], sides(alarmed)[new]) == ("train", "exam")
    alarmed.crown("m2", generation=2)
    assert after_alarm(alarmed.database, "pets", GATE) is None  # the alarm was on another champion
    alarmed.log(record(102, user_key=new, payload=png(5000)))
    alarmed.run("run-4", at=LATER)
    assert [row["split"] for row in alarmed.rows(t.items) if row["group_key"] == new] == ["exam", "exam"]


def test_unsure_answers_stay_off_the_exams_side_of_now(database, object_store, tmp_path):
    production = Production(database, object_store, tmp_path, audit_share=1.0)
    production.crown("m1", accuracy=0.9)
    with_audits(production, right=8, wrong=12)
    production.run("run-2")
    policy = production.project.config.monitor.model_copy(update={"audit_share": 0.0, "max_uncertain": 50})
    config = production.project.config.model_copy(update={"monitor": policy})
    production.project = production.project.model_copy(update={"config": config})
    fixed = next(f"user-{number}" for number in range(900, 999) if side(f"user-{number}", 0.8) == "train")
    production.insert(t.items, item_row("known", group=fixed, split="exam"))
    production.log(*[record(number, user_key=f"user-{number}", confidence=0.2) for number in range(100, 140)])
    production.log(record(141, user_key=fixed, confidence=0.1))
    production.run("run-3", at=LATER)
    asked = {row["group_key"] for row in production.rows(t.items) if row["key"] >= "p00100"} - {fixed}
    assert asked == {f"user-{n}" for n in range(100, 140) if side(f"user-{n}", 0.8) == "train"}


def item_row(item_id: str, *, group: str, split: str, arrived_at=NOW, origin="source") -> dict:
    row = {"project": "pets", "item_id": item_id, "source": "folder", "key": item_id, "group_key": group}
    row |= {"media_type": "image/png", "object_key": "k", "offset": 0, "size_bytes": 1, "split": split}
    return row | {"origin": origin, "source_label": None, "batch_id": "b", "arrived_at": arrived_at}


def chunk_of(writer: str, split: str, *, groups: range) -> Chunk:
    items = [
        Item(
            project="pets",
            item_id=sha256_hex(f"{writer}-{number}".encode()),
            source=writer,
            key=f"{writer}-{number}",
            group_key=f"user-{number}",
            media_type="image/png",
            location=Location("k", 0, 1),
            arrived_at=NOW,
            split=split,
            origin="source",
            source_label=None,
            content_id=sha256_hex(f"{writer}-{number}".encode()),
        )
        for number in groups
    ]
    return Chunk("pets", writer, "b", items)


@pytest.fixture
def on_any(any_database, object_store, tmp_path):
    return Scene(any_database, object_store, tmp_path)


def test_two_writers_at_once_never_put_a_group_on_both_sides(any_database):
    """One of an ingest and one of the monitor, which have another share; each with the groups of the other."""
    items, barrier = ItemRepository(any_database), threading.Barrier(2)
    fences = {task: any_database.acquire(f"{task}/pets", Attempt("r", task), now=NOW) for task in ("ingest", "monitor")}

    def write(writer: str, split: str) -> None:
        for start in range(0, 200, 10):
            barrier.wait()
            items.record(fences[writer], chunk_of(writer, split, groups=range(start, start + 10)))

    threads = [
        threading.Thread(target=write, args=arguments) for arguments in (("ingest", "train"), ("monitor", "exam"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held: dict[str, set[str]] = {}
    for item in items.iterate("pets"):
        held.setdefault(item.group_key, set()).add(item.split)
    assert len(held) == 200
    assert [group for group, both in held.items() if len(both) > 1] == []
    assert items.sides("pets", ["user-1", "nobody"]) == {"user-1": min(held["user-1"])}


def stand(production, *, since=NOW, cause="QUALITY_DROP", run_id="alarm") -> None:
    """Let an alarm on m1 stand, as the monitor writes it."""
    alarm = {"cause": cause, "model_version": "m1", "message": "low", "key": "k", "wake": True}
    row = {"project": "pets", "window_id": f"quality-{run_id}", "statistics": {"versions": {}}, "run_id": run_id}
    alarm |= {"since": since.isoformat()}
    production.insert(t.monitor_windows, row | {"alarms": [alarm], "created_at": since})


def exam_items(scene, states: str, *, arrived_at=LATER, start=0, group=None) -> None:
    """Add exam items: `x` in an epoch, `l` labeled, `w` waiting, `d` disputed, `r` retired."""
    for number, state in enumerate(states, start=start):
        item_id = f"exam-{number}"
        scene.insert(t.items, item_row(item_id, group=group or f"user-{number}", split="exam", arrived_at=arrived_at))
        if state in "xlr":
            scene.decide(item_id, "cat")
        if state == "d":
            scene.decide(item_id, None, status="disputed")
        if state == "x":
            scene.insert(t.exam_items, {"project": "pets", "item_id": item_id, "epoch": 1, "label": "cat"})
        if state == "r":
            gone = {"project": "pets", "item_id": item_id, "reason": "r", "by": "ann", "at": NOW}
            scene.insert(t.item_retirements, gone)


def test_the_items_from_after_the_alarm_are_counted_by_state(on_any):
    on_any.serve("s1")
    assert after_alarm(on_any.database, "pets", GATE) is None
    stand(on_any)
    exam_items(on_any, "xxllwdr")
    exam_items(on_any, "lll", start=10, group="one")  # of a group an epoch takes two
    exam_items(on_any, "xlw", start=20, arrived_at=NOW - dt.timedelta(seconds=1))
    later = after_alarm(on_any.database, "pets", GATE)
    assert later == AfterAlarm(NOW, True, Counted(10, 10), Counted(2, 2), Counted(6, 5), Counted(7, 6))
    assert (later.has_exam, later.can_open, later.num_unpicked) == (False, False, 4)
    assert later.text == (
        "an alarm stands since 2026-03-01 12:00 UTC; of the 10 exam items of 10 groups (6 so far) from after it, 2 are "
        "in the exam, 4 are labeled and wait for the next epoch, 1 wait for people and 4 are not yet picked"
    )


def test_a_window_of_an_older_release_says_when_it_was_made(on_any):
    on_any.serve("s1")
    stand(on_any)
    with on_any.database.write() as connection:
        alarms = [{"cause": "DRIFT", "model_version": "m1", "message": "m", "key": "k", "wake": False}]
        connection.execute(t.monitor_windows.update().values(alarms=alarms))
    later = after_alarm(on_any.database, "pets", GATE)
    assert (later.since, later.of_quality) == (NOW, False)


@pytest.mark.parametrize(
    ("in_exam", "labeled", "asked", "said", "state"),
    [
        ((0, 0), (0, 0), (0, 0), "and the exam predates it; of the 10 exam items from after it", (False, False, 10)),
        ((0, 0), (10, 10), (12, 12), "10 are labeled and wait for the next epoch and 2 wait", (False, True, 0)),
        ((0, 0), (10, 9), (10, 9), "of 10 groups (9 so far) from after it", (False, False, 1)),
        ((10, 10), (10, 10), (10, 10), "and the exam has 10 items from after it", (True, False, 0)),
        ((14, 10), (14, 10), (14, 10), "and the exam has 14 items of 10 groups from after it", (True, False, 0)),
    ],
)  # fmt: skip
def test_what_is_missing_is_told(in_exam, labeled, asked, said, state):
    after = AfterAlarm(NOW, True, Counted(10, 10), Counted(*in_exam), Counted(*labeled), Counted(*asked))
    assert said in after.text
    assert (after.has_exam, after.can_open, after.num_unpicked) == state


def test_a_group_counts_with_as_many_items_as_an_epoch_takes():
    rows = [("labeled", "a", 5), ("in_exam", "a", 1), ("waiting", "b", 1), ("waiting", "a", 9)]
    assert tally(rows, most=2) == (Counted(1, 1), Counted(2, 1), Counted(3, 2))


def test_the_share_of_the_exam_is_never_lowered_by_an_alarm(tmp_path):
    fed = AfterAlarm(NOW, True, Counted(1, 1), Counted(0, 0), Counted(0, 0), Counted(1, 1))
    hungry = AfterAlarm(NOW, True, Counted(1, 1), Counted(0, 0), Counted(0, 0), Counted(0, 0))
    for share, expected in ((0.1, 0.8), (0.9, 0.9)):
        project = loaded_project(tmp_path, split={"exam_share": share}).config
        assert share_of_exam(project, None) == share_of_exam(project, fed) == share
        assert share_of_exam(project, hungry) == expected


def test_an_alarm_keeps_its_beginning_over_the_windows(alarmed):
    for number in range(3, 6):
        alarmed.run(f"run-{number}", at=NOW + dt.timedelta(hours=number))
    assert alarmed.monitoring.standing_alarm("pets").since == NOW
    alarmed.run("run-5", number=2, at=NOW + dt.timedelta(hours=9))
    assert alarmed.monitoring.standing_alarm("pets").since == NOW


@pytest.mark.parametrize(
    ("cause", "policy", "waits"),
    [("QUALITY_DROP", "wait", True), ("QUALITY_DROP", "judge", False), ("DRIFT", "wait", False)],
)
def test_the_exam_is_waited_for_after_a_drop_of_quality_where_the_project_says_so(on_any, cause, policy, waits):
    on_any.serve("s1")
    stand(on_any, cause=cause)
    gate = GATE.model_copy(update={"after_alarm": policy})
    assert (awaited(after_alarm(on_any.database, "pets", gate), gate) is not None) is waits


def reign(scene) -> None:
    """Let m1 serve, whose snapshot nobody asks for."""
    route = {"project": "pets", "generation": 1, "commit_id": "c1", "parent_commit_id": None, "attempt": "a"}
    route |= {"action": "promote", "champion_version": "m1", "verdict_id": "v-m1", "actor": "test", "reason": ""}
    body = {"entries": [], "shadows": [], "serving": {}}
    scene.insert(t.routes, route | {"body": body, "created_at": NOW})


class Planned:
    """A champion with an alarm, and enough new labels to train on."""

    def __init__(self, database, store, folder, **gate) -> None:
        gate = {"gate": {"exam": {"min_items": 10}, **gate}, "train": {"min_new_labels": 4}}
        self.scene = Scene(database, store, folder, **gate)
        settings = SimpleNamespace(docs_dir=folder / "docs", airflow_url="http://airflow", label_studio_url="http://l")
        self.parts = SimpleNamespace(
            database=database, store=store, project=lambda _: self.scene.project, settings=settings
        )
        reign(self.scene)
        self.scene.add_labeled(8, start=500)
        stand(self.scene)

    def plan(self, run_id="run-1", *, force=False):
        return plan(self.parts, "pets", attempt=Attempt(run_id, "plan"), force=force)


@pytest.fixture
def planned(database, object_store, tmp_path):
    return Planned(database, object_store, tmp_path)


def test_training_waits_until_the_exam_has_its_items(planned):
    """It was trained, judged on an exam without any drifted item, and refused."""
    exam_items(planned.scene, "lllw")
    assert planned.plan() == {
        "idle": "waiting for 7 exam items from after the alarm: an alarm stands since 2026-03-01 12:00 UTC, and the "
        "exam predates it; of the 10 exam items from after it, 0 are in the exam, 3 are labeled and wait for the next "
        "epoch, 1 wait for people and 6 are not yet picked. The champion stays until then; label what waits in the "
        "project `pets exam`. gate.after_alarm: judge and `dethrone train pets --force` judge on what there is.",
        "num_new_labels": 8,
    }
    exam_items(planned.scene, "lllllllw", start=10)
    planned_run = planned.plan()
    assert (planned_run["code"], planned_run["alarm"][:40]) == (
        "ENOUGH_NEW_LABELS",
        "an alarm stands since 2026-03-01 12:00 U",
    )


@pytest.mark.parametrize("force", [False, True])
def test_policy_judge_and_force_do_not_wait(database, object_store, tmp_path, force):
    planned = Planned(database, object_store, tmp_path, after_alarm="wait" if force else "judge")
    assert planned.plan(force=force)["code"] == ("FORCED" if force else "ENOUGH_NEW_LABELS")
    after, waits = exam_after_alarm(planned.parts, "pets", run_id="run-1")
    assert (after.num_unpicked, waits) == (10, None)


def test_an_alarm_that_comes_after_the_plan_stops_before_training(planned):
    runs, later = RunRepository(planned.scene.database), NOW + dt.timedelta(days=7)
    runs.open("pets", run_id="run-1", kind="train", deadline_at=later, at=NOW, info={"forced": False})
    exam = {"project": "pets", "epoch": 1, "exam_id": "e", "object_key": "k", "num_items": 10, "run_id": "r"}
    planned.scene.insert(t.exams, exam | {"opened_at": NOW})
    with pytest.raises(GateClosed, match="waiting for 10 exam items from after the alarm") as closed:
        snapshot("pets", attempt=Attempt("run-1", "snapshot"), parts=planned.parts)
    assert closed.value.code == "EXAM_AWAITED"
    record = runs.get("pets", "run-1")
    assert (record.outcome, record.reason_code) == ("rejected", "EXAM_AWAITED")


def test_the_run_that_waited_is_made_up_for(planned):
    """Its labels are in the last snapshot, so nothing is new: the exam is."""
    runs, later = RunRepository(planned.scene.database), NOW + dt.timedelta(days=7)
    runs.open("pets", run_id="run-0", kind="train", deadline_at=later, at=NOW)
    ended = {"outcome": "rejected", "reason_code": "EXAM_AWAITED", "reason": "waits", "at": NOW}
    runs.close("pets", run_id="run-0", **ended)
    with planned.scene.database.write() as connection:
        connection.execute(t.items.delete().where(t.items.c.split == "train"))
    assert "got 0 new labels" in planned.plan()["idle"]
    exam_items(planned.scene, "xxxxxxxxxx")
    assert planned.plan()["code"] == "EXAM_HAS_COME"
    assert not enough_new_labels(project="p", num_new=0, minimum=1, exam_has_come=False).train


def test_an_epoch_opens_with_the_items_from_after_the_alarm_and_not_without(database, object_store, tmp_path):
    scene = Scene(database, object_store, tmp_path)
    scene.add_labeled(10, split="exam", start=50)
    open_exam(scene.project, **scene.freezing)
    scene.add_labeled(12, split="exam", start=100)
    lacking = AfterAlarm(NOW, True, Counted(10, 10), Counted(0, 0), Counted(4, 4), Counted(12, 12))
    assert [exam.epoch for exam in open_exam(scene.project, **scene.freezing, after=lacking)] == [1]
    there = AfterAlarm(NOW, True, Counted(10, 10), Counted(0, 0), Counted(10, 10), Counted(12, 12))
    assert [exam.num_items for exam in open_exam(scene.project, **scene.freezing, after=there)] == [12, 10]
    scene.add_labeled(4, split="exam", start=200)  # another policy had put six into an epoch before
    partly = AfterAlarm(NOW, True, Counted(10, 10), Counted(6, 6), Counted(10, 10), Counted(10, 10))
    assert [exam.epoch for exam in open_exam(scene.project, **scene.freezing, after=partly)] == [3, 2, 1]


ALARM = "an alarm stands since 2026-03-01 12:00 UTC, and the exam predates it; of the 100 exam items from after it, ..."


def test_the_verdict_tells_the_alarm_and_replays(run, object_store):  # noqa: F811
    quiet, told = run(contender="old", champion="new"), run(alarm=ALARM)
    documents = [json.loads(object_store.get(f"{ref.object_key}/verdict.json")) for ref in (quiet, told)]
    assert ["alarm" in judged["question"] for judged in documents] == [False, True]
    (note,) = [reason for reason in documents[1]["decision"]["reasons"] if reason["code"] == "ALARM_STANDS"]
    assert (note["stand"], note["text"], told.answer) == ("note", f"{ALARM}.", "promote")
    page = object_store.get(f"{told.object_key}/report.html").decode().replace("\N{NO-BREAK SPACE}", " ")
    assert "An alarm stands since 2026-03-01 12:00 UTC, and the exam predates it" in page
    for ref, document in zip((quiet, told), documents, strict=True):
        evidence = object_store.get(f"{ref.object_key}/evidence.parquet")
        assert vd.document_bytes(vd.replay(document, evidence)) == object_store.get(f"{ref.object_key}/verdict.json")


def test_a_new_question_waits_for_the_exam_and_an_old_answer_stands(run, verdicts):  # noqa: F811
    with pytest.raises(GateClosed, match="waiting for 7") as closed:
        run(awaited="waiting for 7")
    assert (closed.value.code, verdicts.history("fashion")) == ("EXAM_AWAITED", [])
    ref = run()
    assert run(awaited="waiting for 7") == ref


def test_the_run_that_promoted_under_an_alarm_says_so():
    facts = RunFacts("m2", "promote", ("it gains.", f"{ALARM}."), promoted_generation=3)
    assert ending_of(facts).reason == f"m2 serves as generation 3. When it was judged, {ALARM}."


def test_the_overview_tells_the_alarm_and_what_waits(planned):
    page = render_overview([_line(planned.parts, planned.scene.project)])
    assert "<b>Alarm.</b> An alarm stands since 2026-03-01 12:00 UTC, and the exam predates it; of the 10 " in page
    assert "10 are not yet picked. Training waits for the exam (gate.after_alarm).</p>" in page
