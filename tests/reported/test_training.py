"""Faults of training, gate and monitor: wrong statements, and inputs that ended them. Source: reports of 2026-11-29."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from pipeline_tasks import assembly, cli
from pipeline_tasks.assembly import utc_now
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.runs import RunRepository
from pipeline_tasks.contracts import Attempt, sha256_hex
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.evaluation import evidence as ev
from pipeline_tasks.evaluation import rule
from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.evaluation.summary import markdown_summary
from pipeline_tasks.models.registry import find_recipe
from pipeline_tasks.project import Gate
from pipeline_tasks.project_init import init_project
from pipeline_tasks.project_loader import load_project
from pipeline_tasks.settings import load_settings
from pipeline_tasks.training import inputs, loading, loop
from pipeline_tasks.training import task as training_task
from pipeline_tasks.training.dataset import rows_of
from pipeline_tasks.training.keys import TrainingKey
from pipeline_tasks.training.metrics import validation_metrics
from pipeline_tasks.training.progress import step_progress
from pipeline_tasks.wiring import shell_run, views
from pipeline_tasks.wiring.links import links_of
from pipeline_tasks.wiring.overview_page import render_overview
from pipeline_tasks.wiring.planning import plan
from pipeline_tasks.wiring.shell_run import closing_lines, figures_of
from tests.fakes import FakeObjectStore
from tests.unit.evaluation import support as s
from tests.unit.evaluation.conftest import run, verdicts, world  # noqa: F401 - fixtures
from tests.unit.monitoring.builders import Production, record
from tests.unit.monitoring.test_task import with_audits
from tests.unit.training.scene import Scene
from tests.unit.validation.builders import Scene as PetScene
from tests.unit.validation.builders import loaded_project, png

DATA = Path(__file__).parent / "data"
TEMPLATES = Path(__file__).resolve().parents[2] / "pipeline_tasks" / "templates"
CLASSES = ("no", "yes")
STACK = {
    "DETHRONE_HOME": "/nowhere",
    "DETHRONE_S3_ENDPOINT": "http://s3",
    "DETHRONE_LABEL_STUDIO_URL": "http://labels",
    "DETHRONE_AIRFLOW_URL": "http://airflow",
    "DETHRONE_GATEWAY_URL": "http://gateway",
}


# D5: the constant answer


def judged(*, num_items: int, num_yes: int, right_yes: int, right_no: int, **gate) -> rule.Decision:
    """Decide on a first model that finds `right_yes` of the rarer class and `right_no` of the commoner one."""
    labels = ["yes"] * num_yes + ["no"] * (num_items - num_yes)
    says_yes = [index < right_yes or index >= num_yes + right_no for index in range(num_items)]
    probabilities_nc = np.array([[0.2 + index / 1e4, 0.8 - index / 1e4] for index in range(num_items)])
    probabilities_nc[~np.array(says_yes)] = probabilities_nc[~np.array(says_yes)][:, ::-1]
    policy = Gate.model_validate({"exam": {"min_items": 100}, **gate})
    answers = ev.ExamAnswers("e", 1, "d", tuple(map(str, range(num_items))), tuple(labels), probabilities_nc, None)
    exam = ev.build_exam_evidence(
        answers,
        policy=policy,
        alpha=ev.alpha_for_use(policy, 1),
        project_classes=CLASSES,
        contender_classes=CLASSES,
        champion_classes=None,
    )
    found = s.first_evidence()
    facts = s.facts(classes=CLASSES)
    return rule.decide(policy, ev.Evidence(CLASSES, facts, None, exam, None, found.exam_use))


@pytest.mark.parametrize(
    ("right", "gate", "expected"),
    [
        pytest.param((20, 121), {}, ("keep", "CONSTANT_FLOOR"), id="D5-reported-71.5-below-72.5"),
        pytest.param((0, 145), {}, ("keep", "CONSTANT_FLOOR"), id="D5-the-constant-answer-itself"),
        pytest.param((12, 140), {}, ("inconclusive", "CONSTANT_UNCERTAIN"), id="D5-three-points-of-chance"),
        pytest.param((45, 135), {}, ("promote", "FLOORS_MET"), id="D5-better"),
        pytest.param((20, 121), {"floors": {"accuracy": 0.5}}, ("promote", "FLOORS_MET"), id="D5-a-floor-that-is-set"),
        pytest.param((45, 100), {"metric": "macro_f1"}, ("promote", "FLOORS_MET"), id="D5-by-macro-f1"),
        pytest.param((0, 145), {"metric": "macro_f1"}, ("keep", "CONSTANT_FLOOR"), id="D5-constant-by-macro-f1"),
    ],
)
def test_a_first_model_has_to_beat_the_constant_answer(right, gate, expected):
    """A promoted model had 71.4 % where always the commoner class has 72.5 %."""
    decision = judged(num_items=200, num_yes=55, right_yes=right[0], right_no=right[1], **gate)
    assert (decision.answer, decision.code) == expected
    assert "always answering no" in " ".join(reason.text for reason in decision.reasons)


def test_the_default_floor_says_both_figures():
    decision = judged(num_items=200, num_yes=55, right_yes=20, right_no=121)
    assert decision.headline == (
        "No champion yet: accuracy on the current exam of 200 items is 70.5 %, and 72.5 % for always answering no: a "
        "first model has to be better (gate.floors.accuracy: above_constant)."
    )


def test_a_floor_below_the_constant_answer_stays_and_is_told():
    reasons = judged(num_items=200, num_yes=55, right_yes=20, right_no=121, floors={"accuracy": 0.5}).reasons
    (note,) = [reason for reason in reasons if reason.code == "CONSTANT_ANSWER"]
    assert note.stand == "note"
    assert note.text == (
        "on the 200 items of the current exam always answering no has 72.5 % accuracy, the contender 70.5 %: it is "
        "worth no more than one answer to everything."
    )


@pytest.mark.parametrize("name", ["first", "with_champion", "macro_f1"])
def test_a_verdict_of_the_rule_before_replays_byte_for_byte(name):
    """Verdicts of rule version 3, from before the constant answer stood in them (9c02990)."""
    stored = (DATA / "verdict_rule_3" / f"{name}.json").read_bytes()
    again = vd.replay(json.loads(stored), (DATA / "verdict_rule_3" / f"{name}.parquet").read_bytes())
    assert vd.document_bytes(again) == stored
    assert "constant" not in again["evidence"]["current"]
    assert "always" not in markdown_summary(again)


def test_the_constant_answer_stands_in_verdict_report_and_summary(judge_pair):
    document, page = judge_pair(champion="old")
    assert document["question"]["rule_version"] == 4
    constant = document["evidence"]["current"]["constant"]
    assert constant == {"label": "shirt", "accuracy": 0.5, "macro_f1": 0.333333333, "gain": None}
    assert document["evidence"]["previous"]["constant"]["accuracy"] == 0.5
    assert "Accuracy, always shirt" in page
    assert "<th>Constant answer</th>" in page
    assert "| Accuracy | 80.0 % | 100.0 % | 50.0 % |" in markdown_summary(document)
    assert "| Macro F1 | 80.0 % | 100.0 % | 33.3 % |" in markdown_summary(document)


def test_a_first_models_gain_over_the_constant_answer_is_evidence(judge_pair):
    document, page = judge_pair(champion=None)
    gain = document["evidence"]["current"]["constant"]["gain"]
    assert (gain["difference"], gain["num_wins"], gain["num_losses"]) == (0.5, 60, 0)
    assert "above the constant answer (first model)" in page
    assert document["decision"]["code"] == "FLOORS_MET"


def test_training_metrics_hold_the_constant_answer():
    probabilities_nc = np.array([[0.9, 0.1]] * 10, dtype=np.float32)
    metrics = validation_metrics(probabilities_nc, np.array([0] * 7 + [1] * 3), CLASSES)
    assert metrics["constant"] == {"label": "no", "accuracy": 0.7, "macro_f1": 0.411765}
    assert (metrics["accuracy"], metrics["macro_f1"]) == (0.7, pytest.approx(0.411765, abs=2e-6))


@pytest.mark.parametrize("folder", sorted(path.name for path in TEMPLATES.iterdir() if path.is_dir()))
def test_templates_ask_for_more_than_the_constant_answer(folder, tmp_path):
    loaded = load_project(init_project(tmp_path, name="my_project", template=folder))
    assert loaded.config.gate.floors.accuracy == "above_constant"


@pytest.fixture
def judge_pair(run, object_store):  # noqa: F811
    def call(**parties):
        ref = run(**parties)
        document = json.loads(object_store.get(f"{ref.object_key}/verdict.json"))
        return document, object_store.get(f"{ref.object_key}/report.html").decode().replace("\N{NO-BREAK SPACE}", " ")

    return call


# D7: what a search chooses by


def fit_as_told(recipe, data, plan, *, on_epoch=lambda _: None, **_):
    """Stand for a fit: trial 1 is better by accuracy, trial 2 by macro F1."""
    first = plan.label != "trial 2"
    metrics = {"accuracy": 0.9 if first else 0.8, "macro_f1": 0.5 if first else 0.7, "log_loss": 0.4}
    on_epoch(loop.EpochReport(1, 1, 0.1, 0.01, metrics))
    module = recipe.build(plan.params, len(data.classes)).eval()
    return module, [{"epoch": 1, "loss": 0.1, "metrics": metrics}]


@pytest.fixture
def make_scene(database, object_store, tmp_path):
    return lambda **project: Scene(database, object_store, tmp_path, **project)


@pytest.mark.parametrize(("metric", "chosen"), [("accuracy", 0), ("macro_f1", 1)], ids=["D7-accuracy", "D7-macro-f1"])
def test_the_search_looks_at_the_gates_metric(make_scene, monkeypatch, metric, chosen):
    monkeypatch.setattr(training_task, "fit", fit_as_told)
    scene = make_scene(tune={"trials": 2, "epochs": 1}, gate={"metric": metric})
    found = scene.models.get("stripes", scene.train().version).metrics
    assert found["chosen_by"] == metric
    assert [trial["value"] for trial in found["trials"]] == ([0.9, 0.8] if metric == "accuracy" else [0.5, 0.7])
    best = found["trials"][chosen]["params"]
    version = scene.models.history("stripes")[-1]
    assert {name: version.params[name] for name in best} == best


KEY = ("p", "s", ("a", "b"), "text_bow", "d", {"epochs": 3})


@pytest.mark.parametrize(
    ("key", "digest"),
    [
        (
            TrainingKey(*KEY, {"trials": 4, "epochs": 2}, 7, 1, "lock"),
            "c70e5841444c280a1edf16725f49782efb5e9460e6c59edad20fe0f680235d9b",
        ),
        (
            TrainingKey(*KEY, None, 7, 1, "lock", "onnx"),
            "a8ccc8a52e645a05dcaf39f16a150e74e8bf5d2a0c292bc22c16c6054bb59fb3",
        ),
    ],
    ids=["D7-search-by-accuracy", "D7-no-search"],
)
def test_training_keys_of_installed_versions_stay(key, digest):
    """Digests computed at 9c02990: a training that was done is adopted, not repeated."""
    assert key.digest == digest


def test_a_search_by_another_metric_is_another_training():
    key = TrainingKey(*KEY, {"trials": 4, "epochs": 2}, 7, 1, "lock")
    assert dataclasses.replace(key, metric="macro_f1").digest != key.digest


# G7: arguments that no caller had


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        pytest.param({}, (1, None), id="G7-default"),
        pytest.param({"DETHRONE_TRAIN_THREADS": "4", "DETHRONE_TRAIN_DEVICE": "cuda:1"}, (4, "cuda:1"), id="G7-set"),
    ],
)
def test_threads_and_device_of_trainings_are_settings(variables, expected):
    settings = load_settings(STACK | variables)
    assert (settings.train_threads, settings.train_device) == expected


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"DETHRONE_TRAIN_THREADS": "0"}, r"DETHRONE_TRAIN_THREADS must be a whole number from 1 to 1024 \(got '0'\)"),
        ({"DETHRONE_TRAIN_THREADS": "²"}, r"DETHRONE_TRAIN_THREADS must be a whole number from 1 to 1024"),
        ({"DETHRONE_TRAIN_DEVICE": "gpu"}, r"DETHRONE_TRAIN_DEVICE must be cpu, cuda or cuda:<number> \(got 'gpu'\)"),
    ],
)
def test_wrong_threads_and_devices_are_refused(variables, message):
    with pytest.raises(ConfigError, match=message):
        load_settings(STACK | variables)


@pytest.mark.parametrize(("waiting", "said"), [(2, "2 runs uploaded."), (0, "No offline run waits.")])
def test_offline_runs_are_uploaded_by_a_command(monkeypatch, capsys, waiting, said):
    tracker = SimpleNamespace(sync=lambda: [Path("run")] * waiting)
    monkeypatch.setattr(assembly, "build_parts", lambda: SimpleNamespace(tracker=tracker))
    assert cli.main(["wandb", "sync"]) == 0
    assert capsys.readouterr().out.strip() == said


# G2: a setting and advice that cannot be followed


def test_a_project_that_sets_new_classes_loads_and_is_told(tmp_path, monkeypatch, capsys):
    """`gate.new_classes` can never act: the classes of a project stay as they were at its first labeling."""
    folder = init_project(tmp_path, name="my_project", template="image-classification")
    text = (folder / "project.yaml").read_text()
    (folder / "project.yaml").write_text(text.replace("gate:\n", "gate:\n  new_classes: judge\n", 1))
    monkeypatch.setenv("DETHRONE_PROJECTS", str(tmp_path))
    assert cli.main(["project", "validate", "my_project"]) == 0
    said = capsys.readouterr()
    assert "my_project is valid" in said.out
    assert "gate.new_classes has no effect" in said.err
    (folder / "project.yaml").write_text(text)
    assert cli.main(["project", "validate", "my_project"]) == 0
    assert "new_classes" not in capsys.readouterr().err


# E3 and B7: why nothing is trained


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
    """E3: `train` right after `ingest` of 4,534 labelled rows said "0 new labels"."""
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
    found = plans.plan("run-3")
    assert found["code"] == "RECIPE_CHANGED"
    assert sorted(said.split(", ")) == sorted(found["reason"].removesuffix(".").split(": ")[1].split(", "))
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
    found = plans.plan()
    assert ("idle" in found) == waits
    if waits:
        words = f"{num_open} {'exam' if queue == 'exam' else 'training'} tasks"
        assert found["idle"] == (
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


# E14 and G4: an alarm that somebody sees, and the page that was said to be there


@pytest.fixture
def drifted(database, object_store, tmp_path):
    """Two blocks of answers that are far from the exam's, and what the monitor made of them."""
    production = Production(database, object_store, tmp_path)
    production.crown("m1", accuracy=0.9, answers=[[0.95, 0.05]] * 300)
    for run_id, start in (("run-1", 0), ("run-2", 200)):
        production.log(*[record(number, confidence=0.35, payload=png(0)) for number in range(start, start + 200)])
        report = production.run(run_id)
    return production, report


