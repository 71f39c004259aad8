"""Why nothing is trained, and what wakes a training."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace

import pytest

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.runs import RunRepository
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.orchestration.training_plan import plan
from tests.unit.evaluation.conftest import run, verdicts, world  # noqa: F401 - fixtures
from tests.unit.validation.builders import Scene as PetScene
from tests.unit.validation.builders import loaded_project, png

# Why nothing is trained


PLANNED = {"train": {"min_new_labels": 20}, "gate": {"exam": {"min_items": 10}}}


class Plans:
    """A project with labels, and the plan of its next training."""

    def __init__(self, database, store, folder, **project) -> None:
        self.scene = PetScene(database, store, folder, **{**PLANNED, **project})
        self.parts = SimpleNamespace(database=database, store=store, project=lambda _: self.scene.project)

    def plan(self, run_id="run-1", *, force=False):
        return plan(self.parts, "pets", attempt=Attempt(run_id, "plan"), force=force)

    def came_with_labels(self, labels) -> None:
        for index, label in enumerate(labels):
            item_id = self.scene.add_item(png(1000 + index))
            with self.scene.database.write() as connection:
                connection.execute(t.items.update().where(t.items.c.item_id == item_id).values(source_label=label))

    def ask(self, count, *, queue="label", minutes_ago=0.0, start=5000) -> None:
        asked = utc_now() - dt.timedelta(minutes=minutes_ago)
        for index in range(count):
            split = "exam" if queue == "exam" else "train"
            item_id = self.scene.add_item(png(start + index), split=split)
            row = {"project": "pets", "item_id": item_id, "queue": queue, "state": "pushed", "reason": "new"}
            self.scene.insert(t.labeling_tasks, row | {"priority": 0.0, "requested_at": asked, "pushed_at": asked})

    def answered(self, *, minutes_ago: float) -> None:
        at = utc_now() - dt.timedelta(minutes=minutes_ago)
        row = {"project": "pets", "annotation_id": "a1", "revision": "1", "item_id": "i", "queue": "label"}
        row |= {"annotator": "ann", "label": "cat", "result": [], "cancelled": False, "deleted": False}
        self.scene.insert(t.annotations, row | {"lead_time_seconds": 1.0, "created_at": at, "collected_at": at})


@pytest.fixture
def plans(database, object_store, tmp_path):
    return Plans(database, object_store, tmp_path)


def test_labels_that_wait_for_annotate_are_the_reason(plans):
    """`train` right after `ingest` of 4,534 labelled rows said "0 new labels"."""
    plans.came_with_labels(["cat", "dog", "cat", "no class of ours"])
    assert plans.plan() == {
        "idle": "3 labels came with the sources and wait to be taken over: `dethrone annotate pets`, then "
        "`dethrone train pets`.",
        "num_new_labels": 0,
    }


def test_labels_that_are_ignored_are_no_reason(database, object_store, tmp_path):
    plans = Plans(database, object_store, tmp_path, labels={"classes": ["cat", "dog"], "imported": "ignore"})
    plans.came_with_labels(["cat", "dog"])
    assert "got 0 new labels of 20" in plans.plan()["idle"]


def test_every_idle_reason_names_the_next_command(plans):
    plans.scene.add_labeled(3)
    assert plans.plan()["idle"] == (
        "train.min_new_labels must be reached (got 3 new labels of 20). Label more items, or let "
        "`dethrone train pets --force` train and judge with what there is."
    )
    assert plans.plan(force=True)["code"] == "FORCED"


OWN_RECIPE = "from pipeline_tasks.models.image_cnn.recipe import RECIPE  # {}\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"recipe": {"name": "image_cnn", "params": {"epochs": 9}}}, "recipe.params", id="E3-params"),
        pytest.param({"recipe": {"name": "recipe.py"}}, "recipe.name, the code of the recipe", id="E3-name"),
        pytest.param({"recipe": {"name": "image_cnn", "tune": {"trials": 3}}}, "recipe.tune", id="E3-search"),
        pytest.param({"serving": {"runtime": "onnx"}}, "serving.runtime", id="E3-runtime"),
    ],
)
def test_another_recipe_wakes_training_once(plans, change, said):
    folder = plans.scene.project.folder
    (folder / "recipe.py").write_text(OWN_RECIPE.format(1))
    plans.scene.add_labeled(2)
    assert plans.plan(force=True)["code"] == "FORCED"
    assert "idle" in plans.plan("run-2")
    plans.scene.project = loaded_project(folder, **PLANNED, **change)
    planned = plans.plan("run-3")
    assert planned["code"] == "RECIPE_CHANGED"
    assert sorted(said.split(", ")) == sorted(planned["reason"].removesuffix(".").split(": ")[1].split(", "))
    assert "idle" in plans.plan("run-4")  # however run-3 ended: it is not tried again by itself


def test_changed_code_of_an_own_recipe_wakes_training(database, object_store, tmp_path):
    plans = Plans(database, object_store, tmp_path, recipe={"name": "recipe.py"})
    path = tmp_path / "pets" / "recipe.py"
    path.write_text(OWN_RECIPE.format(1))
    assert plans.plan(force=True)["code"] == "FORCED"
    assert "idle" in plans.plan("run-2")
    path.write_text(OWN_RECIPE.format(2))
    assert plans.plan("run-3")["code"] == "RECIPE_CHANGED"


def test_a_first_plan_after_an_upgrade_starts_nothing(plans):
    """Runs of earlier releases did not keep their recipe: that is no change."""
    runs = RunRepository(plans.parts.database)
    runs.open("pets", run_id="old", kind="train", deadline_at=utc_now() + dt.timedelta(days=7), at=utc_now())
    assert "got 0 new labels" in plans.plan()["idle"]


@pytest.mark.parametrize(
    ("opened", "answered", "waits"),
    [
        pytest.param((1, "label", 5), 1, False, id="B7-one-of-many"),
        pytest.param((3, "label", 5), 1, True, id="B7-an-eighth"),
        pytest.param((3, "label", 121), 1, False, id="B7-nobody-answers-it"),
        pytest.param((3, "label", 5), 11, False, id="B7-nobody-is-there"),
        pytest.param((3, "label", 0), None, False, id="B7-pushed-just-now"),
        pytest.param((1, "exam", 5), 1, True, id="B7-exam-in-the-making"),
        pytest.param((0, "exam", 5), 1, False, id="B7-nothing-open"),
    ],
)
def test_training_waits_for_people_who_are_at_work_and_matter(plans, opened, answered, waits):
    """One unlabelled row of 17,410, or a task that nobody will answer, held every training back."""
    num_open, queue, asked = opened
    plans.scene.add_labeled(24)
    plans.ask(num_open, queue=queue, minutes_ago=asked)
    if answered is not None:
        plans.answered(minutes_ago=answered)
    planned = plans.plan()
    assert ("idle" in planned) == waits
    if waits:
        words = f"{num_open} {'exam' if queue == 'exam' else 'training'} tasks"
        assert planned["idle"] == (
            f"people are labeling: {words} are open and the last answer came 1 minute ago. Training waits for them, "
            "until nobody has answered for 10 minutes, for 2 hours at most; `dethrone train pets --force` does not "
            "wait."
        )
        assert plans.plan(force=True)["code"] == "FORCED"


def test_one_open_exam_task_beside_a_frozen_exam_does_not_hold_training_back(database, object_store, tmp_path):
    project = {"train": {"min_new_labels": 20}, "gate": {"exam": {"min_items": 30}}}
    plans = Plans(database, object_store, tmp_path, **project)
    plans.scene.add_labeled(24)
    plans.ask(1, queue="exam", minutes_ago=1)
    plans.answered(minutes_ago=1)
    assert plans.plan()["code"] == "ENOUGH_NEW_LABELS"


def test_exam_labels_that_are_frozen_are_not_waited_beside(plans):
    exam = plans.scene.add_labeled(12, split="exam", start=300)
    plans.scene.add_labeled(3)
    assert plans.scene.datasets.num_decided("pets") == {"label": 3, "exam": 12}
    for item_id in exam[:10]:
        plans.scene.insert(t.exam_items, {"project": "pets", "item_id": item_id, "epoch": 1, "label": "cat"})
    assert plans.scene.datasets.num_decided("pets") == {"label": 3, "exam": 2}


def test_new_labels_are_counted_as_the_snapshot_takes_them(plans):
    ids = plans.scene.add_labeled(5)
    plans.scene.decide(ids[0], "dog", version=2)
    plans.scene.decide(ids[1], None, version=2, status="withdrawn")
    columns = plans.scene.datasets.decided("pets", "train").to_pydict()
    pairs = sorted(plans.scene.datasets.decided_pairs("pets", "train"))
    assert pairs == list(zip(columns["item_id"], columns["label"], strict=True))
    assert len(pairs) == 4
