"""Building a release: checked in its server before it is recorded, and whole when it has to serve again."""

import datetime as dt

import pytest

from pipeline_tasks.catalog.verdicts import ReleaseRepository
from pipeline_tasks.contracts import Attempt, DeploymentRef, ModelRef, sha256_hex
from pipeline_tasks.deployment import release as deployment_release
from pipeline_tasks.deployment.golden_requests import GoldenAnswer, golden_answers
from pipeline_tasks.errors import GateClosed
from tests.unit.evaluation import support as s

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
MODEL = ModelRef("fashion", "m1", "models/fashion/m1", "digest", "snapshot")
EXPECTED = GoldenAnswer("item-1", {"cat": 0.75, "dog": 0.25})


class Packager:
    def __init__(self):
        self.built, self.store, self.restored = [], {}, []

    def build(self, model_dir, *, tag, labels):
        assert (model_dir / "model.json").read_bytes() == b"{}"
        self.built.append((tag, labels))
        self.store[tag] = "digest-of-bento"
        return "digest-of-bento"

    def export(self, tag, path):
        path.write_bytes(tag.encode())

    def restore(self, path):
        self.restored.append(path.name)
        self.store[path.read_bytes().decode()] = "digest-of-bento"

    def digest(self, tag):
        return self.store.get(tag)


def served(**changes):
    body = {"model_version": "m1", "labels": ["cat", "dog"], "probabilities": [0.75, 0.25], **changes}
    return lambda *_: body


ANSWERS, GOLDEN = served(), (deployment_release.GoldenItem(b"cat.png", "image/png", EXPECTED),)


@pytest.fixture
def build(database, object_store, tmp_path):
    object_store.put("models/fashion/m1/model.json", b"{}")
    object_store.put("models/fashion/m1/model.safetensors", b"weights")
    packager = Packager()

    def run(*, ask=ANSWERS, golden=GOLDEN):
        released = deployment_release.release(
            s.project(),
            MODEL,
            verdict_id="v1",
            lock_hash="lock",
            records=ReleaseRepository(database),
            store=object_store,
            packager=packager,
            start=lambda built: DeploymentRef("fashion", "d", built.release_id, built.model_version, "http://here"),
            ask=ask,
            golden=lambda: golden,
            fence=database.acquire("release/fashion", Attempt("run", "release"), now=NOW),
            run_id="run",
            now=NOW,
            scratch=tmp_path / "scratch",
        )
        return released, packager

    return run


def test_a_release_is_recorded_with_its_bento_and_its_golden_answers(build, database, object_store):
    release, packager = build()
    assert packager.built == [(release.bento_tag, {"model_version": "m1", "verdict": "v1"})]
    exported = release.bento_tag.encode()
    key = f"bentos/fashion/{release.release_id}-{sha256_hex(exported)[:16]}.bento"
    assert object_store.get(key) == exported
    assert golden_answers(object_store.get(deployment_release.golden_key(release))) == [EXPECTED]
    facts = ReleaseRepository(database).facts("fashion", release.release_id)
    assert (facts["object_key"], facts["bento_digest"]) == (key, "digest-of-bento")
    assert (facts["infra_check"]["num_requests"], facts["infra_check"]["export_sha256"]) == (1, sha256_hex(exported))


def test_a_recorded_release_is_not_built_again(build):
    first, _ = build()
    again, packager = build(ask=served(probabilities=[0.0, 1.0]))
    assert again == first
    assert len(packager.built) == 1


@pytest.mark.parametrize(
    ("ask", "problem"),
    [
        (served(probabilities=[0.74, 0.26]), "probabilities must agree within 0.0001"),
        (served(probabilities=[float("nan"), 0.25]), "probabilities must be finite"),
        (served(model_version="m0"), "model_version must be m1"),
        (lambda *_: "HTTP 500: boom", "HTTP 500"),
    ],
)
def test_a_server_that_answers_otherwise_is_not_released(build, database, object_store, ask, problem):
    with pytest.raises(GateClosed, match=problem) as error:
        build(ask=ask)
    assert error.value.code == "INFRA_CHECK"
    assert not [key for key in object_store.objects if key.startswith("bentos/")]
    release_id = deployment_release.release_id_of(MODEL, verdict_id="v1", lock_hash="lock")
    assert ReleaseRepository(database).get("fashion", release_id) is None


