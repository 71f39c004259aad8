"""An installation with one project and its shell, for the reported cases of commands."""

import datetime as dt
import types
from pathlib import Path

import pytest

from pipeline_tasks.catalog import migrate
from pipeline_tasks.cli import main
from pipeline_tasks.orchestration import resources
from pipeline_tasks.project.scaffold import init_project
from tests.fakes import FakeObjectStore

ROOT = Path(__file__).resolve().parents[2]
NAME = "pet_photos"
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def variables(home: Path, projects: Path) -> dict[str, str]:
    closed = "http://127.0.0.1:9"
    secrets = ("S3_ACCESS_KEY", "S3_SECRET_KEY", "LABEL_STUDIO_TOKEN", "WEBHOOK_SECRET", "SPLIT_KEY")
    return {
        "DETHRONE_HOME": str(home),
        "DETHRONE_PROJECTS": str(projects),
        **{f"DETHRONE_{name}": "x" for name in (*secrets, "AIRFLOW_ADMIN_PASSWORD")},
        **{f"DETHRONE_{name}_URL": closed for name in ("LABEL_STUDIO", "AIRFLOW", "GATEWAY")},
        "DETHRONE_S3_ENDPOINT": closed,
    }


class Store(FakeObjectStore):
    """Objects in memory, with what only a real store has to prove."""

    def ensure_bucket(self):
        pass

    self_test = ensure_bucket

    def abort_stale_uploads(self, *, before):
        return 0


@pytest.fixture
def installation(tmp_path, monkeypatch):
    """An installation with one project, whose services do not run and whose objects are in memory."""
    home, projects = tmp_path / "home", tmp_path / "projects"
    for name, value in variables(home, projects).items():
        monkeypatch.setenv(name, value)
    home.mkdir()
    migrate.upgrade(f"sqlite:///{home / 'catalog.db'}")
    init_project(projects, name=NAME, template="image-classification")
    store = Store()
    monkeypatch.setattr(resources.Resources, "store", property(lambda _self: store))
    monkeypatch.setattr(resources, "AIRFLOW_PATIENCE_SECONDS", 0.1)
    monkeypatch.chdir(tmp_path)
    return types.SimpleNamespace(home=home, projects=projects, store=store, parts=resources.build_resources())


@pytest.fixture
def run(installation, capsys):
    def call(*words):
        code = main.main(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
