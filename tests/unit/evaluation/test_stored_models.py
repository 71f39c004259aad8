"""Real model versions out of the store: loaded, checked, scored."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline_tasks.contracts import ModelRef, sha256_hex
from pipeline_tasks.errors import PermanentError
from pipeline_tasks.evaluation import scoring
from pipeline_tasks.models.artifact import ModelConfig, Origin, pack
from pipeline_tasks.models.registry import find_recipe

CLASSES = ("bag", "boot", "coat")


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (28, 28), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def put_model(store, version: str, *, seed: int) -> ModelRef:
    torch.manual_seed(seed)
    found = find_recipe("image_cnn")
    params = found.recipe.resolve({})
    config = ModelConfig(
        project="fashion",
        version=version,
        recipe="image_cnn",
        recipe_digest=found.code_digest,
        recipe_source=None,
        params=params,
        classes=CLASSES,
        preprocessing=found.recipe.preprocessing(params),
        signature=found.recipe.signature(params, len(CLASSES)),
        snapshot_id="s1",
        training_key="k1",
        warm_start=None,
        seed=seed,
        threads=1,
        lock_hash="l1",
    )
    origin = Origin(code_revision="c1", torch_version=torch.__version__, device="cpu")
    artifact = pack(found.recipe.build(params, len(CLASSES)), config=config, origin=origin, metrics={})
    key = f"models/fashion/{version}"
    store.put(f"{key}/model.safetensors", artifact.weights)
    store.put(f"{key}/model.json", artifact.manifest.to_bytes())
    return ModelRef("fashion", version, key, sha256_hex(artifact.weights), "s1")


def test_a_stored_model_answers_a_batch_as_it_answers_one_by_one(object_store):
    model = scoring.load_stored(object_store)(put_model(object_store, "v1", seed=1))
    inputs = [model.decode(picture(seed)) for seed in range(8)]
    together = scoring.predict(model, inputs)
    apart = np.concatenate([scoring.predict(model, [one]) for one in inputs])
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
