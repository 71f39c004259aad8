"""Fitting a recipe to a few items in memory, without store and catalog."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline_tasks.models.base import Recipe
from pipeline_tasks.models.registry import find_recipe
from pipeline_tasks.training.dataset import inner_split
from pipeline_tasks.training.decoded_inputs import decode_inputs
from pipeline_tasks.training.loop import FitPlan, TrainingData, fit

MINIMAL = {
    "image_cnn": {},
    "text_bow": {"buckets": 4096},
    "tabular_mlp": {"numbers": ["a", "b"], "categories": {"c": ["x", "y"]}},
}


def recipe_and_params(name: str, **params) -> tuple[Recipe, dict]:
    recipe = find_recipe(name).recipe
    return recipe, recipe.resolve(MINIMAL[name] | params)


def learn(name: str, data: Sequence[bytes], labels: Sequence[int], folder: Path, *, num_classes: int, seed=0, **params):
    """Return the trained module with its recipe and params."""
    recipe, resolved = recipe_and_params(name, **params)
    preprocessing = recipe.preprocessing(resolved)
    inputs = decode_inputs(
        lambda: enumerate(data),
        num_rows=len(data),
        decode=lambda content: recipe.decode(content, preprocessing=preprocessing),
        folder=folder,
        key="k",
    )
    split = inner_split([str(row) for row in range(len(data))], share=resolved["validation_share"])
    weights = np.ones(len(data), np.float32)
    classes = tuple(map(str, range(num_classes)))
    training = TrainingData(inputs, np.array(labels, dtype=np.int64), weights, split, classes)
    module, history = fit(recipe, training, FitPlan(resolved, resolved["epochs"], seed, 1, "cpu"))
    return recipe, resolved, module, history


def predict(recipe: Recipe, params, module, data: Sequence[bytes]) -> np.ndarray:
    preprocessing = recipe.preprocessing(params)
    decoded = [recipe.decode(content, preprocessing=preprocessing) for content in data]
    parts = [recipe.predict_batch(module, recipe.collate(decoded[at : at + 256])) for at in range(0, len(decoded), 256)]
    return np.concatenate(parts)
