"""The built bento, served as the stack serves it: what a release is."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import save as save_safetensors

from bento_services.inference.endpoint import BODY_SECONDS
from bento_services.inference.request_decoding import BATCH, NPY, SAFETENSORS, join_batch, npy_bytes
from bento_services.serve import ALLOCATOR
from pipeline_tasks.deployment.bento_builder import build_bento, export_bento, import_bento, stored_digest
from pipeline_tasks.errors import PermanentError
from pipeline_tasks.models.artifact import load
from tests.service.bent_http import ambiguous, broken, half_open, raw, statuses
from tests.service.conftest import png
from tests.service.outsider import listening, order
from tests.service.servers import CLASSES, serving, write_model
from tests.service.test_hostile_bodies import IMAGES
from tests.services import answers, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]
TAG = "dethrone_fashion:r1"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A bento store with one release, the model's folder, and a folder with nothing in it."""
    folder = tmp_path_factory.mktemp("release")
    write_model(folder / "model", version="v1")
    digest = build_bento(folder / "model", tag=TAG, labels={"model_version": "v1"}, bentoml_home=folder / "bentoml")
    (folder / "empty").mkdir()
    return folder, digest


@pytest.fixture(scope="module")
def served(built):
    """The release, served from an exported copy in a store that never saw its model."""
    folder, _ = built
    export_bento(TAG, folder / "r1.bento", bentoml_home=folder / "bentoml")
    assert import_bento(folder / "r1.bento", bentoml_home=folder / "elsewhere") == TAG
    assert import_bento(folder / "r1.bento", bentoml_home=folder / "elsewhere") == TAG
    environment = {"BENTOML_HOME": str(folder / "elsewhere")}
    with serving(TAG, home=folder, environment=environment, cwd=folder / "empty") as server:
        yield server


@pytest.fixture
def client(served):
    with httpx.Client(base_url=served.url, trust_env=False, timeout=20) as client:
        yield client


def ask(client, body: bytes, media_type: str = "image/png") -> httpx.Response:
    return client.post("/predict", content=body, headers={"Content-Type": media_type})


def test_the_worker_keeps_its_memory(served, client):
    assert ask(client, png()).status_code == 200
    assert ALLOCATOR.items() <= served.worker().environ().items()


def test_it_listens_on_its_own_port_and_takes_no_orders(served, tmp_path):
    """`bentoml serve` listened on two more, and ran what any user of the machine told it."""
    ports = listening(served.processes())
    for port in ports:
        order(port, mark=tmp_path / str(port))
    assert list(tmp_path.iterdir()) == []
    assert ports == {served.port}


def test_many_at_once_get_what_the_offline_path_gives(built, client):
    model = load(built[0] / "model")
    images = [png(seed) for seed in range(200)]
    expected = [model.predict([model.decode(image)])[0] for image in images]
    with ThreadPoolExecutor(32) as pool:
        responses = list(pool.map(lambda image: ask(client, image), images))
    assert {response.status_code for response in responses} == {200}
    for response, probabilities in zip(responses, expected, strict=True):
        body = response.json()
        assert (body["model_version"], tuple(body["labels"])) == ("v1", CLASSES)
        assert body["probabilities"] == pytest.approx(probabilities.tolist(), abs=1e-5)


def test_requests_that_wait_together_were_predicted_together(client):
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda seed: ask(client, png(seed)), range(200)))
    counted = metrics(client)
    assert counted['dethrone_batch_size_bucket{le="1.0"}'] < counted["dethrone_batch_size_count"]


def metrics(client) -> dict[str, float]:
    """Return our own metrics, by name and labels."""
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith("dethrone_")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_a_batch_is_answered_in_its_order_with_an_error_for_each_bad_item(built, client):
    model = load(built[0] / "model")
    images = [png(seed) for seed in range(40)]
    expected = model.predict([model.decode(image) for image in images])
    bodies = [image if number % 4 else b"not an image" for number, image in enumerate(images)]
    before = metrics(client)
    answer = ask(client, join_batch(bodies), BATCH).json()
    after = metrics(client)
    for number, item in enumerate(answer["items"]):
        if number % 4:
            assert item["probabilities"] == pytest.approx(expected[number].tolist(), abs=1e-5)
        else:
            assert item["error"]["code"] in {"NOT_AN_IMAGE", "TYPE_NOT_ALLOWED"}
    assert len(answer["items"]) == 40
    assert (answer["model_version"], tuple(answer["labels"])) == ("v1", CLASSES)
    assert after['dethrone_items_total{code="OK"}'] - before['dethrone_items_total{code="OK"}'] == 30
    assert after['dethrone_requests_total{status="200"}'] - before['dethrone_requests_total{status="200"}'] == 1


