"""Image classification with a small convolutional network."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

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
from pipeline_tasks.models.image_cnn.preprocess import collate_images, decode_image, flip_some

if TYPE_CHECKING:
    import torch


STATISTICS_BATCHES = 20


class ImageCnnParams(RecipeParams):
    """Parameters of `image_cnn`."""

    image_size: int = Field(28, ge=8, le=1024, description="Side in pixels; other sizes are resized.")
    channels: Literal[1, 3] = Field(1, description="1 = grey, 3 = RGB.")
    width: int = Field(16, ge=1, le=512, description="Channels of the first convolution; the second has twice as many.")
    hidden: int = Field(128, ge=1, le=8192)
    dropout: float = Field(0.25, ge=0, lt=1)
    augment: Literal["none", "flip"] = "none"
    max_pixels: int = Field(100_000_000, ge=1)


class ImageCnnRecipe:
    """Two convolutions, batch normalisation, one hidden layer."""

    name = "image_cnn"
    modality: Literal["image"] = "image"

    def resolve(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return parse_params(ImageCnnParams, params).model_dump()

    def param_space(self, params: Mapping[str, Any]) -> Mapping[str, Space]:  # noqa: ARG002  (the protocol's)
        return {
            "learning_rate": FloatRange(1e-3, 1e-2, log=True),
            "weight_decay": FloatRange(1e-4, 1e-1, log=True),
            "dropout": FloatRange(0.0, 0.5),
            "width": IntRange(8, 32, log=True),
        }

    def preprocessing(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {key: params[key] for key in ("image_size", "channels", "max_pixels")}

    def signature(self, params: Mapping[str, Any], num_classes: int) -> Signature:
        shape = (params["channels"], params["image_size"], params["image_size"])
        return Signature(("image/png", "image/jpeg", "image/webp"), "uint8", shape, num_classes)

    def decode(self, data: bytes, *, preprocessing: Mapping[str, Any]) -> Array:
        return decode_image(data, preprocessing=preprocessing)

    def collate(self, inputs: Sequence[Array]) -> Array:
        return collate_images(inputs)

    def augment(self, batch: Array, *, params: Mapping[str, Any], generator: np.random.Generator) -> Array:
        return flip_some(batch, generator=generator) if params["augment"] == "flip" else batch

    def build(self, params: Mapping[str, Any], num_classes: int) -> torch.nn.Module:
        import torch

        from pipeline_tasks.models.image_cnn.model import ImageCnn

        model = ImageCnn(
            channels=params["channels"],
            num_classes=num_classes,
            width=params["width"],
            hidden=params["hidden"],
            dropout=params["dropout"],
        )
        # Twice as fast on a CPU; torch's type stubs lack the argument.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model

    def fit_statistics(self, model: torch.nn.Module, batches: Iterable[Array]) -> None:
        """Set mean and deviation of each channel over the first batches: a few thousand images say enough."""
        import torch

        sums, squares, count = 0.0, 0.0, 0
        for batch in itertools.islice(batches, STATISTICS_BATCHES):
            scaled = batch.astype(np.float64) / 255.0
            sums, squares = sums + scaled.sum(axis=(0, 2, 3)), squares + (scaled**2).sum(axis=(0, 2, 3))
            count += scaled.size // scaled.shape[1]
        mean = np.reshape(sums / max(count, 1), (1, -1, 1, 1))
        variance = np.reshape(squares / max(count, 1), (1, -1, 1, 1)) - mean**2
        deviation = np.sqrt(np.maximum(variance, 1e-6))
        state = {"mean": torch.from_numpy(mean).float(), "deviation": torch.from_numpy(deviation).float()}
        model.load_state_dict(state, strict=False)

    def predict_batch(self, model: torch.nn.Module, inputs: Array) -> npt.NDArray[np.float32]:
        return predict_softmax(model, inputs)


RECIPE = ImageCnnRecipe()
