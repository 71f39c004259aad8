"""Projects and catalogs that the reported cases share."""

from __future__ import annotations

import pytest

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.project.scaffold import init_project
from tests.fakes_labeling import FakeLabelStudio
from tests.labeling_case import Case
from tests.reported.commands_case import installation, run  # noqa: F401 - the fixtures
from tests.reported.sources_case import make_world
from tests.unit.ingest.conftest import World


@pytest.fixture
def world(tmp_path, database, object_store) -> World:
    folder = init_project(tmp_path / "projects", name="some_rows", template="tabular")
    return World(folder, database=database, store=object_store)


@pytest.fixture
def any_database(catalog_url):
    """Return an empty catalog of each kind: what one database stores the other may refuse."""
    engine = create_engine(catalog_url)
    t.metadata.create_all(engine)
    yield Database(engine)
    engine.dispose()


@pytest.fixture
def case(any_database) -> Case:
    """Return a project whose labels are asked for on a Label Studio that remembers."""
    return Case(any_database, FakeLabelStudio())


@pytest.fixture
def world_of(tmp_path, database):
    return lambda modality: make_world(tmp_path, modality, database)


@pytest.fixture
def rows(world_of):
    return world_of("tabular")


@pytest.fixture
def texts(world_of):
    return world_of("text")


@pytest.fixture
def images(world_of):
    return world_of("image")
