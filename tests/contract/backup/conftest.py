import functools

import pytest

from tests.backup_case import Installation, Target


@pytest.fixture
def installation(tmp_path, catalog_url):
    return Installation(tmp_path / "old", catalog_url)


@pytest.fixture
def save(installation, monkeypatch):
    return functools.partial(installation.save, monkeypatch)


@pytest.fixture
def target(tmp_path, installation, monkeypatch):
    folder = tmp_path / "new"
    folder.mkdir()
    return Target(folder, installation, monkeypatch)
