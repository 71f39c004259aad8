"""From a trained module to a graph: the same answers, the same bytes, from training items only; else a clear no."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline_tasks.errors import PermanentError
from pipeline_tasks.models import artifact as model_files
from pipeline_tasks.models.exported import ExportedModel
from pipeline_tasks.models.image_cnn.recipe import ImageCnnRecipe
from pipeline_tasks.models.registry import find_recipe
from pipeline_tasks.models.weights_file import ArtifactInvalid
from pipeline_tasks.training import onnx_export
from pipeline_tasks.training.onnx_export import export_module
from pipeline_tasks.training.proof import export_rows
from tests.unit.training.scene import Scene

WORDS = ("gate", "route", "exam", "label", "drift", "swap", "queue", "batch")


def images(count: int, *, side=20) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (1, side, side), dtype=np.uint8) for _ in range(count)]


def texts(recipe, params, count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    preprocessing = recipe.preprocessing(params)
    lines = [" ".join(generator.choice(WORDS, number % 7 + 1)) for number in range(count)]
    return [recipe.decode(line.encode(), preprocessing=preprocessing) for line in lines]


def trained(name: str, params=None):
    """Return a recipe, its parameters and a module whose weights say something."""
    recipe = find_recipe(name).recipe
    params = recipe.resolve(params or {})
    torch.manual_seed(1)
    module = recipe.build(params, 3)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return recipe, params, module.eval()


def export(recipe, params, module, items, runtime="onnx"):
    return export_module(recipe, module, runtime=runtime, signature=recipe.signature(params, 3), items=items)


@pytest.mark.parametrize("side", [20, pytest.param(28, marks=pytest.mark.slow)], ids=["pooled to 7 x 7", "as it is"])
def test_an_image_model_answers_as_in_torch_at_every_batch_size(side):
    recipe, params, module = trained("image_cnn", {"image_size": side, "width": 4, "hidden": 8})
    items = images(70, side=side)
    made = export(recipe, params, module, items)
    model = ExportedModel(made.data)
    for size in (1, 2, 5, 70):
        batch = recipe.collate(items[:size])
        assert model.predict(batch) == pytest.approx(recipe.predict_batch(module, batch), abs=1e-4)
    assert made.facts["num_items"] == 70
    assert made.facts["max_difference"] < 1e-4


@pytest.mark.parametrize("hidden", [0, pytest.param(8, marks=pytest.mark.slow)])
def test_a_text_model_answers_as_in_torch_at_every_length(hidden):
    learning = {"optimizer": "adamw", "learning_rate": 0.003} if hidden else {}
    recipe, params, module = trained("text_bow", {"buckets": 256, "hidden": hidden, **learning})
    items = texts(recipe, params, 40)
    model = ExportedModel(export(recipe, params, module, items).data)
    for some in (items[:1], items[6:7], items):
        batch = recipe.collate(some)
        assert model.predict(batch) == pytest.approx(recipe.predict_batch(module, batch), abs=1e-4)


def test_a_tabular_model_answers_as_in_torch_where_values_are_missing():
    recipe, params, module = trained("tabular_mlp", {"numbers": ["a", "b"]})
    items = [np.array(row, np.float32) for row in ((1, 2), (np.nan, 3), (1e30, -5), (0, 0))]
    made = export(recipe, params, module, items, "onnx-int8")
    assert np.isfinite(ExportedModel(made.data).predict(recipe.collate(items))).all()
    assert made.facts["max_difference"] < 1e-4


@pytest.mark.slow
def test_int8_is_smaller_says_how_it_differs_and_gives_the_same_bytes_again():
    recipe, params, module = trained("image_cnn", {"image_size": 20, "width": 4, "hidden": 32})
    items = images(70)
    plain, small = (export(recipe, params, module, items, runtime) for runtime in ("onnx", "onnx-int8"))
    assert len(small.data) < 0.6 * len(plain.data)
    assert set(small.facts) == {"num_items", "max_difference", "int8_max_difference", "int8_same_answer"}
    assert small.facts["int8_max_difference"] > small.facts["max_difference"]
    assert export(recipe, params, module, items, "onnx-int8").data == small.data
    assert b"/" + b"pipeline_tasks" not in plain.data + small.data  # no path of this machine


class Warm(ImageCnnRecipe):
    """Answers with another temperature than the softmax that a graph ends with."""

    def predict_batch(self, model, inputs):
        sharp = super().predict_batch(model, inputs) ** 2
        return sharp / sharp.sum(axis=1, keepdims=True)


def test_a_recipe_whose_answers_are_no_softmax_is_refused():
    _, params, module = trained("image_cnn", {"image_size": 20, "width": 4, "hidden": 8})
    with pytest.raises(PermanentError, match=r"the model's graph must answer as in torch, within 0\.0001") as caught:
        export(Warm(), params, module, images(8))
    assert caught.value.code == "EXPORT_FAILED"


class Foreign(torch.nn.Module):
    """An operation that ONNX has not."""

    def forward(self, images_nchw):
        return torch.linalg.eigvals(images_nchw[:, 0, :3, :3].float()).real


class TwoAtOnce(torch.nn.Module):
    """Right for batches of two only: what tracing with a fixed size gives."""

    def forward(self, images_nchw):
        return images_nchw.float().reshape(images_nchw.shape[0], -1)[:, :3] + torch.arange(2.0)[:, None]


@pytest.mark.parametrize(
    ("module", "message"),
    [(Foreign(), "must be one that torch can write"), (TwoAtOnce(), "must run in ONNX Runtime")],
)
def test_a_network_that_cannot_be_a_graph_is_refused(module, message, monkeypatch):
    recipe, params, _ = trained("image_cnn", {"image_size": 20})
    monkeypatch.setattr(onnx_export, "_expected", lambda *_: np.zeros((8, 3), np.float32))
    with pytest.raises(PermanentError, match=message):
        export(recipe, params, module, images(8))


def test_int8_of_a_model_without_such_layers_is_refused():
    recipe, params, module = trained("text_bow", {"buckets": 256})
    with pytest.raises(PermanentError, match="must have a layer to quantize: Conv, Gemm, MatMul"):
        export(recipe, params, module, texts(recipe, params, 8), "onnx-int8")


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (512, 512), (513, 257), (10_000, 500)])
def test_the_rows_for_a_graph_are_spread_over_all_and_few(count, expected):
    rows = np.arange(count, dtype=np.int64) * 3
    chosen = export_rows(rows)
    assert (len(chosen), chosen[0]) == (expected, 0)
    assert set(chosen) <= set(rows)


def test_calibration_sees_training_items_only(database, object_store, tmp_path, monkeypatch):
    """Neither the exam's nor those that validate."""
    seen = []

    def spy(recipe, module, *, runtime, signature, items):
        seen.extend(np.asarray(item).tobytes() for item in items)
        return onnx_export.Export(b"graph", {"num_items": len(items)})

    monkeypatch.setattr(onnx_export, "export_module", spy)
    scene = Scene(database, object_store, tmp_path, runtime="onnx-int8")
    with pytest.raises(ArtifactInvalid, match="the graph must be an ONNX model"):
        scene.train()
    table = scene.manifest.to_pydict()
    pack = object_store.get(table["object_key"][0])
    pixels = {}
    for split, start, size in zip(table["split"], table["offset"], table["size_bytes"], strict=True):
        image = np.asarray(Image.open(io.BytesIO(pack[start : start + size])))[None]
        pixels.setdefault(split, set()).add(image.tobytes())
    assert seen
    assert set(seen) <= pixels["train"] - pixels["exam"]
    assert len(seen) < len(pixels["train"])


def test_training_publishes_the_graph_beside_the_weights_that_name_it(database, object_store, tmp_path):
    scene = Scene(database, object_store, tmp_path, runtime="onnx-int8")
    ref = scene.train()
    assert {info.key.rsplit("/", 1)[-1] for info in object_store.list(f"{ref.object_key}/")} == {
        "model.safetensors",
        "model.onnx",
        "model.json",
    }
    loaded = model_files.load_stored(
        lambda name: object_store.get(f"{ref.object_key}/{name}"), expected_digest=ref.digest
    )
    assert loaded.runtime == "onnx-int8"
    assert 0.5 < loaded.manifest.metrics["export"]["int8_same_answer"] <= 1
    assert scene.train(run_id="run-2", number=2) == ref  # the same training is adopted
    eager = Scene(database, object_store, tmp_path / "eager").train()
    assert eager.version != ref.version
