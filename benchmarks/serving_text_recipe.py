"""The text model of `benchmarks/serving.py`, as a project's own recipe: a small transformer on hashed words.

Shapes: n texts, k words, d width, c classes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline_tasks.errors import InputError
from pipeline_tasks.models.base import Array, RecipeParams, Signature, Space, parse_params, predict_softmax

if TYPE_CHECKING:
    import torch

BUCKETS, WIDTH, HEADS, LAYERS, MAX_WORDS = 8192, 96, 4, 2, 64


class TextTransformerRecipe:
    """Two encoder layers over at most 64 hashed words, mean of the words, one linear layer."""

    name = "recipe.py"
    modality: Literal["text"] = "text"

    def resolve(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return parse_params(RecipeParams, params).model_dump()

    def param_space(self, params: Mapping[str, Any]) -> Mapping[str, Space]:  # noqa: ARG002  (the protocol's)
        return {}

    def preprocessing(self, params: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002  (the protocol's)
        return {}

    def signature(self, params: Mapping[str, Any], num_classes: int) -> Signature:  # noqa: ARG002  (the protocol's)
        return Signature(("text/plain",), "int64", (-1,), num_classes)

    def decode(self, data: bytes, *, preprocessing: Mapping[str, Any]) -> Array:  # noqa: ARG002  (the protocol's)
        """Return the words' buckets from 1, int64 (k,)."""
        try:
            words = data.decode().lower().split()[:MAX_WORDS]
        except UnicodeDecodeError:
            raise InputError("a text must be UTF-8 (got other bytes).", code="TEXT_NOT_UTF8") from None
        return np.array([1 + zlib.crc32(word.encode()) % (BUCKETS - 1) for word in words] or [1], dtype=np.int64)

    def collate(self, inputs: Sequence[Array]) -> Array:
        """Join the texts into int64 (n, longest k), padded with 0."""
        batch = np.zeros((len(inputs), max(len(text) for text in inputs)), dtype=np.int64)
        for row, text in enumerate(inputs):
            batch[row, : len(text)] = text
        return batch

    def augment(self, batch: Array, *, params: Mapping[str, Any], generator: np.random.Generator) -> Array:  # noqa: ARG002
        return batch

    def build(self, params: Mapping[str, Any], num_classes: int) -> torch.nn.Module:  # noqa: ARG002  (the protocol's)
        from torch import nn

        class Layer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
                self.mix, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
                self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

            def forward(self, words_nkd: torch.Tensor, mask_n11k: torch.Tensor) -> torch.Tensor:
                n, k, d = words_nkd.shape
                mixed = self.mix(self.before(words_nkd)).view(n, k, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4)
                seen = nn.functional.scaled_dot_product_attention(mixed[0], mixed[1], mixed[2], attn_mask=mask_n11k)
                words_nkd = words_nkd + self.out(seen.transpose(1, 2).reshape(n, k, d))
                hidden = nn.functional.gelu(self.wide(self.between(words_nkd)))
                return words_nkd + self.narrow(hidden)

        class TextTransformer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.words, self.places = nn.Embedding(BUCKETS, WIDTH), nn.Embedding(MAX_WORDS, WIDTH)
                self.layers = nn.ModuleList([Layer() for _ in range(LAYERS)])
                self.head = nn.Linear(WIDTH, num_classes)

            def forward(self, buckets_nk: torch.Tensor) -> torch.Tensor:
                mask_nk = buckets_nk > 0
                words = self.words(buckets_nk) + self.places.weight[: buckets_nk.shape[1]]
                for layer in self.layers:
                    words = layer(words, mask_nk[:, None, None, :])
                weights = mask_nk[..., None].float()
                logits_nc: torch.Tensor = self.head((words * weights).sum(1) / weights.sum(1))
                return logits_nc

        return TextTransformer()

    def fit_statistics(self, model: torch.nn.Module, batches: Iterable[Array]) -> None:
        """Nothing to fit."""

    def predict_batch(self, model: torch.nn.Module, inputs: Array) -> npt.NDArray[np.float32]:
        return predict_softmax(model, inputs)


RECIPE = TextTransformerRecipe()
