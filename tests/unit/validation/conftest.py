import pytest

from tests.unit.validation.builders import Scene


@pytest.fixture
def scene(database, object_store, tmp_path) -> Scene:
    return Scene(database, object_store, tmp_path)