def test_a_drift_alarm_is_the_windows_one_state(drifted):
    """E14: `state: OK` (here: INSUFFICIENT_DATA) stood beside an alarm."""
    production, report = drifted
    assert report.alarms == ("Answers of m1 have moved from its exam: confidence PSI 12.14, label distance 0.00.",)
    assert report.state == "ALARM"
    (window,) = production.monitoring.windows("pets", "quality", limit=1)
    assert window.statistics["state"] == "ALARM"
    assert window.statistics["versions"]["m1"]["state"] == "INSUFFICIENT_DATA"
    assert production.monitoring.has_open_alarm("pets") is False  # drift asks people, it does not wake training


def test_each_window_has_a_page_with_its_alarms_and_figures(drifted, object_store):
    """G4: the DAG's doc and the plugin spoke of a page that nothing wrote."""
    production, report = drifted
    assert report.report_key == f"reports/pets/monitor/{report.window_id}.html"
    page = object_store.get(report.report_key).decode().replace("\N{NO-BREAK SPACE}", " ")
    for said in (
        "Alarm",
        "Answers of m1 have moved from its exam",
        "m1: nothing audited yet, exam 0.900",
        "DRIFT: 200 predictions beside the exam",
        '<tr><td>30 to 40 %</td><td class="number">0.0 %</td><td class="number">100.0 %</td></tr>',
        '<tr><td>90 to 100 %</td><td class="number">100.0 %</td><td class="number">0.0 %</td></tr>',
    ):
        assert said in page
    assert "<script" not in page
    again = production.run("run-2", number=2)
    assert (again.report_key, object_store.get(again.report_key).decode().count("<h1>")) == (report.report_key, 1)


