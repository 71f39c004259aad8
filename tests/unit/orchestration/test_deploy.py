"""Release, ship and rollback with their resources: the bento of a recorded release, and what goes with a route."""

import dataclasses
import types

import httpx
import pytest

from pipeline_tasks.adapters import inference_http
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.ledger import noted_key
from pipeline_tasks.catalog.ledger_repository import LedgerRepository
from pipeline_tasks.catalog.verdicts import ReleaseRepository, VerdictRecord, VerdictRepository
from pipeline_tasks.contracts import Attempt, ModelRef, ReleaseRef, RouteEntry, VerdictRef, canonical_json, sha256_hex
from pipeline_tasks.deployment import release, route_settings, task
from pipeline_tasks.errors import GateClosed, PermanentError
from pipeline_tasks.evaluation.verdict import verdict_id_of
from pipeline_tasks.orchestration import deploy, rollback
from tests.documents import verdict_document
from tests.ledger_case import Case
from tests.unit.evaluation import support as s

RELEASE = ReleaseRef("fashion", "r1", "m1", "v1", "dethrone_fashion:r1")
KEY = "bentos/fashion/r1-abc.bento"


@pytest.fixture
def parts(database, object_store, tmp_path):
    settings = types.SimpleNamespace(home=tmp_path, bentoml_home=tmp_path / "bentoml", scratch_dir=tmp_path / "scratch")
    return types.SimpleNamespace(database=database, store=object_store, brisk_store=object_store, settings=settings)


def record(parts, **infra_check) -> None:
    fence = parts.database.acquire("release", Attempt("run", "release"), now=s.NOW)
    facts = {"bento_digest": "d", "object_key": KEY, "infra_check": infra_check}
    ReleaseRepository(parts.database).record(RELEASE, **facts, fence=fence, run_id="run", now=s.NOW)


def test_a_bento_that_is_nowhere_closes_the_gate(parts):
    record(parts)
    with pytest.raises(GateClosed, match=f"got nothing under {KEY}") as error:
        deploy.restore_bento(parts, RELEASE)
    assert error.value.code == "ARTIFACT_GONE"


def test_another_export_than_the_checked_one_closes_the_gate(parts):
    record(parts, export_sha256=sha256_hex(b"checked"))
    parts.store.put(KEY, b"swapped")
    with pytest.raises(GateClosed, match=f"must have the digest {sha256_hex(b'checked')[:12]}") as error:
        deploy.restore_bento(parts, RELEASE)
    assert error.value.code == "ARTIFACT_CHANGED"


def test_a_release_that_is_not_recorded_is_not_restored(parts):
    with pytest.raises(PermanentError, match=r"release_id must be a release of fashion \(got r1\)") as error:
        deploy.restore_bento(parts, RELEASE)
    assert error.value.code == "RELEASE_UNKNOWN"


KEYED = types.SimpleNamespace(settings=types.SimpleNamespace(inference_headers={"Authorization": "Bearer k"}))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"labels": ["a"]}', {"labels": ["a"]}),
        (b"<html>", "HTTP 200, which is no JSON object: <html>"),
        (b"[1]", "HTTP 200, which is no JSON object: [1]"),
        (b"\xff", "HTTP 200, which is no JSON object: \ufffd"),
    ],
)
def test_what_a_server_answers_in_place_of_a_prediction_is_told_and_not_raised(monkeypatch, body, expected):
    request = httpx.Request("POST", "http://s/predict")
    monkeypatch.setattr(
        inference_http.httpx, "post", lambda *_, **__: httpx.Response(200, content=body, request=request)
    )
    assert inference_http.ask_server(KEYED.settings.inference_headers, "http://s", b"x", "image/png") == expected


