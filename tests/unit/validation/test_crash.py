"""Kill the stages at every crash point; the next run ends with the same result, once."""

import great_expectations  # noqa: F401 - imported once here, not in each child process
import pytest
import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.validation.task import build_snapshot, check_items, open_exam, read_exam, read_manifest
from tests import crash
from tests.fakes import FolderObjectStore
from tests.unit.validation.builders import Scene


def scene_at(folder) -> Scene:
    return Scene(
        Database(create_engine(f"sqlite:///{folder / 'catalog.db'}")), FolderObjectStore(folder / "s3"), folder
    )


def freeze(folder) -> None:
    scene = scene_at(folder)
    check_items(scene.project, "b1", **scene.arguments)
    open_exam(scene.project, **scene.freezing)
    build_snapshot(scene.project, **scene.freezing)


@pytest.fixture
def new_world(tmp_path):
    made = []

    def world():
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(folder)
        engine = create_engine(f"sqlite:///{folder / 'catalog.db'}")
        t.metadata.create_all(engine)
        scene = scene_at(folder)
        scene.add_labeled(6)
        scene.add_labeled(10, split="exam", start=50)
        scene.decide(scene.add_item(b"no image", key="bad"), "cat")
        engine.dispose()
        return folder

    return world


def state(folder):
    """Return the end state without times and the order of arrival."""
    scene = scene_at(folder)
    with scene.database.read() as connection:
        rows = {
            table.name: connection.execute(sa.select(table)).all()
            for table in (t.snapshots, t.exams, t.exam_items, t.quarantine)
        }
        checks = connection.execute(
            sa.select(t.checks.c.stage, t.checks.c.subject, t.checks.c.success, t.checks.c.report_key)
        ).all()
    for *_rest, key in checks:
        assert scene.store.get(key)
    (snapshot,) = [scene.datasets.head_snapshot("pets")]
    return {
        "snapshot": (snapshot.snapshot_id, snapshot.generation, read_manifest(scene.store, snapshot).num_rows),
        "exams": [
            (exam.epoch, exam.exam_id, read_exam(scene.store, exam).num_rows) for exam in scene.datasets.exams("pets")
        ],
        "counts": {name: len(records) for name, records in rows.items()},
        "checks": sorted((stage, subject, success) for stage, subject, success, _ in checks),
        "objects": sorted(
            o.key for o in scene.store.list("") if o.key.split("/")[0] in {"snapshots", "exams", "fingerprints"}
        ),
        "pages": len(list((folder / "data-docs").rglob("*.html"))),
    }


def test_the_same_end_after_a_kill_at_every_point(new_world):
    calm = new_world()
    points = crash.points_passed(freeze, calm)
    assert set(points) == {
        f"{effect}.{moment}"
        for effect in ("check.report", "exam.put", "snapshot.put")
        for moment in ("before", "after", "recorded")
    } | {f"fingerprints.{point}" for point in ("part.before", "part.after", "put.before", "put.after", "put.recorded")}
    expected = state(calm)
    assert expected["counts"] == {"snapshots": 1, "exams": 1, "exam_items": 10, "quarantine": 1}
    crash.crash_everywhere(points, world=new_world, run=freeze, check=lambda folder: compare(state(folder), expected))


def compare(actual, expected) -> None:
    assert actual == expected


def test_racing_writers_leave_one_linear_chain(new_world):
    import threading

    from pipeline_tasks.contracts import Attempt
    from pipeline_tasks.errors import StaleAttempt

    folder = new_world()
    scene = scene_at(folder)
    fence = scene.database.acquire("snapshot/pets", Attempt("run", "snapshot"), now=scene.freezing["now"])
    errors = []

    def write(writer: int) -> None:
        mine = scene_at(folder)
        for round_ in range(5):
            try:
                mine.datasets.add_snapshot(
                    project="pets",
                    snapshot_id=f"{writer}-{round_}",
                    object_key="k",
                    class_counts={"cat": 1},
                    schema_version=1,
                    run_id="r",
                    now=scene.freezing["now"],
                    fence=fence,
                )
            except StaleAttempt as error:
                errors.append(error)

    threads = [threading.Thread(target=write, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with scene.database.read() as connection:
        rows = connection.execute(sa.select(t.snapshots).order_by(t.snapshots.c.generation)).all()
    assert errors == []
    assert [row.generation for row in rows] == list(range(1, 41))
    assert [row.parent_id for row in rows] == [None, *(row.snapshot_id for row in rows[:-1])]
