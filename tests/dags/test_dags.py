"""Each DAG loads, has the structure of its doc, is light, and fails safe."""

import datetime as dt
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = ("fashion", "newsgroups")
# verb -> task -> downstream tasks
STRUCTURE = {
    "ingest": {"ingest": set()},
    "annotate": {"annotate": set()},
    "collect": {"collect": set()},
    "train": {
        "plan": {"snapshot"},
        "snapshot": {"train"},
        "train": {"judge"},
        "judge": {"approve"},
        "approve": {"release"},
        "release": {"ship"},
        "ship": {"finish"},
        "finish": set(),
    },
    "monitor": {"monitor": {"alarm"}, "alarm": set()},
    "rollback": {"rollback": set()},
    "batch_predict": {"batch_predict": set()},
}
OUTLETS = {
    "ingest": {"ingest": {"items"}},
    "annotate": {"annotate": {"tasks", "labels"}},
    "collect": {"collect": {"labels"}},
    "train": {
        "snapshot": {"snapshots"},
        "train": {"models"},
        "judge": {"verdicts"},
        "ship": {"champion"},
    },
    "monitor": {"monitor": {"review"}, "alarm": {"alarms"}},
    "rollback": {"rollback": {"champion"}},
    "batch_predict": {"batch_predict": {"batch_predictions"}},
}
WAKERS = {
    "ingest": {"arrivals"},
    "annotate": {"items", "review"},
    "collect": {"annotations"},
    "train": {"labels", "alarms"},
    "monitor": set(),
    "rollback": set(),
    "batch_predict": set(),
}


@pytest.fixture(scope="module")
def bag():
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(dag_folder=str(ROOT / "dags"), bundle_path=ROOT / "dags")


@pytest.fixture(scope="module")
def dags(bag):
    return dict(bag.dags)


def test_every_file_loads(bag):
    assert bag.import_errors == {}


def test_one_set_of_dags_for_each_project(dags):
    assert set(dags) == {f"{project}__{verb}" for project in PROJECTS for verb in STRUCTURE}


@pytest.mark.parametrize("project", PROJECTS)
@pytest.mark.parametrize("verb", STRUCTURE)
def test_structure(dags, project, verb):
    dag = dags[f"{project}__{verb}"]
    assert {task.task_id: set(task.downstream_task_ids) for task in dag.tasks} == STRUCTURE[verb]


@pytest.mark.parametrize("verb", STRUCTURE)
def test_assets_tie_the_dags_together(dags, verb):
    dag = dags[f"fashion__{verb}"]
    for task in dag.tasks:
        expected = OUTLETS[verb].get(task.task_id, set())
        assert {outlet.name for outlet in task.outlets} == {f"fashion_{kind}" for kind in expected}


@pytest.mark.parametrize("verb", STRUCTURE)
def test_events_wake_and_a_schedule_sweeps(dags, verb):
    timetable = dags[f"newsgroups__{verb}"].timetable
    condition = getattr(timetable, "asset_condition", None)
    assets = {asset.name for asset in getattr(condition, "objects", [condition])} if condition is not None else set()
    assert assets == {f"newsgroups_{kind}" for kind in WAKERS[verb]}
    swept = verb in {"ingest", "annotate", "collect", "train", "monitor"}
    assert ("cron" in timetable.__class__.__name__.lower() or "ortime" in timetable.__class__.__name__.lower()) == swept


@pytest.mark.parametrize("verb", STRUCTURE)
def test_what_every_dag_carries(dags, verb):
    dag = dags[f"fashion__{verb}"]
    assert set(dag.tags) == {"dethrone", "fashion", "image"}
    assert "When it fails" in (dag.doc_md or "")
    assert dag.max_active_runs == 1
    assert dag.catchup is False
    assert dag.dagrun_timeout is not None
    for task in dag.tasks:
        assert task.owner == "ml"
        assert task.retries == 3
        assert task.retry_exponential_backoff
        assert task.retry_delay == dt.timedelta(seconds=10)


def test_every_task_ends_in_time_but_the_one_that_waits_for_a_person(dags):
    without = [
        f"{dag_id}.{task.task_id}"
        for dag_id, dag in dags.items()
        for task in dag.tasks
        if task.execution_timeout is None
    ]
    assert sorted(without) == sorted(f"{project}__train.approve" for project in PROJECTS)


def test_what_needs_the_gpu_queues_for_it(dags):
    in_pool = {f"{dag_id}.{task.task_id}" for dag_id, dag in dags.items() for task in dag.tasks if task.pool == "gpu"}
    in_queue = {f"{dag_id}.{task.task_id}" for dag_id, dag in dags.items() for task in dag.tasks if task.queue == "gpu"}
    assert in_queue == in_pool
    assert in_pool == {
        f"{project}__{name}"
        for project in PROJECTS
        for name in ("train.train", "train.judge", "batch_predict.batch_predict")
    }


def test_finish_runs_whatever_happened(dags):
    rules = {task.task_id: str(task.trigger_rule.value) for task in dags["fashion__train"].tasks}
    assert rules.pop("finish") == "all_done"
    assert set(rules.values()) == {"all_success"}


def test_no_answer_keeps_the_champion(dags):
    approve = dags["fashion__train"].get_task("approve")
    assert approve.defaults == ["Reject"]
    assert approve.response_timeout == dt.timedelta(hours=48)


def test_the_form_of_a_manual_training_run(dags):
    params = dags["fashion__train"].params
    assert {name: params[name] for name in ("force", "window", "seed")} == {
        "force": False,
        "window": "all",
        "seed": None,
    }


def test_a_dag_file_parses_without_the_heavy_libraries():
    heavy = ("torch", "great_expectations", "wandb", "bentoml", "pandas", "optuna", "boto3")
    code = (
        "import runpy, sys\n"
        f"for name in {sorted(str(path) for path in (ROOT / 'dags').glob('*.py'))!r}: runpy.run_path(name)\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_a_broken_project_is_shown_and_takes_nobody_down(tmp_path, monkeypatch):
    import runpy
    import shutil

    for name in PROJECTS:
        folder = tmp_path / name
        folder.mkdir()
        for file in (ROOT / "projects" / name).iterdir():
            if file.is_file():
                shutil.copy(file, folder / file.name)
    broken = tmp_path / "newsgroups" / "project.yaml"
    broken.write_text(broken.read_text().replace("modality:", "modalty:"))
    monkeypatch.setenv("DETHRONE_PROJECTS", str(tmp_path))
    made = runpy.run_path(str(ROOT / "dags" / "ingest.py"))
    assert made["name"] == "fashion"
    with pytest.raises(ImportError, match=r"modalty[\s\S]*Did you mean modality"):
        runpy.run_path(str(ROOT / "dags" / "broken_projects.py"))