@pytest.fixture
def moving(parts, monkeypatch):
    """Parts with one project, whose releases and routes go straight into the catalog."""
    case = Case(parts.database, parts.store)
    parts.project, parts.fence = lambda _: s.project(), lambda *_: None
    parts.target, parts.gateway = types.SimpleNamespace(list=dict), None
    monkeypatch.setattr(deploy, "restore_bento", lambda *_: None)
    monkeypatch.setattr(deploy, "learned_classes", lambda *_: s.CLASSES)
    monkeypatch.setattr(rollback, "restore_bento", lambda *_, **__: None)
    monkeypatch.setattr(task, "ship", lambda *_, **__: case.move("m1"))
    monkeypatch.setattr(task, "rollback", lambda *_, **__: case.move("m1", action="rollback", verdict_id="v1"))
    return parts


def noted(parts) -> list[str]:
    head = LedgerRepository(parts.database).head("fashion")
    keys = [key for key in parts.store.objects if key.startswith("ledger/")]
    assert keys[-1] == noted_key(head)
    return keys


def test_a_promotion_and_a_rollback_are_noted_down(moving):
    record(moving)
    assert deploy.ship_release(moving, "fashion", attempt=s.attempt(), release_id="r1").generation == 1
    assert len(noted(moving)) == 1
    back = {"to_version": None, "reason": "complaints", "actor": "ops"}
    assert rollback.roll_back(moving, "fashion", attempt=s.attempt(), **back).generation == 2
    assert len(noted(moving)) == 2


def test_what_has_no_release_is_neither_shipped_nor_returned_to(moving, monkeypatch):
    with pytest.raises(PermanentError, match=r"release_id must be a release of fashion \(got r1\)") as unknown:
        deploy.ship_release(moving, "fashion", attempt=s.attempt(), release_id="r1")
    assert unknown.value.code == "RELEASE_UNKNOWN"
    monkeypatch.setattr(
        task,
        "rollback",
        lambda *_, release_of, **__: release_of(RouteEntry("d", "m1", "", 100)),
    )
    with pytest.raises(GateClosed, match=r"m1 must have a release of fashion to serve \(got none\)") as none:
        rollback.roll_back(moving, "fashion", attempt=s.attempt(), to_version="m1", reason="r", actor="ops")
    assert none.value.code == "NO_RELEASE"


def test_a_rollback_asks_for_the_recorded_artifacts(moving, monkeypatch):
    record(moving)
    asked = []

    def roll_back(*_, release_of, **__):
        asked.append(release_of(RouteEntry("d", "m1", "", 100)))

    monkeypatch.setattr(task, "rollback", roll_back)
    monkeypatch.setattr(rollback, "model_of", lambda *_: ModelRef("fashion", "m1", "models/m1", "digest", "snapshot"))
    back = {"to_version": None, "reason": "complaints", "actor": "ops"}
    with pytest.raises(GateClosed, match=f"got nothing under .*{KEY}, bentos/fashion/r1.golden.json"):
        rollback.roll_back(moving, "fashion", attempt=s.attempt(), **back)
    for key in ("models/m1/model.safetensors", "models/m1/model.json", KEY, "bentos/fashion/r1.golden.json"):
        moving.store.put(key, b"x")
    rollback.roll_back(moving, "fashion", attempt=s.attempt(), **back)
    assert asked == [RELEASE]


def test_a_verdict_is_noted_down_before_its_release_is_built(moving, monkeypatch):
    verdict_id = give(moving)
    keys = []

    def build(*_, **__):
        keys.extend(noted(moving))
        return RELEASE

    model = ModelRef("fashion", "new", "models/new", "digest", "snapshot")
    monkeypatch.setattr(deploy, "_require_same_lock", lambda *_: None)
    monkeypatch.setattr(deploy, "model_of", lambda *_: model)
    monkeypatch.setattr(release, "release", build)
    assert deploy.build_release(moving, "fashion", attempt=s.attempt(), verdict_id=verdict_id) == RELEASE
    assert len(keys) == 1
    monkeypatch.setattr(deploy, "model_of", lambda *_: dataclasses.replace(model, digest="other"))
    with pytest.raises(GateClosed, match=r"new must have the weights that were judged, digest \(got other\)"):
        deploy.build_release(moving, "fashion", attempt=s.attempt(), verdict_id=verdict_id)


