"""The champion's servers are started again where the route says that they are."""

import types

import pytest

from pipeline_tasks.backup import restore
from pipeline_tasks.contracts import ReleaseRef
from pipeline_tasks.core.ports import ServerHandle
from pipeline_tasks.errors import ConfigError, GateClosed, ServiceUnavailable
from tests.ledger_case import Case


class Target:
    def __init__(self, address):
        self.address, self.started = address, []

    def start(self, *, deployment_id, bento_tag, environment):
        self.started.append((deployment_id, bento_tag, environment))
        return ServerHandle(deployment_id, self.address)

    def wait_ready(self, deployment_id, *, timeout_seconds):
        pass


@pytest.fixture
def parts(database, object_store, monkeypatch):
    monkeypatch.setattr(restore, "restore_bento", lambda *_: None)
    loaded = types.SimpleNamespace(name="fashion")
    return types.SimpleNamespace(database=database, store=object_store, project=lambda _name: loaded)


@pytest.fixture
def champion(parts):
    case = Case(parts.database, parts.store)
    case.judge("v1")
    return case.move("v1").entries[0]


@pytest.fixture
def release(monkeypatch, champion):
    ref = ReleaseRef("fashion", "r1", champion.model_version, "verdict-v1", "dethrone_fashion:r1")
    monkeypatch.setattr(restore, "release_of_version", lambda *_: ref)
    return ref


def test_the_champion_is_started_under_its_release(parts, champion, release, monkeypatch):
    target = Target(champion.address)
    monkeypatch.setattr(restore, "target_of", lambda *_: target)
    assert restore.serve_again(parts, "fashion") == [champion.deployment_id]
    assert target.started == [("fashion-r1", release.bento_tag, {"DETHRONE_DEPLOYMENT": "fashion-r1"})]


def test_another_address_than_the_routes_is_refused(parts, champion, release, monkeypatch):
    monkeypatch.setattr(restore, "target_of", lambda *_: Target("http://127.0.0.1:3999"))
    with pytest.raises(ServiceUnavailable, match=r"as the route says \(got http://127.0.0.1:3999\)"):
        restore.serve_again(parts, "fashion")


def test_a_champion_without_a_release_is_told(parts, champion):
    with pytest.raises(GateClosed, match="v1 must have a release of fashion to serve"):
        restore.serve_again(parts, "fashion")


def test_without_a_champion_there_is_nothing_to_serve(parts):
    with pytest.raises(ConfigError, match="fashion must have a champion to serve"):
        restore.serve_again(parts, "fashion")