def test_a_check_without_questions_proves_nothing(build):
    with pytest.raises(GateClosed):
        build(golden=())


@pytest.mark.parametrize(
    "lost", ["models/fashion/m1/model.json", "models/fashion/m1/model.safetensors", "bento", "golden"]
)
def test_a_release_of_which_something_is_gone_does_not_serve_again(build, database, object_store, lost):
    release, _ = build()
    bento = ReleaseRepository(database).facts("fashion", release.release_id)["object_key"]
    deployment_release.require_artifacts(release, MODEL, object_key=bento, store=object_store)
    key = {"bento": bento, "golden": deployment_release.golden_key(release)}.get(lost, lost)
    object_store.delete([key])
    with pytest.raises(GateClosed, match=f"got nothing under {key}") as error:
        deployment_release.require_artifacts(release, MODEL, object_key=bento, store=object_store)
    assert error.value.code == "ARTIFACT_GONE"


def test_a_graph_is_fetched_with_its_model_and_missed_when_it_is_gone(build, database, object_store, tmp_path):
    manifest = b'{"config": {"runtime": "onnx"}}'
    release, _ = build()
    bento = ReleaseRepository(database).facts("fashion", release.release_id)["object_key"]
    object_store.put("models/fashion/m1/model.json", manifest)
    with pytest.raises(GateClosed, match=r"got nothing under models/fashion/m1/model\.onnx"):
        deployment_release.require_artifacts(release, MODEL, object_key=bento, store=object_store)
    object_store.put("models/fashion/m1/model.onnx", b"graph")
    deployment_release.require_artifacts(release, MODEL, object_key=bento, store=object_store)
    folder = deployment_release.fetch_model(object_store, MODEL, into=tmp_path / "fetched")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files == {"model.json": manifest, "model.safetensors": b"weights", "model.onnx": b"graph"}


@pytest.fixture
def bring(build, database, object_store, tmp_path):
    """Release something, change what is kept of it, and let a machine have it again."""

    def run(change=lambda *_: None, *, lost=True):
        release, packager = build()
        facts = ReleaseRepository(database).facts("fashion", release.release_id)
        if lost:
            packager.store.clear()
        change(facts, packager)
        scratch = tmp_path / "elsewhere" / "scratch"
        try:
            deployment_release.restore_bento(release, facts, store=object_store, packager=packager, scratch=scratch)
        finally:
            assert not list(scratch.glob("*"))
        return release, packager

    return run


def test_a_bento_that_this_machine_lost_is_restored(bring):
    release, packager = bring()
    assert packager.restored == [f"{release.release_id}.bento"]
    assert packager.digest(release.bento_tag) == "digest-of-bento"


def test_a_bento_that_is_here_is_not_fetched(bring, object_store):
    _, packager = bring(lambda facts, _: object_store.delete([facts["object_key"]]), lost=False)
    assert packager.restored == []


def test_a_bento_that_is_nowhere_closes_the_gate(bring, object_store):
    with pytest.raises(GateClosed, match="got nothing under bentos/fashion/") as error:
        bring(lambda facts, _: object_store.delete([facts["object_key"]]))
    assert error.value.code == "ARTIFACT_GONE"


def test_an_export_that_is_not_what_was_checked_is_not_restored(bring, object_store):
    restored = []

    def swap(facts, packager):
        object_store.objects[facts["object_key"]] = b"other"
        packager.restore = restored.append

    with pytest.raises(GateClosed, match=rf"bentos/fashion/.* \(got {sha256_hex(b'other')[:12]}\)") as error:
        bring(swap)
    assert (error.value.code, restored) == ("ARTIFACT_CHANGED", [])


def test_an_export_of_an_older_release_has_no_hash_to_compare(bring):
    _, packager = bring(lambda facts, _: facts["infra_check"].pop("export_sha256"))
    assert len(packager.restored) == 1


@pytest.mark.parametrize("lost", [True, False])
def test_a_bento_with_other_contents_than_were_checked_does_not_serve(bring, lost):
    def change(_, packager):
        packager.restore = lambda path: packager.store.update({path.read_bytes().decode(): "other"})
        for tag in packager.store:
            packager.store[tag] = "other"

    with pytest.raises(
        GateClosed, match=r"in the BentoML store must have the digest digest-of-be \(got other\)"
    ) as error:
        bring(change, lost=lost)
    assert error.value.code == "ARTIFACT_CHANGED"
