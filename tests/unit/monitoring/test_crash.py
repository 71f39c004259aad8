"""Kill the monitor at every crash point; the next run asks people about the same predictions, once."""

import pytest

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database, create_engine
from tests import crash
from tests.fakes import FolderObjectStore
from tests.unit.monitoring.builders import Production, feedback, record


def production_at(folder) -> Production:
    database = Database(create_engine(f"sqlite:///{folder / 'catalog.db'}"))
    return Production(
        database, FolderObjectStore(folder / "s3"), folder, audit_share=0.5, max_audits=6, max_uncertain=4
    )


def watch(folder) -> None:
    production_at(folder).run()


@pytest.fixture
def new_world(tmp_path):
    made = []

    def world():
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(folder)
        engine = create_engine(f"sqlite:///{folder / 'catalog.db'}")
        t.metadata.create_all(engine)
        engine.dispose()
        production = production_at(folder)
        production.log(*[record(number, confidence=number / 40) for number in range(20)])
        production.log(*[record(number, confidence=number / 40) for number in range(20, 40)], feedback(3, "dog"))
        return folder

    return world


def state(folder):
    production = production_at(folder)
    audits = sorted((row["prediction_id"], row["kind"], row["item_id"]) for row in production.rows(t.audits))
    tasks = sorted(
        (row["item_id"], row["queue"], row["reason"], str(row["prediction"]))
        for row in production.rows(t.labeling_tasks)
    )
    return {
        "audits": audits,
        "tasks": tasks,
        "items": sorted(row["item_id"] for row in production.rows(t.items)),
        "outcomes": len(production.rows(t.outcomes)),
        "parts": sorted(
            (row["object_key"], row["num_predictions"], row["num_feedback"])
            for row in production.rows(t.prediction_parts)
        ),
        "windows": sorted((row["window_id"], str(row["statistics"])) for row in production.rows(t.monitor_windows)),
    }


def test_the_same_picks_after_a_kill_at_every_point(new_world):
    calm = new_world()
    points = crash.points_passed(watch, calm)
    assert {"monitor.pick.before", "monitor.picks.recorded", "monitor.pick.after", "monitor.pick.recorded"} <= set(
        points
    )
    assert "ingest.put.after" in points
    # The points inside ingest have their own matrix; one of them shows that the monitor comes back from there too.
    points = [point for point in points if point.startswith("monitor.") or point == "ingest.put.after"]
    expected = state(calm)
    assert len(expected["audits"]) == len(expected["tasks"]) == 10

    def check(folder) -> None:
        assert state(folder) == expected

    crash.crash_everywhere(points, world=new_world, run=watch, check=check)


def test_parts_that_arrive_after_the_crash_do_not_raise_the_budget(new_world):
    folder = new_world()
    crash.crash_at("monitor.pick.after", watch, folder)
    production = production_at(folder)
    before = {row["prediction_id"] for row in production.rows(t.audits)}
    production.log(*[record(number, confidence=0.001) for number in range(100, 150)])
    crash.run_in_child(watch, folder)
    after = {row["prediction_id"] for row in production.rows(t.audits)}
    assert before == after
    assert len(production.rows(t.labeling_tasks)) == 10
