import argparse
from types import SimpleNamespace

import pytest

from pipeline_tasks.cli import backup_commands
from pipeline_tasks.errors import PermanentError
from pipeline_tasks.orchestration import resources


class Store:
    """An S3 store that is empty, and that says whether it keeps conditions."""

    def __init__(self, *, safe: bool) -> None:
        self.safe, self.has_bucket = safe, False

    def ensure_bucket(self) -> None:
        self.has_bucket = True

    def self_test(self) -> None:
        assert self.has_bucket
        if not self.safe:
            raise PermanentError("ignores If-None-Match", code="STORE_UNSAFE")


@pytest.fixture
def upgrade(monkeypatch, tmp_path):
    def run(*, safe, endpoint):
        monkeypatch.setenv("DETHRONE_HOME", str(tmp_path))
        monkeypatch.setenv("DETHRONE_CATALOG_URL", f"sqlite:///{tmp_path / 'catalog.db'}")
        monkeypatch.setenv("DETHRONE_S3_ENDPOINT", endpoint)
        monkeypatch.setattr(resources, "build_resources", lambda: SimpleNamespace(store=Store(safe=safe)))
        return backup_commands.upgrade(argparse.Namespace())

    return run


def test_an_upgrade_beyond_one_machine_proves_the_store(upgrade):
    assert upgrade(safe=True, endpoint="http://s3").startswith("The catalog's schema is ")
    with pytest.raises(PermanentError, match="ignores If-None-Match"):
        upgrade(safe=False, endpoint="http://s3")


def test_on_one_machine_it_leaves_the_store_to_the_start_of_the_stack(upgrade):
    assert upgrade(safe=False, endpoint="").startswith("The catalog's schema is ")
