"""The recipe that docs/recipes.md shows can be used as it stands there."""

import re
from pathlib import Path

import numpy as np

from pipeline_tasks.models.registry import find_recipe, recipe_from_source
from pipeline_tasks.models.stock import STOCK

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "recipes.md").read_text()


def test_the_documented_recipe_predicts():
    (source,) = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    recipe = recipe_from_source(source).recipe
    params = recipe.resolve({})
    probabilities_nc = recipe.predict_batch(recipe.build(params, 3), np.zeros((5, 1, 28, 28), np.uint8))
    assert probabilities_nc.shape == (5, 3)
    assert np.allclose(probabilities_nc.sum(axis=1), 1)


def test_every_stock_recipe_is_named():
    assert [name for name in STOCK if f"`{name}`" not in DOCUMENT] == []
    assert find_recipe("image_cnn").recipe.resolve({"epochs": 6})["learning_rate"] == 0.004
