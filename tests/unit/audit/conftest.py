"""A catalog, a project with decisions, and a shell on both."""

import types

import pytest

from pipeline_tasks.backup import verify
from pipeline_tasks.cli import main
from pipeline_tasks.orchestration import resources
from tests.ledger_case import Case


@pytest.fixture
def parts(database, object_store, tmp_path):
    settings = types.SimpleNamespace(projects_dir=tmp_path, home=tmp_path, signing_key=None)
    return types.SimpleNamespace(database=database, store=object_store, labeling=None, settings=settings)


@pytest.fixture
def case(database, object_store):
    return Case(database, object_store)


@pytest.fixture
def shell(parts, monkeypatch, capsys):
    """Run a command and return its exit code, its output and its errors."""
    monkeypatch.setattr(resources, "build_resources", lambda: parts)
    monkeypatch.setattr(verify, "build_resources", lambda: parts)

    def run(*arguments):
        code = main.main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
