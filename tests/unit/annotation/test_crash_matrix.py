"""Annotate and collect with a kill at every crash point of theirs: nothing lost, no item twice in Label Studio."""

import os
import re
import signal
from pathlib import Path

import pytest

from pipeline_tasks.catalog import tables
from pipeline_tasks.catalog.database import Database, create_engine
from tests.fakes_labeling import FakeLabelStudio
from tests.labeling_case import Case, child

ROOT = Path(__file__).parents[3]
SOURCES = sorted((ROOT / "pipeline_tasks" / "annotation").rglob("*.py"))
POINTS = sorted({name for path in SOURCES for name in re.findall(r'crash_point\("([^"]+)"\)', path.read_text())})
KILLED = -signal.SIGKILL
NUM_ITEMS = 7


def run(stage, folder, crash_at="", trace=""):
    """Run a stage in a forked child (starting an interpreter for each would take minutes) and return how it ended."""
    child_id = os.fork()
    if child_id == 0:
        code = 1
        try:
            child(stage, str(folder), crash_at, str(trace))
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child_id, 0)[1])


@pytest.fixture
def case(tmp_path):
    """A catalog and a Label Studio in files, with seven items."""
    engine = create_engine(f"sqlite:///{tmp_path / 'catalog.db'}")
    tables.metadata.create_all(engine)
    case = Case(Database(engine), FakeLabelStudio(tmp_path / "ls.json"))
    case.folder = tmp_path
    case.train = case.add_numbers(range(5))
    case.exam = case.add_numbers(range(5, NUM_ITEMS), split="exam")
    yield case
    engine.dispose()


def reopened(case):
    fresh = Case(case.database, FakeLabelStudio(case.folder / "ls.json"), store=case.store)
    fresh.train, fresh.exam = case.train, case.exam
    return fresh


def with_double(case):
    """Let Label Studio hold a double of one item, as an older attempt leaves it."""
    from pipeline_tasks.core.ports import LabelingTask

    case.annotate()
    case.labeling.import_tasks(case.ls_project(), [LabelingTask(case.train[0], {"image": "x"})])


def with_changed(case):
    """Let somebody have changed the item id of a task in Label Studio; the double makes annotate look."""
    with_double(case)
    task = min(case.labeling.tasks_of(case.ls_project()), key=lambda body: body["id"])
    case.labeling.edit_data(task["id"], item_id="changed")


def with_answers(case):
    """Let people answer, one of them deleting an answer that was collected, and two differing on an exam item."""
    case.annotate()
    gone = case.labeling.answer(case.ls_project(), case.train[0], "cat")
    case.collect()
    case.labeling.delete_annotation(gone)
    for item_id in case.train[1:]:
        case.labeling.answer(case.ls_project(), item_id, "dog")
    for item_id, label in zip(case.exam, ("owl", "cat"), strict=True):
        case.labeling.answer(case.ls_project("exam"), item_id, "owl", by="a@x")
        case.labeling.answer(case.ls_project("exam"), item_id, label, by="b@x")


def points_of(stage):
    return [name for name in POINTS if name.startswith(f"{stage}.")]


def test_every_point_is_passed(case):
    trace = case.folder / "trace"
    trace.touch()
    assert run("annotate", case.folder, trace=trace) == 0
    with_changed(reopened(case))
    assert run("annotate", case.folder, trace=trace) == 0
    with_answers(reopened(case))
    assert run("collect", case.folder, trace=trace) == 0
    assert run("migrate", case.folder, trace=trace) == 0
    assert sorted(set(trace.read_text().split())) == POINTS


@pytest.mark.parametrize("point", points_of("annotate"))
def test_annotate_killed_anywhere_pushes_each_item_once(case, point):
    if point.startswith("annotate.dedupe."):
        with_double(case)
    if point.startswith("annotate.repair."):
        with_changed(case)
    assert run("annotate", case.folder, crash_at=point) == KILLED
    assert run("annotate", case.folder) == 0
    after = reopened(case)
    assert after.tasks_per_item("label") == dict.fromkeys(case.train, 1)
    assert after.tasks_per_item("exam") == dict.fromkeys(case.exam, 1)
    states = after.labels.counts("pets")
    assert (states["label"].pushed, states["exam"].pushed) == (5, 2)
    assert states["label"].outstanding + states["exam"].outstanding == NUM_ITEMS


@pytest.mark.parametrize("point", points_of("collect"))
def test_collect_killed_anywhere_decides_each_item_once(case, point):
    with_answers(case)
    assert run("collect", case.folder, crash_at=point) == KILLED
    assert run("collect", case.folder) == 0
    after = reopened(case)
    assert after.label_of(case.train[0]) == (2, "withdrawn", None)
    assert [after.label_of(item_id) for item_id in case.train[1:]] == [(1, "decided", "dog")] * 4
    assert [after.label_of(item_id) for item_id in case.exam] == [(1, "decided", "owl"), (1, "disputed", None)]
    assert after.labeling.shown_to(after.ls_project("exam"), "c@x") == case.exam[1:]
    assert after.collect().num_annotations == 0


@pytest.mark.parametrize("point", [*points_of("migrate"), "annotate.project.before", "annotate.project.after"])
def test_a_migration_and_its_undo_killed_anywhere_end_the_same(case, point):
    with_answers(case)
    case.collect()
    for stage in ("migrate", "undo"):
        assert run(stage, case.folder, crash_at=point) == KILLED
        assert run(stage, case.folder) == 0
    after = reopened(case)
    labels = [[row.label for row in after.labels.history("pets", item_id)] for item_id in case.train[1:]]
    assert labels == [["dog", "pet", "dog"]] * 4
    assert after.labels.registration("pets")[1] == 3
    assert '"dog"' in after.labeling.project(after.ls_project()).label_config
    assert after.collect().num_decided == 0
