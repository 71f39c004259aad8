"""The interface of a recipe: decoding, architecture, parameters and prediction of one kind of model.

This module and every `preprocess.py` work without torch, since the gateway decodes with them; `build`,
`fit_statistics` and `predict_batch` need it.

Names of arrays carry shapes: `n` items, `c` classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline_tasks.errors import ConfigError, PermanentError

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]


class RecipeParams(BaseModel):
    """The parameters that every recipe has; a recipe adds its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    epochs: int = Field(6, ge=1, le=10_000)
    batch_size: int = Field(64, ge=1, le=65_536)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(4e-3, gt=0, le=1000, description="The peak of the one-cycle schedule.")
    weight_decay: float = Field(1e-2, ge=0, le=10)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    validation_share: float = Field(0.1, gt=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"


ParamsT = TypeVar("ParamsT", bound=RecipeParams)


@dataclasses.dataclass(frozen=True, slots=True)
class FloatRange:
    """A real hyper-parameter to tune."""

    low: float
    high: float
    log: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class IntRange:
    """A whole-number hyper-parameter to tune."""

    low: int
    high: int
    log: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """A hyper-parameter out of a list."""

    values: tuple[str | int | float | bool, ...]


Space = FloatRange | IntRange | Choice


@dataclasses.dataclass(frozen=True, slots=True)
class Signature:
    """The shape of one decoded item (-1 = any) and its dtype, and how many probabilities come back."""

    media_types: tuple[str, ...]
    input_dtype: str
    input_shape: tuple[int, ...]
    num_classes: int


@runtime_checkable
class Recipe(Protocol):
    """One kind of model. Stateless: what is learned lies in the module, what is chosen in `params`.

    A project's own `recipe.py` defines `RECIPE`, an object of this protocol.
    """

    name: str
    modality: Literal["image", "text", "tabular"]

    def resolve(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters, checked and complete with defaults; ConfigError names the wrong key."""

    def param_space(self, params: Mapping[str, Any]) -> Mapping[str, Space]:
        """Return what tuning may change, and between which bounds; nothing that `preprocessing` returns."""

    def preprocessing(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the part of the parameters that decoding needs (JSON)."""

    def signature(self, params: Mapping[str, Any], num_classes: int) -> Signature:
        """Return what goes in and what comes out."""

    def decode(self, data: bytes, *, preprocessing: Mapping[str, Any]) -> Array:
        """Turn one item's bytes into one array; InputError with a code if they are unusable. No torch."""

    def collate(self, inputs: Sequence[Array]) -> Array:
        """Join decoded items into one batch (n, ...). No torch."""

    def augment(self, batch: Array, *, params: Mapping[str, Any], generator: np.random.Generator) -> Array:
        """Return a varied copy of a training batch, or the batch itself."""

    def build(self, params: Mapping[str, Any], num_classes: int) -> torch.nn.Module:
        """Build the module with fresh weights; it maps a collated batch to logits (n, c)."""

    def fit_statistics(self, model: torch.nn.Module, batches: Iterable[Array]) -> None:
        """Set the module's input statistics (means, document frequencies) from the training batches, read once."""

    def predict_batch(self, model: torch.nn.Module, inputs: Array) -> npt.NDArray[np.float32]:
        """Return the probabilities (n, c) of a collated batch; PermanentError NON_FINITE_OUTPUT on a NaN."""


@runtime_checkable
class DescribesInputs(Protocol):
    """A recipe that says of its inputs what a person should know of a training; what it says stands in `metrics`."""

    def input_facts(self, items: Iterable[bytes], *, preprocessing: Mapping[str, Any]) -> dict[str, Any]:
        """Return facts (JSON) of some of the training items, read as `decode` reads them."""


def parse_params(model: type[ParamsT], params: Mapping[str, Any]) -> ParamsT:
    """Return the checked parameters.

    Raises:
        ConfigError: a key is unknown or a value is wrong; lists at most ten, sorted.
    """
    try:
        return model.model_validate(dict(params))
    except ValidationError as error:
        lines = sorted(_problem(detail, known=sorted(model.model_fields)) for detail in error.errors())[:10]
        raise ConfigError(" ".join(lines) + " See docs/recipes.md.") from None


def _problem(detail: Any, *, known: Sequence[str]) -> str:
    key = "recipe.params." + ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{key} must be one of {', '.join(known)} (got an unknown key)."
    expected = str(detail["msg"]).removeprefix("Input should be ")
    return f"{key} must be {expected} (got {detail['input']!r})."


def check_probabilities(probabilities_nc: Array, *, num_rows: int) -> npt.NDArray[np.float32]:
    """Return the probabilities as float32 (n, c).

    Raises:
        PermanentError: NON_FINITE_OUTPUT or SHAPE_OUTPUT, the model answers nonsense.
    """
    if probabilities_nc.ndim != 2 or probabilities_nc.shape[0] != num_rows:
        raise PermanentError(
            f"the model's output must have the shape ({num_rows}, classes) (got {probabilities_nc.shape}).",
            code="SHAPE_OUTPUT",
        )
    if not bool(np.isfinite(probabilities_nc).all()):
        rows = int((~np.isfinite(probabilities_nc).all(axis=1)).sum())
        raise PermanentError(
            f"the model's output must be finite (got NaN or infinity in {rows} of {num_rows} rows). "
            "Do not serve this version; train again.",
            code="NON_FINITE_OUTPUT",
        )
    return probabilities_nc.astype(np.float32, copy=False)


def to_device(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a batch on its device; to a GPU out of pinned memory, so that the copy runs beside the launches.

    torch keeps freed pinned blocks: after the warm-up pinning is one copy in memory.
    """
    return batch if device.type == "cpu" else batch.pin_memory().to(device, non_blocking=True)


def predict_softmax(model: torch.nn.Module, inputs: Array) -> npt.NDArray[np.float32]:
    """Return the softmax of the module's logits for a collated batch, in evaluation mode, on its device."""
    import torch

    model.eval()
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits_nc = model(to_device(torch.from_numpy(np.require(inputs, requirements=["C", "W"])), device))
        probabilities_nc = torch.softmax(logits_nc.float(), dim=1).cpu().numpy()
    return check_probabilities(probabilities_nc, num_rows=len(inputs))
