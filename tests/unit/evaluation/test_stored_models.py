"""Real model versions out of the store: loaded, checked, scored."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline_tasks.contracts import ModelRef, sha256_hex
from pipeline_tasks.errors import PermanentError
from pipeline_tasks.evaluation import scoring
from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.evaluation.task import judge
from pipeline_tasks.models.artifact import Origin, pack
from pipeline_tasks.models.registry import find_recipe
from tests.model_configs import config_of
from tests.unit.evaluation import support as s
from tests.unit.models.test_exported import graph

CLASSES = ("bag", "boot", "coat")


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (28, 28), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def put_model(store, version: str, *, seed: int, runtime="eager", exported: bytes | None = None) -> ModelRef:
    """Store an untrained model version."""
    torch.manual_seed(seed)
    entry = find_recipe("image_cnn")
    params = entry.recipe.resolve({})
    config = config_of(
        entry, recipe="image_cnn", params=params, classes=CLASSES, version=version, seed=seed, runtime=runtime
    )
    origin = Origin(code_revision="c1", torch_version=torch.__version__, device="cpu")
    module = entry.recipe.build(params, len(CLASSES))
    artifact = pack(module, config=config, origin=origin, metrics={}, exported=exported)
    key = f"models/fashion/{version}"
    if exported is not None:
        store.put(f"{key}/model.onnx", exported)
    store.put(f"{key}/model.safetensors", artifact.weights)
    store.put(f"{key}/model.json", artifact.manifest.to_bytes())
    return ModelRef("fashion", version, key, sha256_hex(artifact.weights), "s1")


def test_a_stored_model_answers_a_batch_as_it_answers_one_by_one(object_store):
    model = scoring.load_stored(object_store)(put_model(object_store, "v1", seed=1))
    inputs = [model.decode(picture(seed)) for seed in range(8)]
    together = scoring.predict(model, inputs)
    apart = np.concatenate([scoring.predict(model, [decoded]) for decoded in inputs])
    assert together.shape == (8, 3)
    assert together.sum(axis=1) == pytest.approx(np.ones(8), abs=1e-5)
    assert together == pytest.approx(apart, abs=1e-5)


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
@pytest.mark.parametrize("damage", ["lost", "corrupt"])
def test_a_damaged_champion_is_an_error(object_store, name, damage):
    ref = put_model(object_store, "v1", seed=1)
    key = f"{ref.object_key}/{name}"
    if damage == "lost":
        object_store.delete([key])
    else:
        object_store.corrupt(key)
    with pytest.raises(PermanentError, match="the champion v1 must be readable") as caught:
        scoring.load_model(ref, role="champion", load=scoring.load_stored(object_store))
    assert caught.value.code == "CHAMPION_UNREADABLE"


def test_another_models_files_in_its_place_are_an_error(object_store):
    ref, other = put_model(object_store, "v1", seed=1), put_model(object_store, "v2", seed=2)
    for name in ("model.safetensors", "model.json"):
        object_store.objects[f"{ref.object_key}/{name}"] = object_store.get(f"{other.object_key}/{name}")
    with pytest.raises(PermanentError, match="DIGEST"):
        scoring.load_model(ref, role="champion", load=scoring.load_stored(object_store))


def test_size_counts_every_object_of_the_version_only(object_store):
    ref = put_model(object_store, "v1", seed=1)
    put_model(object_store, "v10", seed=2)
    sizes = [len(object_store.get(f"{ref.object_key}/{name}")) for name in ("model.safetensors", "model.json")]
    assert scoring.model_size_bytes(object_store, ref) == sum(sizes)


def test_a_model_is_scored_by_the_runtime_that_it_serves_with(object_store):
    """The weights are a network's, the graph says the same of everything: the graph is what answers and is judged."""
    load = scoring.load_stored(object_store)
    model = load(put_model(object_store, "v1", seed=1, runtime="onnx", exported=graph(side=28)))
    inputs = [model.decode(picture(seed)) for seed in range(8)]
    assert model.runtime == "onnx"
    assert scoring.predict(model, inputs).tolist() == [[0.5, 0.25, 0.25]] * 8


@pytest.fixture
def one_thread():
    """torch's threads wait for each other wherever another process wants a core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_variant_that_loses_quality_keeps_the_champion(database, object_store):
    """The same weights as the champion's; what it would serve answers otherwise, so the gate refuses it."""
    champion = put_model(object_store, "v1", seed=1)
    contender = put_model(object_store, "v2", seed=1, runtime="onnx-int8", exported=graph(side=28))
    load = scoring.load_stored(object_store)
    model = load(champion)
    labels = [CLASSES[row.argmax()] for row in model.predict([model.decode(picture(seed)) for seed in range(60)])]
    exam = s.put_exam(object_store, epoch=1, labels=labels, payloads=[picture(seed) for seed in range(60)])
    world = s.World(object_store, {}, [exam])
    context = world.context(database, load=load)
    verdict = judge(s.project(classes=CLASSES), contender, world.exams, champion=champion, context=context)
    document = json.loads(object_store.get(f"{verdict.object_key}/verdict.json"))
    assert verdict.answer == "keep"
    assert document["evidence"]["current"]["champion"]["accuracy"]["estimate"] == 1.0
    assert document["evidence"]["current"]["contender"]["accuracy"]["estimate"] < 0.8
    assert document["question"]["contender"]["runtime"] == "onnx-int8"
    assert "runtime" not in document["question"]["champion"]
    assert vd.replay(document, object_store.get(f"{verdict.object_key}/evidence.parquet")) == document
    page = object_store.get(f"{verdict.object_key}/report.html").decode()
    assert "onnx-int8" in page
