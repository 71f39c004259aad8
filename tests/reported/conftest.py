"""The world of rows that the reported cases of tables share."""

from __future__ import annotations

import pytest

from pipeline_tasks.project_init import init_project
from tests.unit.ingest.conftest import World


@pytest.fixture
def world(tmp_path, database, object_store) -> World:
    folder = init_project(tmp_path / "projects", name="some_rows", template="tabular")
    return World(folder, database=database, store=object_store)
