"""Rollback while what has failed is away, and what an interrupted one leaves behind."""

from __future__ import annotations

import types

import pytest

from pipeline_tasks.adapters.s3 import BRISK_REST_SECONDS, BRISK_SECONDS, S3ObjectStore
from pipeline_tasks.catalog.ledger import noted_key
from pipeline_tasks.catalog.ledger_repository import LedgerRepository
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.catalog.verdicts import ReleaseRepository
from pipeline_tasks.contracts import Attempt, ModelRef, ReleaseRef
from pipeline_tasks.deployment import bento_packager
from pipeline_tasks.deployment.golden_requests import GoldenAnswer, golden_bytes
from pipeline_tasks.deployment.release import GoldenItem, golden_key
from pipeline_tasks.deployment.route_plan import deployment_id_of
from pipeline_tasks.errors import GateClosed, PermanentError, ServiceUnavailable
from pipeline_tasks.models.artifact import MANIFEST_NAME, file_names
from pipeline_tasks.orchestration import rollback
from pipeline_tasks.orchestration.golden_cache import keep_golden, kept_golden
from pipeline_tasks.orchestration.ledger_anchors import note_head, waiting_notes
from pipeline_tasks.stack.bring_up import forget_unrouted
from pipeline_tasks.stack.layout import StackLayout, source_root
from pipeline_tasks.stack.process_target import ProcessTarget
from tests.ledger_case import Case
from tests.unit.deployment.test_task import Follower, Target
from tests.unit.evaluation import support as s

ANSWER = GoldenAnswer("i1", {"bag": 0.75, "boot": 0.25})
GOLDEN = [GoldenItem(b"\x00png", "image/png", ANSWER)]
H5 = pytest.mark.parametrize("row", ["H5"])
H14 = pytest.mark.parametrize("row", ["H14"])
AWAY = ServiceUnavailable("http://s3 must get dethrone/x within 2 s (got EndpointConnectionError).")
REFUSED = PermanentError("http://s3 must get dethrone/x (got 403).", code="S3_REFUSED")


class Store:
    """The object store, until it goes away."""

    def __init__(self, store):
        self._store, self.error = store, None

    def __getattr__(self, name):
        if self.error is not None:
            raise self.error
        return getattr(self._store, name)


def release(version):
    return ReleaseRef("fashion", f"r{version}", version, f"verdict-{version}", f"dethrone_fashion:r{version}")


@pytest.fixture
def parts(database, object_store, tmp_path, monkeypatch):
    """Two champions, m1 and then m2; m1's server is kept running."""
    store = Store(object_store)
    folders = {"home": tmp_path, "bentoml_home": tmp_path / "b", "scratch_dir": tmp_path / "s"}
    settings = types.SimpleNamespace(**folders, inference_headers={})
    parts = types.SimpleNamespace(database=database, store=store, brisk_store=store, settings=settings)
    parts.target, parts.case, parts.asked = Target(), Case(database, object_store), []
    parts.gateway = Follower(parts.case.serving)
    parts.project = lambda _: s.project()
    parts.fence = lambda project, _stage, attempt: database.acquire(project, attempt, now=s.NOW)
    for version in ("m1", "m2"):
        parts.case.judge(version)
        parts.case.move(version)
        record(parts, version)
    parts.target.running = {deployment_id_of("fashion", "rm1"): "RUNNING", "d-m2": "RUNNING"}
    monkeypatch.setattr(rollback, "model_of", lambda *_: ModelRef("fashion", "m1", "models/m1", "d", "snapshot"))
    monkeypatch.setattr(bento_packager.BentoPackager, "digest", lambda _self, tag: f"digest of {tag}")

    def ask(_parts, address, payload, media_type):
        parts.asked.append((payload, media_type))
        return {"model_version": "m1", "labels": ["bag", "boot"], "probabilities": [0.75, 0.25]}

    monkeypatch.setattr(rollback, "ask_server", ask)
    return parts


