"""Killed at each crash point, judged again: the same verdict, one row, whole evidence."""

import itertools
import re
from pathlib import Path

import pytest

import pipeline_tasks.evaluation.task
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.verdicts import VerdictRepository
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.evaluation.approval import read_verdict
from pipeline_tasks.evaluation.task import judge
from tests import crash
from tests.fakes import FolderObjectStore
from tests.unit.evaluation import support as s

LABELS = [s.CLASSES[index % 2] for index in range(60)]
POINTS = (
    "judge.put.before",
    "judge.evidence.after",
    "judge.document.after",
    "judge.put.after",
    "judge.put.recorded",
)


def open_catalog(folder: Path) -> Database:
    return Database(create_engine(f"sqlite:///{folder / 'catalog.db'}"))


def judge_in(folder: Path, number: int = 1) -> None:
    store, database = FolderObjectStore(folder / "store"), open_catalog(folder)
    right = s.answers(1, LABELS) | s.answers(2, LABELS)
    weak = s.answers(1, LABELS) | s.answers(2, LABELS, wrong=range(20))
    exams = [s.put_exam(store, epoch=epoch, labels=LABELS) for epoch in (1, 2)]
    world = s.World(store, {"new": s.TableModel(right), "old": s.TableModel(weak)}, exams)
    ticks = itertools.count(step=number)
    attempt = Attempt(f"run-{number}", "judge", number)
    context = world.context(database, attempt=attempt, timer=lambda: next(ticks) / 1000)
    judge(s.project(), s.put_model(store, "new"), exams, champion=s.put_model(store, "old"), context=context)


@pytest.fixture
def folder(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'catalog.db'}")
    t.metadata.create_all(engine)
    engine.dispose()
    return tmp_path


def verdict_of(folder):
    (record,) = VerdictRepository(open_catalog(folder)).history("fashion")
    return record


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_judge_is_repeated_with_the_same_verdict(folder, point):
    crash.crash_at(point, judge_in, folder)
    crash.run_in_child(judge_in, folder, 2)
    record = verdict_of(folder)
    store = FolderObjectStore(folder / "store")
    document = read_verdict(store, record)
    replayed = vd.replay(document, store.get(f"{record.ref.object_key}/evidence.parquet"))
    assert vd.document_bytes(replayed) == vd.document_bytes(document)
    assert store.exists(f"{record.ref.object_key}/report.html")
    assert len(list(store.list("verdicts/"))) == 3
    # The first attempt measured 1 ms, the second 2 ms: what was written first stands.
    latency = document["measured"]["contender"]["latency_p50_ms"]
    assert latency == (2.0 if point in POINTS[:2] else 1.0)
    assert record.run_id == ("run-1" if point == "judge.put.recorded" else "run-2")


def test_every_point_is_passed_and_every_name_is_in_the_source(folder):
    assert crash.points_passed(judge_in, folder) == list(POINTS)
    source = Path(pipeline_tasks.evaluation.task.__file__).read_text()
    assert set(re.findall(r'crash_point\("([^"]+)"\)', source)) == set(POINTS)
