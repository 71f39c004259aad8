"""Classification of rows of numbers and categories."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline_tasks.errors import ConfigError
from pipeline_tasks.models.base import (
    Array,
    FloatRange,
    IntRange,
    RecipeParams,
    Signature,
    Space,
    parse_params,
    predict_softmax,
)
from pipeline_tasks.models.tabular_mlp.preprocess import (
    collate_rows,
    decode_row,
    preprocessing_of,
    row_width,
    unmatched_categories,
)

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

MAX_NAMED = 10  # values of a category, in a log and in the metrics


class TabularMlpParams(RecipeParams):
    """Parameters of `tabular_mlp`."""

    epochs: int = Field(20, ge=1, le=10_000)
    numbers: list[str] = Field(default_factory=list, description="Columns that hold numbers.")
    dates: list[str] = Field(
        default_factory=list, description="Columns that hold dates; the model sees days since 1970-01-01."
    )
    categories: dict[str, list[str]] = Field(
        default_factory=dict, description="Columns that hold one of these values; any other value counts as none."
    )
    hidden: int = Field(64, ge=1, le=8192)
    dropout: float = Field(0.1, ge=0, lt=1)


class TabularMlpRecipe:
    """Standardised numbers and one-hot categories under a small network."""

    name = "tabular_mlp"
    modality: Literal["tabular"] = "tabular"

    def resolve(self, params: Mapping[str, Any]) -> dict[str, Any]:
        resolved = parse_params(TabularMlpParams, params)
        if not resolved.numbers and not resolved.dates and not any(resolved.categories.values()):
            raise ConfigError(
                "recipe.params.numbers must name at least one column, or recipe.params.categories one with its values "
                "(got neither). Declare `columns`, or list here those that the model shall see."
            )
        return resolved.model_dump()

    def param_space(self, params: Mapping[str, Any]) -> Mapping[str, Space]:  # noqa: ARG002  (the protocol's)
        return {
            "learning_rate": FloatRange(5e-4, 2e-2, log=True),
            "weight_decay": FloatRange(1e-4, 1e-1, log=True),
            "hidden": IntRange(16, 256, log=True),
            "dropout": FloatRange(0.0, 0.5),
        }

    def preprocessing(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return preprocessing_of(params)

    def signature(self, params: Mapping[str, Any], num_classes: int) -> Signature:
        return Signature(("application/json",), "float32", (row_width(params),), num_classes)

    def decode(self, data: bytes, *, preprocessing: Mapping[str, Any]) -> Array:
        return decode_row(data, preprocessing=preprocessing)

    def input_facts(self, items: Iterable[bytes], *, preprocessing: Mapping[str, Any]) -> dict[str, Any]:
        unmatched = unmatched_categories(items, preprocessing=preprocessing)
        for name, counts in sorted(unmatched.items()):
            some = ", ".join(f"{value} ({n})" for value, n in counts.most_common(MAX_NAMED))
            logger.warning("%s: %d rows have a value that the recipe does not know: %s", name, counts.total(), some)
        return {"unmatched": {name: dict(counts.most_common(MAX_NAMED)) for name, counts in sorted(unmatched.items())}}

    def collate(self, inputs: Sequence[Array]) -> Array:
        return collate_rows(inputs)

    def augment(self, batch: Array, *, params: Mapping[str, Any], generator: np.random.Generator) -> Array:  # noqa: ARG002
        return batch

    def build(self, params: Mapping[str, Any], num_classes: int) -> torch.nn.Module:
        from pipeline_tasks.models.tabular_mlp.model import TabularMlp

        return TabularMlp(
            width=row_width(params), num_classes=num_classes, hidden=params["hidden"], dropout=params["dropout"]
        )

    def fit_statistics(self, model: torch.nn.Module, batches: Iterable[Array]) -> None:
        """Set mean and deviation of each column over the values that are there."""
        import torch

        counts = mean = squares = np.zeros(1)
        for batch in batches:  # Source: Chan, Golub and LeVeque 1979, the sums of two parts from those of each
            rows = batch.astype(np.float64)
            present = np.isfinite(rows)
            added = present.sum(axis=0)
            of_batch = np.where(present, rows, 0.0).sum(axis=0) / np.maximum(added, 1)
            apart, total = of_batch - mean, np.maximum(counts + added, 1)
            squares = squares + (np.where(present, rows - of_batch, 0.0) ** 2).sum(axis=0)
            squares += apart**2 * counts * added / total
            mean = mean + apart * added / total
            counts = counts + added
        deviation = np.sqrt(squares / np.maximum(counts, 1))
        deviation[deviation < 1e-6] = 1.0
        state = {"mean": torch.from_numpy(mean).float(), "deviation": torch.from_numpy(deviation).float()}
        model.load_state_dict(state, strict=False)

    def predict_batch(self, model: torch.nn.Module, inputs: Array) -> npt.NDArray[np.float32]:
        return predict_softmax(model, inputs)


RECIPE = TabularMlpRecipe()
