"""Text classification on hashed n-grams."""

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
    RecipeParams,
    Signature,
    Space,
    parse_params,
    predict_softmax,
)
from pipeline_tasks.models.text_bow.preprocess import collate_counts, decode_text, input_facts
from pipeline_tasks.models.text_bow.units import Unit

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

MUCH_UNSPACED = 0.1


class TextBowParams(RecipeParams):
    """Parameters of `text_bow`."""

    epochs: int = Field(16, ge=1, le=10_000)
    batch_size: int = Field(32, ge=1, le=65_536)
    # Adam gives a word that occurs once as large a step as any other: 3 to 5 points less accuracy at 2,000 texts.
    optimizer: Literal["adamw", "sgd"] = "sgd"
    learning_rate: float = Field(60.0, gt=0, le=1000)
    weight_decay: float = Field(0.0, ge=0, le=10)
    buckets: int = Field(2**17, ge=2**8, le=2**24, description="Size of the hash table.")
    unit: Unit = Field("auto", description="What terms are made of; auto: by script, see docs/recipes.md.")
    ngrams: int = Field(1, ge=1, le=4, description="Longest run of words that counts as a term; of characters, 1 more.")
    max_terms: int = Field(1024, ge=1, le=65_536, description="Distinct terms kept per text, most frequent first.")
    max_characters: int = Field(1_000_000, ge=1)
    hidden: int = Field(0, ge=0, le=4096, description="0 = linear.")
    dropout: float = Field(0.2, ge=0, lt=1, description="Without effect while hidden is 0.")


class TextBowRecipe:
    """Hashed bag of n-grams, tf-idf weights, linear layer or one hidden layer."""

    name = "text_bow"
    modality: Literal["text"] = "text"

    def resolve(self, params: Mapping[str, Any]) -> dict[str, Any]:
        resolved = parse_params(TextBowParams, params)
        if resolved.hidden and resolved.optimizer == "sgd" and resolved.learning_rate > 1:
            raise ConfigError(
                "recipe.params.learning_rate must be at most 1 with a hidden layer and sgd "
                f"(got {resolved.learning_rate}). Set optimizer to adamw and learning_rate to 0.003."
            )
        return resolved.model_dump()

    def param_space(self, params: Mapping[str, Any]) -> Mapping[str, Space]:  # noqa: ARG002  (the protocol's)
        return {
            "learning_rate": FloatRange(20.0, 120.0, log=True),
            "label_smoothing": FloatRange(0.0, 0.2),
        }

    def preprocessing(self, params: Mapping[str, Any]) -> dict[str, Any]:
        known = ("buckets", "unit", "ngrams", "max_terms", "max_characters")
        return {key: params[key] for key in known if key in params}  # parameters of before have no `unit`

    def signature(self, params: Mapping[str, Any], num_classes: int) -> Signature:  # noqa: ARG002  (the protocol's)
        return Signature(("text/plain",), "int32", (-1, 2), num_classes)

    def decode(self, data: bytes, *, preprocessing: Mapping[str, Any]) -> Array:
        return decode_text(data, preprocessing=preprocessing)

    def input_facts(self, items: Iterable[bytes], *, preprocessing: Mapping[str, Any]) -> dict[str, Any]:
        facts = input_facts(items, preprocessing=preprocessing)
        if preprocessing.get("unit") == "words" and facts.get("unspaced", 0.0) > MUCH_UNSPACED:
            logger.warning(
                "recipe.params.unit should be auto or characters (got words): %.0f %% of the letters are of scripts "
                "without spaces between words, where a whole phrase is taken for one word.",
                100 * facts["unspaced"],
            )
        return facts

    def collate(self, inputs: Sequence[Array]) -> Array:
        return collate_counts(inputs)

    def augment(self, batch: Array, *, params: Mapping[str, Any], generator: np.random.Generator) -> Array:  # noqa: ARG002
        return batch

    def build(self, params: Mapping[str, Any], num_classes: int) -> torch.nn.Module:
        from pipeline_tasks.models.text_bow.model import TextBow

        return TextBow(
            buckets=params["buckets"],
            num_classes=num_classes,
            hidden=params["hidden"],
            dropout=params["dropout"],
            sparse=params["optimizer"] == "sgd" and params["weight_decay"] == 0,
        )

    def fit_statistics(self, model: torch.nn.Module, batches: Iterable[Array]) -> None:
        """Set log((1 + texts) / (1 + texts with the term)) + 1 for each bucket (Source: scikit-learn's smooth idf)."""
        import torch

        buckets = model.get_buffer("inverse_frequency").numel()
        frequency = np.zeros(buckets, dtype=np.int64)
        num_texts = 0
        for batch in batches:
            num_texts += len(batch)
            used = batch[..., 0][batch[..., 1] > 0]
            frequency += np.bincount(used, minlength=buckets)
        inverse = np.log((1 + num_texts) / (1 + frequency)) + 1.0
        model.load_state_dict({"inverse_frequency": torch.from_numpy(inverse).float()}, strict=False)

    def predict_batch(self, model: torch.nn.Module, inputs: Array) -> npt.NDArray[np.float32]:
        return predict_softmax(model, inputs)


RECIPE = TextBowRecipe()
