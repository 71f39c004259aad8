"""Fixtures that all suites share: catalogs on SQLite and PostgreSQL, object stores, free ports."""

from __future__ import annotations

import shutil

import pytest

from pipeline_tasks.catalog import tables
from pipeline_tasks.catalog.database import Database, create_engine
from tests import services
from tests.fakes import FakeObjectStore


@pytest.fixture(scope="session")
def catalog_template(tmp_path_factory):
    """A SQLite file with the empty tables: copying it is faster than creating them for each test."""
    path = tmp_path_factory.mktemp("template") / "catalog.db"
    engine = create_engine(f"sqlite:///{path}")
    tables.metadata.create_all(engine)
    engine.dispose()
    return path


@pytest.fixture
def database(tmp_path, catalog_template):
    """An empty catalog in a SQLite file."""
    shutil.copy(catalog_template, tmp_path / "catalog.db")
    engine = create_engine(f"sqlite:///{tmp_path / 'catalog.db'}")
    yield Database(engine)
    engine.dispose()


@pytest.fixture
def object_store() -> FakeObjectStore:
    return FakeObjectStore()


@pytest.fixture
def free_port() -> int:
    return services.free_ports(1)[0]


@pytest.fixture(scope="session")
def postgres_server():
    """A real PostgreSQL for the whole run (marker `integration`)."""
    if services.postgres_bin() is None:
        pytest.skip("PostgreSQL (initdb, pg_ctl) is not installed")
    with services.running(services.PostgresServer()) as server:
        yield server


@pytest.fixture(scope="session")
def seaweed_server():
    """A real SeaweedFS for the whole run (marker `integration`)."""
    if not services.weed_path().exists():
        pytest.skip("SeaweedFS (weed) is not installed")
    with services.running(services.SeaweedServer()) as server:
        yield server


@pytest.fixture(scope="session")
def label_studio_server():
    """A real Label Studio for the whole run (marker `integration`)."""
    from tests.labeling_server import LabelStudioServer, label_studio_bin

    if label_studio_bin() is None:
        pytest.skip("Label Studio (DETHRONE_TEST_LABEL_STUDIO_BIN, or .venv-label-studio) is not installed")
    with services.running(LabelStudioServer()) as server:
        yield server


@pytest.fixture(scope="session")
def stub_gateway(tmp_path_factory):
    """A real gateway as it is by itself, with a stub of a model behind it, for the whole run (marker `integration`)."""
    from pipeline_tasks.contracts import RouteEntry
    from tests.service.servers import StubInference
    from tests.service.test_gateway_served import Stack, follows

    stack, stub = Stack(tmp_path_factory.mktemp("stub-gateway")), StubInference(version="A")
    stack.route(RouteEntry("dA", "A", stub.url, 100))
    with stack.gateway() as served:
        follows(served.url, 1)
        yield served
    stub.stop()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def catalog_url(request, tmp_path) -> str:
    """The URL of an empty database of each kind, without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'catalog.db'}"
    return request.getfixturevalue("postgres_server").new_database()


@pytest.fixture
def s3_store(seaweed_server):
    """The real adapter on a new bucket of the real server (marker `integration`)."""
    from pipeline_tasks.adapters.s3 import S3ObjectStore

    store = S3ObjectStore(
        endpoint=seaweed_server.endpoint,
        bucket=seaweed_server.new_bucket_name(),
        access_key=services.S3_ACCESS_KEY,
        secret_key=services.S3_SECRET_KEY,
    )
    store.ensure_bucket()
    return store
