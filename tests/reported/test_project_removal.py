"""Projects that are removed, by the command or by hand (source: a walk through every command)."""

import shutil
from pathlib import Path

import pytest

from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.contracts import DeploymentRef
from pipeline_tasks.errors import ConfigError, ServiceUnavailable
from pipeline_tasks.orchestration import project_removal
from pipeline_tasks.project.loader import load_projects
from tests.ledger_case import Case
from tests.reported.commands_case import NAME, NOW


class Airflow:
    """Seven DAGs of the project and one of another; `state` is that of their newest run."""

    def __init__(self, state="success"):
        self.state = state
        self.dags = {f"{NAME}__{verb}" for verb in ("ingest", "train", "monitor")} | {"other__train"}

    def dag_ids(self):
        return set(self.dags)

    def runs(self, dag, *, limit):
        return [{"state": self.state, "dag_run_id": f"manual__{dag}"}][:limit]

    def delete(self, dag):
        self.dags.remove(dag)


class Target:
    def __init__(self, *names):
        self.names = list(names)

    def list(self):
        return dict.fromkeys(self.names, "RUNNING")

    def stop(self, name):
        self.names.remove(name)


@pytest.fixture
def leaving(installation):
    Case(installation.parts.database, installation.store, project=NAME).tell()
    installation.parts.airflow = Airflow()
    installation.parts.target = Target("pet-photos-abc", "pet-photos-def", "pet-photos-of-others-abc")
    return installation


def test_f6_a_removed_project_leaves_and_can_come_back(leaving):
    """A project that was removed still served, and its seven DAGs stayed."""
    parts = leaving.parts
    before = ServingRepository(parts.database).history(NAME)
    removal = project_removal.remove(parts, NAME, now=NOW)
    assert removal.servers == ("pet-photos-abc", "pet-photos-def")
    assert parts.target.names == ["pet-photos-of-others-abc"]
    assert parts.airflow.dags == {"other__train"}
    assert not (leaving.projects / NAME).exists()
    assert not load_projects(leaving.projects)[0]
    assert ServingRepository(parts.database).history(NAME) == before
    assert "`dethrone serve pet_photos`" in removal.as_text()
    Path(removal.folder).rename(leaving.projects / NAME)
    assert [project.name for project in load_projects(leaving.projects)[0]] == [NAME]


def test_f6_a_folder_that_was_deleted_by_hand_is_noticed_and_removed(leaving):
    programs = ["s3", "inference-pet-photos-abc"]
    assert project_removal.left_behind(leaving.parts, running=programs) == []
    (leaving.projects / NAME).rename(leaving.home / "elsewhere")
    assert project_removal.left_behind(leaving.parts, running=programs) == [NAME]
    assert project_removal.left_behind(leaving.parts, running=["s3", "inference-pet-photos-of-others-abc"]) == []
    assert project_removal.remove(leaving.parts, NAME, now=NOW).servers == ("pet-photos-abc", "pet-photos-def")


@pytest.mark.parametrize("is_away", [False, True], ids=["F6-container", "F6-engine-away"])
def test_f6_containers_of_a_folder_that_was_deleted_by_hand_are_noticed_and_removed(leaving, monkeypatch, is_away):
    """They said "no server ran", and the container went on: its engine restarts it, and needs nothing of the folder."""
    parts = leaving.parts
    serving = ServingRepository(parts.database)
    deployment = DeploymentRef(NAME, "pet-photos-abc", "r", "v1", "http://127.0.0.1:3200")
    serving.record_deployment(deployment, target="docker", now=NOW)
    engine, parts.target = Target("pet-photos-abc", "others-abc"), Target()
    monkeypatch.setattr("pipeline_tasks.orchestration.container_targets.engine_target", lambda _: engine)
    (leaving.projects / NAME).rename(leaving.home / "elsewhere")
    if is_away:
        monkeypatch.setattr(engine, "list", raising(ServiceUnavailable("away", code="ENGINE_AWAY")))
        assert project_removal.left_behind(parts, running=["s3"]) == []
        with pytest.raises(ServiceUnavailable, match="away"):
            project_removal.remove(parts, NAME, now=NOW)
        return
    assert project_removal.left_behind(parts, running=["s3"]) == [NAME]
    assert project_removal.remove(parts, NAME, now=NOW).servers == ("pet-photos-abc",)
    assert engine.names == ["others-abc"]
    assert project_removal.left_behind(parts, running=["s3"]) == []


def test_f6_what_ran_on_kubernetes_is_said_where_the_namespace_is_gone(leaving):
    deployment = DeploymentRef(NAME, "pet-photos-abc", "r", "v1", "http://pet-photos-abc")
    ServingRepository(leaving.parts.database).record_deployment(deployment, target="kubernetes", now=NOW)
    assert "Kubernetes" not in project_removal.remove(leaving.parts, NAME, now=NOW).as_text()
    shutil.rmtree(leaving.projects / "_removed")
    assert "Not looked at: Kubernetes" in project_removal.remove(leaving.parts, NAME, now=NOW).as_text()


def raising(error):
    def call(*_, **__):
        raise error

    return call


def test_f6_nothing_is_removed_under_a_run(leaving):
    leaving.parts.airflow.state = "running"
    with pytest.raises(ConfigError, match="nothing of the project may run") as error:
        project_removal.remove(leaving.parts, NAME, now=NOW)
    assert error.value.code == "RUN_ACTIVE"
    assert (leaving.projects / NAME).is_dir()
    assert len(leaving.parts.target.names) == 3


def test_f6_nothing_is_removed_that_a_graph_uses(leaving):
    folder = leaving.projects / "triage"
    folder.mkdir()
    text = "version: 1\nname: triage\ngraph:\n  nodes:\n    first: {project: pet_photos}\n  output: [first]\n"
    (folder / "project.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"no graph may use pet_photos \(got triage\)"):
        project_removal.remove(leaving.parts, NAME, now=NOW)


def test_f6_a_script_says_yes(run, installation):
    code, _out, err = run("project", "remove", NAME)
    assert (code, "--yes must be given where nobody can be asked" in err) == (2, True)