def record(parts, version):
    ref = release(version)
    fence = parts.database.acquire("release", Attempt(f"run-{version}", "release"), now=s.NOW)
    facts = {"bento_digest": f"digest of {ref.bento_tag}", "object_key": f"bentos/{version}", "infra_check": {}}
    ReleaseRepository(parts.database).record(ref, **facts, fence=fence, run_id="run", now=s.NOW)


def back(parts):
    route = rollback.roll_back(parts, "fashion", attempt=s.attempt(), to_version=None, reason="complaints", actor="ann")
    return route.champion_version


@H5
@pytest.mark.parametrize("error", [AWAY, REFUSED])
def test_a_rollback_needs_the_catalog_and_this_machine(parts, error, row):
    """It read golden answers and items from S3, waited for its 90 s, and ended with an error."""
    keep_golden(parts.settings.home, release("m1"), GOLDEN)
    parts.store.error = error
    assert back(parts) == "m1", row
    assert parts.asked == [(b"\x00png", "image/png")], "it is checked all the same"


@H5
def test_what_is_missing_here_is_asked_for_and_fails_closed(parts, row):
    """A server that was not running is not trusted unchecked; one that ran since its own check is."""
    parts.store.error = AWAY
    parts.target.running.pop(deployment_id_of("fashion", "rm1"))
    with pytest.raises(ServiceUnavailable, match="must get"):
        back(parts)
    assert ServingRepository(parts.database).head_route("fashion").champion_version == "m2", row
    parts.target.running[deployment_id_of("fashion", "rm1")] = "RUNNING"
    assert back(parts) == "m1"
    assert parts.asked == []


@H5
def test_a_bento_with_other_bytes_is_refused_with_the_store_away(parts, monkeypatch, row):
    """A bento on this machine has the digest of the catalog, or it does not serve."""
    keep_golden(parts.settings.home, release("m1"), GOLDEN)
    parts.store.error = AWAY
    monkeypatch.setattr(bento_packager.BentoPackager, "digest", lambda *_: "other")
    with pytest.raises(GateClosed, match="must have the digest") as caught:
        back(parts)
    assert caught.value.code == "ARTIFACT_CHANGED", row


@H5
def test_with_the_store_there_all_of_it_is_asked_for(parts, row):
    """An artifact that is gone closes the gate as before; the golden requests are kept for the next time."""
    with pytest.raises(GateClosed, match="must be whole to serve again") as caught:
        back(parts)
    assert caught.value.code == "ARTIFACT_GONE", row
    for key in (f"models/m1/{MANIFEST_NAME}", *(f"models/m1/{name}" for name in file_names(b"")), "bentos/m1"):
        parts.store.put(key, b"x")
    parts.store.put(golden_key(release("m1")), golden_bytes([]))
    with pytest.raises(GateClosed, match="must answer 0 golden requests"):
        back(parts)
    assert kept_golden(parts.settings.home, release("m1")) == []


@H5
@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe", "flip", "cut"])
def test_golden_requests_that_are_not_whole_are_none(tmp_path, damage, row):
    """A torn or rewritten copy is no check; the store is asked instead."""
    assert kept_golden(tmp_path, release("m1")) is None
    keep_golden(tmp_path, release("m1"), GOLDEN)
    assert kept_golden(tmp_path, release("m1")) == GOLDEN, row
    path = tmp_path / "serving" / "golden" / "fashion" / "rm1.json"
    assert path.stat().st_mode & 0o777 == 0o600
    whole = path.read_bytes()
    bytes_of = {"flip": whole.replace(b"0.75", b"0.70"), "cut": whole[:-5]}
    path.write_bytes(bytes_of.get(damage, damage))
    assert kept_golden(tmp_path, release("m1")) is None


@H5
def test_what_could_not_be_noted_is_said_and_noted_by_the_next(parts, caplog, row):
    """The chain in the catalog is what is noted; nothing is lost while the store is away."""
    keep_golden(parts.settings.home, release("m1"), GOLDEN)
    note_head(parts, "fashion")
    assert waiting_notes(parts) == [], row
    parts.store.error = AWAY
    back(parts)
    assert "entry 7 of fashion's ledger is noted there later" in caplog.text
    parts.store.error = None
    (said,) = waiting_notes(parts)
    assert said.startswith("fashion: the ledger's entries 7 to 7 are not noted in the object store yet")
    note_head(parts, "fashion")
    assert waiting_notes(parts) == []
    assert parts.store.get(noted_key(LedgerRepository(parts.database).head("fashion")))


