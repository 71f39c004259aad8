import pytest

from tests.unit.training.scene import Scene


@pytest.fixture
def scene(database, object_store, tmp_path) -> Scene:
    return Scene(database, object_store, tmp_path)
