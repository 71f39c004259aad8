"""A ledger on SQLite and PostgreSQL, after the migrations: a forger's rows meet the real constraints."""

import pytest

from pipeline_tasks.catalog import migrate
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.ledger_repository import LedgerRepository
from tests.ledger_case import NAME, Case, faults_of


@pytest.fixture
def database(catalog_url):
    migrate.upgrade(catalog_url)
    engine = create_engine(catalog_url)
    yield Database(engine)
    engine.dispose()


@pytest.fixture
def case(database, object_store):
    return Case(database, object_store)


@pytest.fixture
def entries(database):
    return lambda project=NAME: LedgerRepository(database).entries(project)


@pytest.fixture
def faults(database, object_store):
    return faults_of(database, object_store)
