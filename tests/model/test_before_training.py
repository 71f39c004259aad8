"""Each recipe before any training: shapes, ranges, and that it can learn eight rows by heart."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline_tasks.models.stock import STOCK
from tests.model.learning import learn, recipe_and_params

SHAPES = {"image_cnn": ((1, 28, 28), np.uint8), "text_bow": ((-1, 2), np.int32), "tabular_mlp": ((4,), np.float32)}
EIGHT = {
    "image_cnn": {"epochs": 60, "dropout": 0.0},
    "text_bow": {"epochs": 60},
    "tabular_mlp": {"epochs": 120, "dropout": 0.0},
}


def item(name: str, number: int) -> bytes:
    generator = np.random.default_rng(number)
    if name == "image_cnn":
        buffer = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (28, 28), dtype=np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()
    if name == "text_bow":
        return " ".join(f"word{word}" for word in generator.integers(0, 1000, 20)).encode()
    a, b = generator.normal(size=2)
    return json.dumps({"a": a, "b": b, "c": "xy"[number % 2]}).encode()


def batch(recipe, params, *, num_items=5):
    decode = [recipe.decode(item(recipe.name, n), preprocessing=recipe.preprocessing(params)) for n in range(num_items)]
    return decode, recipe.collate(decode)


@pytest.fixture(params=STOCK)
def fresh(request):
    recipe, params = recipe_and_params(request.param)
    torch.manual_seed(0)
    return recipe, params, recipe.build(params, 3)


def test_decoded_items_are_as_the_signature_says(fresh):
    recipe, params, _ = fresh
    signature = recipe.signature(params, 3)
    decoded, _ = batch(recipe, params)
    shape, dtype = SHAPES[recipe.name]
    assert (signature.input_shape, np.dtype(signature.input_dtype), signature.num_classes) == (shape, dtype, 3)
    for array in decoded:
        assert array.dtype == dtype
        assert all(want in {-1, got} for want, got in zip(shape, array.shape, strict=True))


def test_an_untrained_model_answers_with_probabilities(fresh):
    recipe, params, module = fresh
    _, inputs = batch(recipe, params)
    before = inputs.copy()
    probabilities = recipe.predict_batch(module, inputs)
    assert probabilities.shape == (5, 3)
    assert probabilities.dtype == np.float32
    assert probabilities.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert probabilities.min() >= 0
    assert probabilities.max() < 0.9, "an untrained model should be unsure"
    assert np.array_equal(inputs, before)


def test_the_company_in_a_batch_does_not_change_an_answer(fresh):
    recipe, params, module = fresh
    decoded, inputs = batch(recipe, params)
    alone = recipe.predict_batch(module, recipe.collate(decoded[:1]))
    assert recipe.predict_batch(module, inputs)[0] == pytest.approx(alone[0], abs=1e-5)


def test_every_parameter_gets_a_gradient(fresh):
    recipe, params, module = fresh
    _, inputs = batch(recipe, params)
    module.train()
    # Two steps: behind zero weights gradients start in the second one.
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(torch.from_numpy(inputs)), torch.tensor([0, 1, 2, 0, 1])).backward()
        optimizer.step()
    for name, parameter in module.named_parameters():
        gradient = parameter.grad.to_dense()
        assert float(gradient.abs().sum()) > 0, name


@pytest.mark.parametrize("name", STOCK)
def test_eight_rows_are_learned_by_heart(name, tmp_path):
    data = [item(name, number) for number in range(9)]
    labels = [0, 1, 2, 0, 1, 2, 0, 1, 2]
    options = EIGHT[name] | {"validation_share": 1e-6, "batch_size": 8, "weight_decay": 0.0}
    _, _, _, history = learn(name, data, labels, tmp_path, num_classes=3, **options)
    assert history[0]["loss"] > 0.5
    assert history[-1]["loss"] < 0.05