def test_tensors_are_answered_as_the_images_they_are_decoded_from(built, client):
    model = load(built[0] / "model")
    decoded = np.stack([model.decode(png(seed)) for seed in range(5)])
    expected = model.predict(list(decoded))
    for media_type, body in ((NPY, npy_bytes(decoded)), (SAFETENSORS, save_safetensors({"images": decoded}))):
        items = ask(client, body, media_type).json()["items"]
        assert [item["probabilities"] for item in items] == [pytest.approx(row.tolist(), abs=1e-5) for row in expected]
    single = ask(client, npy_bytes(decoded[0]), NPY).json()
    assert single["probabilities"] == pytest.approx(expected[0].tolist(), abs=1e-5)


def test_the_size_of_a_pass_was_measured_when_the_release_was_built(built, client):
    (stored,) = (built[0] / "elsewhere" / "models").rglob("serving.json")
    tuning = json.loads(stored.read_text())
    assert str(tuning["max_batch_size"]) in tuning["seconds_by_size"]
    assert metrics(client)["dethrone_max_batch_size"] == tuning["max_batch_size"]


def test_identity_and_errors_stay_with_their_request(client):
    headers = {"Content-Type": "image/png"}
    with ThreadPoolExecutor(32) as pool:
        calls = [
            pool.submit(client.post, "/predict", content=body, headers={**headers, "X-Request-Id": f"r{number}"})
            for number, body in enumerate([png(1), b"no image"] * 40)
        ]
    for number, call in enumerate(calls):
        response = call.result()
        assert response.headers["x-request-id"] == f"r{number}"
        assert response.status_code == (422 if number % 2 else 200)
        assert not number % 2 or response.json()["error"]["request_id"] == f"r{number}"


def test_the_fast_event_loop_of_its_requirements_is_used(client):
    assert 'dethrone_model_info{model_version="v1",runtime="eager",event_loop="uvloop"}' in metrics(client)


def test_the_paths_around_it_answer(client):
    document = client.get("/docs.json").json()
    assert set(document["paths"]["/predict"]["post"]["requestBody"]["content"]) >= {"image/png", BATCH, NPY}
    assert client.get("/predict").status_code == 405
    assert client.get("/livez").status_code == 200
    for path in ("/", "/static_content/x", "/schema.json", "/a%0ab"):
        assert (client.get(path).status_code, client.get(path).json()["error"]["code"]) == (404, "NOT_FOUND")
    assert "bentoml_service_request_in_progress" in client.get("/metrics").text
    assert client.post("/predict", content=png(), headers={"X-Request-Timeout-Ms": "soon"}).status_code == 400


def test_a_request_can_go_through_bentomls_tracing(built):
    folder, _ = built
    environment = {"BENTOML_HOME": str(folder / "bentoml"), "DETHRONE_INFERENCE_TRACING": "on"}
    with (
        serving(TAG, home=folder, environment=environment, cwd=folder / "empty") as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=20) as client,
    ):
        assert ask(client, png()).status_code == 200
        # BentoML's middlewares have seen it: they stand beside its tracing, in front of ours.
        assert 'endpoint="/predict"' in client.get("/metrics").text


def test_bad_neighbours_fail_alone(client):
    bodies = [png(seed) if seed % 3 else b"not an image" for seed in range(90)]
    with ThreadPoolExecutor(32) as pool:
        responses = list(pool.map(lambda body: ask(client, body), bodies))
    codes = [response.status_code for response in responses]
    assert codes == [200 if seed % 3 else 422 for seed in range(90)]
    assert responses[0].json()["error"]["code"] in {"NOT_AN_IMAGE", "TYPE_NOT_ALLOWED"}


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b"", "image/png", 422),
        (png()[:-20], "image/png", 422),
        (pickle.dumps({"a": 1}), "application/vnd.bentoml+pickle", 415),
        (pickle.dumps({"a": 1}), "application/octet-stream", 422),
        (b"[" * 100_000, "application/json", 422),
    ],
)
def test_hostile_bodies_are_4xx_and_the_process_lives(client, body, media_type, status):
    assert ask(client, body, media_type).status_code == status
    assert ask(client, png()).status_code == 200


HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


def test_a_hostile_image_is_a_422_here_too(client):
    for name, body in IMAGES.items():
        began = time.monotonic()
        refused = ask(client, body)
        assert (refused.status_code, refused.json()["error"]["field"]) == (422, "body"), name
        assert "Traceback" not in refused.text
        assert time.monotonic() - began < 2, name