def test_a_model_of_another_lock_becomes_no_release(moving, monkeypatch):
    verdict_id = give(moving)
    model = ModelRef("fashion", "new", "models/new", "digest", "snapshot")
    monkeypatch.setattr(deploy, "model_of", lambda *_: model)
    monkeypatch.setattr(deploy, "lock_hash", lambda: "1" * 64)
    with pytest.raises(GateClosed, match=r"trained: nothing, here: 111111111111\)\. Train again with this") as caught:
        deploy.build_release(moving, "fashion", attempt=s.attempt(), verdict_id=verdict_id)
    assert caught.value.code == "LOCK_MISMATCH"


def test_a_verdict_past_the_ledger_builds_no_release(moving):
    verdict_id = give(moving)
    Case(moving.database, moving.store).tamper(t.ledger, t.ledger.delete())
    with pytest.raises(GateClosed, match=r"the ledger must have an entry with its SHA-256 \(got none\)"):
        deploy.build_release(moving, "fashion", attempt=s.attempt(), verdict_id=verdict_id)


def give(parts) -> str:
    """Record a sound verdict that says promote, with nobody to beat, and return its id."""
    document = verdict_document(champion=None)
    verdict_id, data = verdict_id_of(document), canonical_json(document)
    key = f"verdicts/fashion/{verdict_id}"
    parts.store.put(f"{key}/verdict.json", data)
    ref = VerdictRef("fashion", verdict_id, "promote", None, "new", (), key, "FLOORS_MET")
    record = VerdictRecord(ref, ("exam2", "exam1"), "policy", sha256_hex(data), "run-1", s.NOW)
    fence = parts.database.acquire("judge", s.attempt(), now=s.NOW)
    VerdictRepository(parts.database).record(record, exam_use=1, fence=fence)
    return verdict_id


@pytest.mark.parametrize("when", ["never", "first", "always"])
def test_a_route_keeps_the_approval_rule_of_its_time(when):
    assert route_settings.route_config(s.project(approval={"when": when}))["approval"] == when


def test_a_dead_rollout_of_this_run_is_ended_and_noted_down_and_nothing_else_is(moving, monkeypatch):
    case = Case(moving.database, moving.store)
    asked = []

    def returned(context, **_):
        run_id = context.attempt.run_id
        asked.append(run_id)
        return case.move("m1", action="canary_inconclusive", verdict_id="v1") if run_id == "run-2" else None

    monkeypatch.setattr(deploy, "return_abandoned", returned)
    case.move("m1")
    deploy.end_abandoned_rollout(moving, "fashion", attempt=Attempt("run-1", "finish"))
    assert asked == []
    case.move("m1", action="canary", verdict_id="v1")
    deploy.end_abandoned_rollout(moving, "fashion", attempt=Attempt("run-9", "finish"))
    assert not [key for key in moving.store.objects if key.startswith("ledger/")]
    deploy.end_abandoned_rollout(moving, "fashion", attempt=Attempt("run-2", "finish"))
    assert asked == ["run-2"]
    assert len(noted(moving)) == 1


def test_a_rollout_that_ends_badly_is_noted_down_too(moving, monkeypatch):
    record(moving)
    case = Case(moving.database, moving.store)

    def fail(_rollout):
        case.move("m1", action="canary_failed", verdict_id="v1")
        raise GateClosed("worse", code="CANARY_FAILED")

    monkeypatch.setattr(deploy, "roll_out", fail)
    with pytest.raises(GateClosed, match="worse"):
        deploy.ship_release(moving, "fashion", attempt=s.attempt(), release_id="r1")
    assert len(noted(moving)) == 1


@pytest.mark.parametrize(("kind", "target"), [("docker", "DockerTarget"), ("kubernetes", "KubernetesTarget")])
def test_a_project_runs_where_it_says(kind, target):
    settings = types.SimpleNamespace(home="home", environment={}, split_key="k" * 32)
    given = {"docker": {"repository": "r.io/x"}, "kubernetes": {"repository": "r.io/x", "namespace": "n"}}[kind]
    project = s.project(serving={"target": kind, kind: given})
    assert type(deploy.target_of(types.SimpleNamespace(settings=settings), project)).__name__ == target
