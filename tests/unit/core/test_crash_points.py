"""Crash points: armed ones kill, all are listed, and a stage that was killed is run again."""

from pathlib import Path

import pytest

import pipeline_tasks
from pipeline_tasks.core import crash_points
from pipeline_tasks.core.crash_points import all_points, crash_point
from pipeline_tasks.errors import ConfigError
from tests import crash

SOURCE = Path(pipeline_tasks.__file__).parent


@pytest.fixture(autouse=True)
def _disarmed():
    yield
    crash_points.arm(None)


def stage(folder: Path) -> None:
    """A stage with one side effect (a file) and its record."""
    crash_point("stage.put.before")
    (folder / "effect").write_text("1")
    crash_point("stage.put.after")
    (folder / "record").write_text("1")
    crash_point("stage.put.recorded")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(folder: Path, text: str) -> Path:
    (folder / "module.py").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("moment", "left"), [("before", []), ("after", ["effect"]), ("recorded", ["effect", "record"])]
)
def test_an_armed_point_kills_at_its_moment_and_the_next_run_ends(tmp_path, moment, left):
    crash.crash_at(f"stage.put.{moment}", stage, tmp_path)
    assert files(tmp_path) == left
    crash.run_in_child(stage, tmp_path)
    assert files(tmp_path) == ["effect", "record"]


def test_a_point_that_is_never_hit_fails_the_test(tmp_path):
    with pytest.raises(AssertionError, match=r"stage\.other\.before was not hit: exit code 0"):
        crash.crash_at("stage.other.before", stage, tmp_path)


def test_an_exception_in_the_child_fails_the_test_with_its_traceback(tmp_path):
    with pytest.raises(AssertionError, match="FileNotFoundError"):
        crash.run_in_child(stage, tmp_path / "missing")
    with pytest.raises(AssertionError, match="FileNotFoundError"):
        crash.crash_at("stage.put.after", stage, tmp_path / "missing")


def test_the_points_a_run_passes_are_listed_in_order(tmp_path):
    assert crash.points_passed(stage, tmp_path) == ["stage.put.before", "stage.put.after", "stage.put.recorded"]


def test_a_run_is_killed_at_every_point_that_it_passes(tmp_path):
    worlds = []

    def world() -> Path:
        worlds.append(tmp_path / str(len(worlds)))
        worlds[-1].mkdir()
        return worlds[-1]

    checked = []
    points = crash.points_passed(stage, world())
    crash.crash_everywhere(points, world=world, run=stage, check=lambda folder: checked.append(files(folder)))
    assert checked == [["effect", "record"]] * 3


def test_a_disarmed_point_does_nothing(tmp_path):
    stage(tmp_path)
    assert files(tmp_path) == ["effect", "record"]


def test_every_point_of_the_source_has_a_place():
    points = all_points([SOURCE])
    assert points["snapshot.put.before"].startswith(str(SOURCE / "validation"))
    assert {name.rsplit(".", 1)[1] for name in points} == {"before", "after", "recorded"}


@pytest.mark.parametrize(
    "call", ["crash_point(name)", "crash_point('a.b')", "crash_point('a.b.later')", "crash_point()"]
)
def test_a_point_that_is_no_proper_literal_is_refused(tmp_path, call):
    with pytest.raises(ValueError, match=r"module\.py:1: a crash point must be one literal"):
        all_points([write(tmp_path, call)])


def test_a_point_in_two_places_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must stand in one place \(a\.b\.after is at .*module\.py:1 too\)"):
        all_points([write(tmp_path, "crash_point('a.b.after')\nfaults.crash_point('a.b.after')\n")])


def test_other_calls_are_no_points(tmp_path):
    assert all_points([write(tmp_path, "other('a.b.after')\nf()('x')\n")]) == {}


def test_arming_an_unknown_name_is_refused():
    with pytest.raises(
        ConfigError, match=r"DETHRONE_CRASH_POINT must name a crash point in the source \(got 'a.b.after'\)"
    ):
        crash_points.arm_from({"DETHRONE_CRASH_POINT": "a.b.after"})


def test_the_environment_arms_a_point_and_a_trace(tmp_path):
    trace = tmp_path / "trace"
    crash_points.arm_from({"DETHRONE_CRASH_POINT": "snapshot.put.before", "DETHRONE_CRASH_TRACE": str(trace)})
    crash_point("snapshot.put.after")
    assert trace.read_text() == "snapshot.put.after\n"
    crash_points.arm_from({})
    crash_point("snapshot.put.before")