def test_bent_http_is_refused_and_nothing_behind_it_is_answered(client, served):
    cases = ambiguous(HEAD)
    del cases["a list of lengths"]  # RFC 9110, 8.6: `5, 5` may be read as 5
    for name, data in cases.items():
        got = raw(served.port, data, timeout_seconds=BODY_SECONDS + 2)
        assert [400 <= status < 500 for status in statuses(got)] == [True], (name, got[:500])
        assert b"dethrone_" not in got, name
    for name, data in broken(HEAD).items():
        got = raw(served.port, data, timeout_seconds=1.5)
        assert all(400 <= status < 500 for status in statuses(got)), (name, got[:500])
        assert b"Traceback" not in got, name
    assert ask(client, png()).status_code == 200


def test_a_hundred_megabytes_are_refused_without_being_held(client, served):
    worker = served.worker()
    before = worker.memory_info().rss
    assert statuses(raw(served.port, HEAD + b"Content-Length: 100000000\r\n\r\n" + b"x" * 1_000_000)) in ([413], [])
    piece = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    for _ in range(2):
        got = raw(served.port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + piece * 100)
        assert statuses(got) in ([413], [])
    assert worker.memory_info().rss - before < 200_000_000  # one body of the limit's 64 MiB, and what joins it
    assert ask(client, png()).status_code == 200


def test_slow_callers_stop_nobody(client, served):
    with (
        half_open(served.port, HEAD + b"X-A: a", count=200),
        half_open(served.port, HEAD + b"Content-Length: 10\r\n\r\nslow", count=200),
    ):
        assert [ask(client, png(seed)).status_code for seed in range(20)] == [200] * 20


def test_ready_means_that_it_predicts(client):
    assert client.get("/readyz").status_code == 200


def test_a_stopped_server_answers_what_it_took(built):
    folder, _ = built
    environment = {"BENTOML_HOME": str(folder / "bentoml")}
    with (
        serving(TAG, home=folder, environment=environment, cwd=folder / "empty") as server,
        ThreadPoolExecutor(9) as pool,
        httpx.Client(base_url=server.url, trust_env=False, timeout=20) as client,
    ):
        calls = [pool.submit(ask, client, png(seed)) for seed in range(60)]
        calls[0].result()
        pool.submit(server.stop)
        codes = [call.result().status_code for call in calls[:8]]
    assert codes == [200] * 8


def test_what_was_built_and_what_was_restored_have_the_recorded_digest(built, tmp_path):
    folder, digest = built
    home = tmp_path / "bentoml"
    export_bento(TAG, tmp_path / "r1.bento", bentoml_home=folder / "bentoml")
    import_bento(tmp_path / "r1.bento", bentoml_home=home)
    assert [stored_digest(TAG, bentoml_home=root) for root in (folder / "bentoml", home)] == [digest, digest]
    (home / "models" / "dethrone_fashion" / "r1" / "model.json").write_bytes(b"{}")
    assert stored_digest(TAG, bentoml_home=home) != digest


def test_building_again_adopts_and_another_content_is_refused(built, tmp_path):
    folder, digest = built
    again = build_bento(folder / "model", tag=TAG, labels={"model_version": "v1"}, bentoml_home=folder / "bentoml")
    assert again == digest
    write_model(tmp_path / "other", version="v2", seed=1)
    with pytest.raises(PermanentError, match="must hold the contents") as caught:
        build_bento(tmp_path / "other", tag=TAG, labels={}, bentoml_home=folder / "bentoml")
    assert caught.value.code == "BENTO_CONFLICT"


def test_a_build_that_was_killed_after_its_model_was_stored_goes_on(built, tmp_path):
    folder, digest = built
    home = tmp_path / "bentoml"
    shutil.copytree(folder / "bentoml" / "models", home / "models")
    assert build_bento(folder / "model", tag=TAG, labels={"model_version": "v1"}, bentoml_home=home) == digest


def test_a_bento_holds_no_other_code_of_ours(built):
    source = built[0] / "bentoml" / "bentos" / "dethrone_fashion" / "r1" / "src"
    names = {path.relative_to(source).as_posix() for path in source.rglob("*.py")}
    assert "bento_services/inference/service.py" in names
    for unwanted in (
        "bento_services/gateway",
        "pipeline_tasks/catalog",
        "pipeline_tasks/core",
        "pipeline_tasks/adapters",
    ):
        assert [name for name in names if name.startswith(unwanted)] == []


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_model_with_one_changed_byte_never_becomes_ready(built, tmp_path, name):
    home = tmp_path / "bentoml"
    shutil.copytree(built[0] / "bentoml", home)
    changed = next(Path(home / "models").rglob(name))
    data = bytearray(changed.read_bytes())
    data[len(data) // 2] ^= 1
    changed.write_bytes(bytes(data))
    with serving(TAG, home=tmp_path, environment={"BENTOML_HOME": str(home)}, cwd=tmp_path, wait=False) as server:
        wait_until(lambda: "ArtifactInvalid" in server.log.read_text(), timeout_seconds=90, what="the refusal")
        assert not answers(f"{server.url}/readyz")