def test_a_window_without_figures_has_a_page_too(database, object_store, tmp_path):
    report = Production(database, object_store, tmp_path).run("run-1")
    page = object_store.get(report.report_key).decode()
    assert "Too little data: neither an alarm nor an all-clear" in page
    assert "Not measured yet: 0 predictions so far." in page


def test_live_quality_stands_on_the_page_window_by_window(database, object_store, tmp_path):
    production = Production(database, object_store, tmp_path, audit_share=1.0)
    production.crown("m1", accuracy=0.9)
    with_audits(production, right=8, wrong=12)
    report = production.run("run-2")
    page = object_store.get(report.report_key).decode().replace("\N{NO-BREAK SPACE}", " ")
    assert report.state == "ALARM"
    assert '<td class="number">10</td><td>80.0 % <span class="small">49.0 % to 94.3 %</span></td>' in page
    assert '<td class="number">10</td><td>0.0 % <span class="small">0.0 % to 27.8 %</span></td>' in page


def test_the_overview_shows_the_alarms_of_the_champion_of_now(drifted):
    production, report = drifted
    settings = SimpleNamespace(airflow_url="http://airflow", label_studio_url="http://labels")
    parts = SimpleNamespace(database=production.database, store=production.outside.store, settings=settings)
    line = views._line(parts, "pets", "pets")
    assert line.alarms == report.alarms
    page = render_overview([line])
    assert f"<p class=alarm><b>Alarm.</b> {report.alarms[0]}</p>" in page
    assert f"/dethrone/reports/{report.report_key}" in page
    production.crown("m2", generation=2)
    assert views._line(parts, "pets", "pets").alarms == ()


