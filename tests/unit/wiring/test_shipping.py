"""What the wiring of release, ship and rollback adds: the bento of a recorded release, and what goes with a route."""

import types

import pytest

from pipeline_tasks.catalog.verdicts import ReleaseRepository
from pipeline_tasks.contracts import Attempt, ReleaseRef, sha256_hex
from pipeline_tasks.errors import GateClosed, PermanentError
from pipeline_tasks.wiring import shipping
from tests.unit.evaluation import support as s

RELEASE = ReleaseRef("fashion", "r1", "m1", "v1", "dethrone_fashion:r1")
KEY = "bentos/fashion/r1-abc.bento"


@pytest.fixture
def parts(database, object_store, tmp_path):
    settings = types.SimpleNamespace(bentoml_home=tmp_path / "bentoml", scratch_dir=tmp_path / "scratch")
    return types.SimpleNamespace(database=database, store=object_store, settings=settings)


def record(parts, **infra_check) -> None:
    fence = parts.database.acquire("release", Attempt("run", "release"), now=s.NOW)
    facts = {"bento_digest": "d", "object_key": KEY, "infra_check": infra_check}
    ReleaseRepository(parts.database).record(RELEASE, **facts, fence=fence, run_id="run", now=s.NOW)


def test_a_bento_that_is_nowhere_closes_the_gate(parts):
    record(parts)
    with pytest.raises(GateClosed, match=f"got nothing under {KEY}") as error:
        shipping.restore_bento(parts, RELEASE)
    assert error.value.code == "ARTIFACT_GONE"


def test_another_export_than_the_checked_one_closes_the_gate(parts):
    record(parts, export_sha256=sha256_hex(b"checked"))
    parts.store.put(KEY, b"swapped")
    with pytest.raises(GateClosed, match=f"must have the digest {sha256_hex(b'checked')[:12]}") as error:
        shipping.restore_bento(parts, RELEASE)
    assert error.value.code == "ARTIFACT_CHANGED"


def test_a_release_that_is_not_recorded_is_not_restored(parts):
    with pytest.raises(PermanentError, match=r"release_id must be a release of fashion \(got r1\)") as error:
        shipping.restore_bento(parts, RELEASE)
    assert error.value.code == "RELEASE_UNKNOWN"


@pytest.mark.parametrize("when", ["never", "first", "always"])
def test_a_route_keeps_the_approval_rule_of_its_time(when):
    assert shipping.route_config(s.project(approval={"when": when}))["approval"] == when
