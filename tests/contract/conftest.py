import pytest

from pipeline_tasks.catalog import tables
from pipeline_tasks.catalog.database import Database, create_engine


@pytest.fixture
def database(catalog_url):
    """An empty catalog of each kind."""
    engine = create_engine(catalog_url)
    tables.metadata.create_all(engine)
    yield Database(engine)
    engine.dispose()