def test_the_monitors_button_leads_to_its_page_and_not_to_the_data_checks():
    settings = SimpleNamespace(airflow_url="http://airflow")
    assert links_of(settings, report="reports/pets/monitor/w.html") == {
        "Report": "http://airflow/dethrone/reports/reports/pets/monitor/w.html"
    }
    assert "Data Docs" in links_of(settings, report="reports/pets/checks/items/1.html")


# Point 9: progress, and the figures at the end


@pytest.mark.parametrize(
    ("champion", "expected"),
    [
        (
            "old",
            [
                "  Accuracy: contender 100.0 % (96.9 to 100.0), champion 80.0 % (72.0 to 86.2), always shirt 50.0 %",
                "  Macro F1: contender 100.0 % (100.0 to 100.0), champion 80.0 % (72.5 to 86.6), always shirt 33.3 %",
            ],
        ),
        (
            None,
            [
                "  Accuracy: contender 100.0 % (96.9 to 100.0), always shirt 50.0 %",
                "  Macro F1: contender 100.0 % (100.0 to 100.0), always shirt 33.3 %",
            ],
        ),
    ],
    ids=["P9-champion", "P9-first"],
)
def test_a_training_ends_with_its_figures(run, database, object_store, champion, expected):  # noqa: F811
    verdict_id = run(champion=champion).verdict_id
    figures = figures_of(SimpleNamespace(database=database, store=object_store), "fashion", verdict_id=verdict_id)
    found = {"outcome": "rejected", "reason": "nobody answered", "figures": figures}
    lines = closing_lines("fashion", {**found, "seconds": {"train": 200.4, "judge": 3.2}}).splitlines()
    assert lines[:2] == ["Rejected: nobody answered", "On exam 2 of 120 items:"]
    assert lines[2:4] == expected
    assert lines[4].startswith(f"Verdict {verdict_id[:12]}: Promote the ")
    assert lines[5] == f"Serves now: nothing yet. The report: `dethrone report fashion {verdict_id[:12]}`"
    assert lines[6] == "Took 3 m 24 s: train 3 m 20 s, judge 3 s"