@H5
def test_an_issued_key_is_noted_with_the_next_entry_of_a_project(parts, row):
    """Seen after a demo: the chain of the keys was never noted, and `verify` said that the monitor would."""
    parts.case.serving.issue_key("*", name="shop", scopes=["predict"], token="t" * 32, at=s.NOW)
    note_head(parts, "fashion")
    assert waiting_notes(parts) == [], row


@H5
def test_a_defect_of_the_note_is_no_outage(parts, row):
    """Only a store that is away or refuses is passed over."""
    parts.store.error = GateClosed("no", code="NO")
    with pytest.raises(GateClosed, match="no"):
        note_head(parts, "fashion")
    assert row


@H5
def test_the_store_is_asked_briefly(row):
    """Two seconds for a connection, two for an answer, two for tries: also where packets vanish."""
    store = S3ObjectStore(endpoint="http://127.0.0.1:9", bucket="b", access_key="a", secret_key="s")
    config = store.brisk._client.meta.config
    assert (config.connect_timeout, config.read_timeout, store.brisk._budget_seconds) == (BRISK_SECONDS,) * 3, row
    assert (store.brisk.endpoint, store.brisk.bucket) == (store.endpoint, store.bucket)
    with pytest.raises(ServiceUnavailable, match=r"within 2 s \(got EndpointConnectionError\)"):
        store.brisk.get("x")


@H5
def test_the_calls_behind_one_that_waited_in_vain_do_not_wait(row):
    """A rollback makes several; each would wait two seconds."""
    now, slept = [0.0], []
    options = {"endpoint": "http://127.0.0.1:9", "bucket": "b", "access_key": "a", "secret_key": "s"}
    brisk = S3ObjectStore(**options).brisk
    brisk._clock, brisk._sleep = lambda: now[0], lambda seconds: (slept.append(seconds), now.append(now.pop() + 1))
    brisk._resting_until = 0.0
    with pytest.raises(ServiceUnavailable, match="within 2 s"):
        brisk.get("x")
    count = len(slept)
    with pytest.raises(ServiceUnavailable, match="not asked again for 10 s"):
        brisk.put("y", b"")
    assert len(slept) == count, row
    now[0] += BRISK_REST_SECONDS
    with pytest.raises(ServiceUnavailable, match="within 2 s"):
        brisk.get("x")
    assert len(slept) > count


class Supervisor:
    def __init__(self, *, up):
        self._up = up

    def is_up(self):
        return self._up


@H14
@pytest.mark.parametrize("up", [False, True])
def test_a_server_that_no_route_names_does_not_come_back(database, object_store, tmp_path, up, row):
    """`down` in the middle of a rollback left its server, which every `up` started again."""
    case = Case(database, object_store)
    layout = StackLayout(home=tmp_path, root=source_root())
    target = ProcessTarget(tmp_path, supervisor=Supervisor(up=up))
    for number, version in enumerate(("m1", "m2")):
        case.judge(version)
        case.move(version, at=number)
    names = {"d-m1": "kept ready to return", "d-m2": "serves", "fashion-r0": "cut short", "a-r9": "of no project"}
    for name in names:
        target.remember(deployment_id=name, bento_tag="a:b", port=3000, environment={})
    forgotten = forget_unrouted(target, ServingRepository(database))
    assert forgotten == ([] if up else ["a-r9", "fashion-r0"]), row
    kept = {path.stem.removeprefix("inference-") for path in layout.programs_dir.glob("inference-*.conf")}
    assert kept == ({*names} if up else {"d-m1", "d-m2"})


@H14
def test_an_installation_without_deployments_asks_nothing(tmp_path, database, row):
    """The first `up`."""
    target = ProcessTarget(tmp_path, supervisor=Supervisor(up=False))
    assert forget_unrouted(target, ServingRepository(database)) == [], row
