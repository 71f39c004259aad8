import pytest

from tests.unit.monitoring.builders import Production


@pytest.fixture
def new_production(database, object_store, tmp_path):
    return lambda **monitor: Production(database, object_store, tmp_path, **monitor)
