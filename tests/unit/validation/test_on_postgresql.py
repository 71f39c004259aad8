"""The same stages on a real PostgreSQL: freeze, race, watch."""

import threading

import pytest

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.errors import LostRace
from pipeline_tasks.validation.task import build_snapshot, check_items, open_exam, plan_training, read_manifest
from tests.unit.monitoring.builders import Production, feedback, record
from tests.unit.validation.builders import NOW, Scene

pytestmark = pytest.mark.integration


@pytest.fixture
def postgres(postgres_server):
    engine = create_engine(postgres_server.new_database())
    t.metadata.create_all(engine)
    yield Database(engine)
    engine.dispose()


def test_freezing(postgres, object_store, tmp_path):
    scene = Scene(postgres, object_store, tmp_path)
    ids = scene.add_labeled(8)
    scene.add_labeled(10, split="exam", start=50)
    check_items(scene.project, "b1", **scene.arguments)
    (exam,) = open_exam(scene.project, **scene.freezing)
    snapshot = build_snapshot(scene.project, **scene.freezing)
    assert read_manifest(object_store, snapshot)["item_id"].to_pylist() == sorted(ids)
    assert (exam.num_items, snapshot.generation) == (10, 1)
    assert build_snapshot(scene.project, **scene.freezing) == snapshot
    assert plan_training(scene.project, datasets=scene.datasets, store=object_store).num_new_labels == 0


def test_racing_writers_leave_one_linear_chain(postgres, object_store, tmp_path):
    scene = Scene(postgres, object_store, tmp_path)
    fence = postgres.acquire("snapshot/pets", Attempt("run", "snapshot"), now=NOW)

    def add(snapshot_id: str) -> bool:
        try:
            scene.datasets.add_snapshot(
                project="pets",
                snapshot_id=snapshot_id,
                object_key="k",
                class_counts={"cat": 1},
                schema_version=1,
                run_id="r",
                now=NOW,
                fence=fence,
            )
        except LostRace:  # says "run again", as the task would
            return False
        return True

    def write(writer: int) -> None:
        for number in range(20):
            while not add(f"{writer}-{number}"):
                pass

    threads = [threading.Thread(target=write, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with postgres.read() as connection:
        rows = connection.execute(t.snapshots.select().order_by(t.snapshots.c.generation)).all()
    assert [row.generation for row in rows] == list(range(1, 81))
    assert [row.parent_id for row in rows] == [None, *(row.snapshot_id for row in rows[:-1])]


def test_watching(postgres, object_store, tmp_path):
    production = Production(postgres, object_store, tmp_path, audit_share=1.0)
    production.crown("m1", accuracy=0.9)
    production.log(*[record(number) for number in range(20)], feedback(3, "dog"))
    report = production.run("run-1")
    assert (report.num_audits, report.num_feedback, report.state) == (20, 1, "INSUFFICIENT_DATA")
    for row in production.rows(t.audits):
        production.decide(row["item_id"], "dog")
    alarmed = production.run("run-2")
    assert (alarmed.state, alarmed.wake_training) == ("ALARM", True)
    assert production.run("run-2") == alarmed
    assert production.run("run-3").wake_training is False
