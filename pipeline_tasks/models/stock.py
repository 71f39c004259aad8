"""The stock recipes; `models/<name>/recipe.py` holds the code of each. Imports nothing of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

OWN_RECIPE = "recipe.py"


@dataclasses.dataclass(frozen=True, slots=True)
class StockRecipe:
    """The facts of a recipe that a project's settings are compared with.

    `reads_columns`: its parameters `numbers`, `dates` and `categories` name columns. Without the parameter `int8_needs`
    it has no layer to quantize.
    """

    modality: Literal["image", "text", "tabular"]
    reads_columns: bool = False
    int8_needs: str | None = None


STOCK: Mapping[str, StockRecipe] = {
    "image_cnn": StockRecipe("image"),
    "text_bow": StockRecipe("text", int8_needs="hidden"),
    "tabular_mlp": StockRecipe("tabular", reads_columns=True),
}
