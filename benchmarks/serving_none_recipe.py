"""A network that does nothing, for `benchmarks/serving.py`: what is left is the service's own cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline_tasks.models.base import Array, RecipeParams, Signature, Space, parse_params

if TYPE_CHECKING:
    import torch


class NoRecipe:
    """The same probability for each class, whatever the 3 x 64 x 64 pixels."""

    name = "recipe.py"
    modality: Literal["image"] = "image"

    def resolve(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return parse_params(RecipeParams, params).model_dump()

    def param_space(self, params: Mapping[str, Any]) -> Mapping[str, Space]:  # noqa: ARG002  (the protocol's)
        return {}

    def preprocessing(self, params: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002  (the protocol's)
        return {}

    def signature(self, params: Mapping[str, Any], num_classes: int) -> Signature:  # noqa: ARG002  (the protocol's)
        return Signature(("application/octet-stream",), "uint8", (3, 64, 64), num_classes)

    def decode(self, data: bytes, *, preprocessing: Mapping[str, Any]) -> Array:  # noqa: ARG002  (the protocol's)
        return np.frombuffer(data, np.uint8).reshape(3, 64, 64)

    def collate(self, inputs: Sequence[Array]) -> Array:
        return np.stack(inputs)

    def augment(self, batch: Array, *, params: Mapping[str, Any], generator: np.random.Generator) -> Array:  # noqa: ARG002
        return batch

    def build(self, params: Mapping[str, Any], num_classes: int) -> torch.nn.Module:  # noqa: ARG002  (the protocol's)
        import torch

        return torch.nn.Linear(1, num_classes)

    def fit_statistics(self, model: torch.nn.Module, batches: Iterable[Array]) -> None:
        """Nothing to fit."""

    def predict_batch(self, model: torch.nn.Module, inputs: Array) -> npt.NDArray[np.float32]:
        num_classes = len(next(model.parameters()))
        return np.full((len(inputs), num_classes), 1.0 / num_classes, np.float32)


RECIPE = NoRecipe()