@pytest.fixture
def trained(monkeypatch, tmp_path):
    (tmp_path / "pets").mkdir()
    monkeypatch.setenv("DETHRONE_PROJECTS", str(tmp_path))

    def stand_in(project, **_):
        logging.getLogger("pipeline_tasks.training.progress").info("train: step 30 of 90, 6 s left")
        return {"idle": f"{project} has nothing new", "num_new_labels": 0}

    monkeypatch.setattr(shell_run, "train_to_serve", stand_in)


def test_train_shows_progress_on_standard_error_and_ends_in_words(trained, capsys):
    assert cli.main(["train", "pets"]) == 0
    said = capsys.readouterr()
    assert said.err == "train: step 30 of 90, 6 s left\n"
    assert said.out == "Nothing was trained: pets has nothing new\n"


def test_train_with_json_prints_json_alone(trained, capsys):
    assert cli.main(["train", "pets", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"idle": "pets has nothing new", "num_new_labels": 0}
    assert not logging.getLogger("pipeline_tasks").handlers


def test_decoding_says_how_far_it_is(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(inputs, "step_progress", functools.partial(step_progress, every_seconds=0.0))
    items = [(row, bytes([row])) for row in range(200)]
    with caplog.at_level(logging.INFO):
        decode = lambda data: np.frombuffer(data, dtype=np.uint8)  # noqa: E731
        inputs.decode_inputs(lambda: items, num_rows=200, decode=decode, folder=tmp_path, key="k")
    assert [line.split(",")[0] for line in caplog.messages] == ["decode: step 100 of 200", "decode: step 200 of 200"]


# Point 9: memory that does not grow with the batch


@pytest.mark.parametrize(
    "sizes", [[100], [1, 99], [30, 30, 40], [1] * 100], ids=lambda sizes: f"P9-{len(sizes)}-batches"
)
def test_statistics_of_batches_are_those_of_the_whole(sizes):
    random = np.random.default_rng(3)
    rows = (random.normal(size=(100, 4)) * [1, 1000, 1e-3, 1] + [0, 1e6, 5, 0]).astype(np.float32)
    rows[::3, 1] = np.nan
    rows[:, 3] = np.nan
    recipe = find_recipe("tabular_mlp").recipe
    model = recipe.build(recipe.resolve({"numbers": ["a", "b", "c", "d"]}), 2)
    recipe.fit_statistics(model, iter(np.split(rows, np.cumsum(sizes)[:-1])))
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    exact = rows[:, :3].astype(np.float64)
    assert state["mean"][:3] == pytest.approx(np.nanmean(exact, axis=0), rel=1e-6, abs=1e-6)
    assert state["deviation"][:3] == pytest.approx(np.nanstd(exact, axis=0), rel=1e-5)
    assert (state["mean"][3], state["deviation"][3]) == (0.0, 1.0)


def test_training_rows_are_read_object_after_object(monkeypatch):
    monkeypatch.setattr(loading, "READ_AT_ONCE", 2)
    payloads = [f"row {number}".encode() for number in range(6)]
    store = FakeObjectStore()
    packs = {f"packs/{name}": payloads[start::3] for start, name in enumerate("abc")}
    rows = []
    for key, parts in packs.items():
        store.put(key, b"".join(parts))
        for index, data in enumerate(parts):
            row = {"item_id": sha256_hex(data), "label": "no", "split": "train", "group_key": data.decode()}
            rows.append(row | {"object_key": key, "offset": index * len(data), "size_bytes": len(data)})
    found = rows_of(pa.Table.from_pylist(rows[::-1]))
    read = dict(loading.read_rows("pets", found, store=store))
    assert [sha256_hex(read[row]) for row in range(6)] == sorted(row["item_id"] for row in rows)
    assert (
        [row.item_id for row in found]
        == [found[row].item_id for row in range(6)]
        == sorted(row["item_id"] for row in rows)
    )
    assert list(found.group_keys(np.array([4, 1]))) == [found[4].group_key, found[1].group_key]


def test_an_index_of_an_earlier_release_is_decoded_anew(tmp_path):
    old = {"key": "k", "file": "x", "dtype": "uint8", "tail_shape": [], "starts": [0], "lengths": [1], "skipped": {}}
    (tmp_path / inputs.INDEX_NAME).write_text(json.dumps(old))
    found = inputs.decode_inputs(
        lambda: [(0, b"ab")],
        num_rows=1,
        decode=lambda data: np.frombuffer(data, dtype=np.uint8),
        folder=tmp_path,
        key="k",
    )
    assert found.take([0])[0].tolist() == [97, 98]


def test_new_labels_are_counted_as_the_snapshot_takes_them(plans):
    ids = plans.scene.add_labeled(5)
    plans.scene.decide(ids[0], "dog", version=2)
    plans.scene.decide(ids[1], None, version=2, status="withdrawn")
    columns = plans.scene.datasets.decided("pets", "train").to_pydict()
    pairs = sorted(plans.scene.datasets.decided_pairs("pets", "train"))
    assert pairs == list(zip(columns["item_id"], columns["label"], strict=True))
    assert len(pairs) == 4
