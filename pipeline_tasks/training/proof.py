"""The proof that what is published is what was trained: both are fed from the bytes of items and compared.

The stored model version is loaded as the gate and the servers load it, through its JSON: a map whose order matters, a
tuple, a whole-number key or a buffer outside of the weights is another thing after that. Shapes: n items, c classes.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline_tasks.contracts import Runtime
from pipeline_tasks.errors import InputError, PermanentError
from pipeline_tasks.models.artifact import LoadedModel
from pipeline_tasks.models.base import Array, Recipe
from pipeline_tasks.models.decoding import decode_item
from pipeline_tasks.models.runtimes import in_precision_of
from pipeline_tasks.training.loop import reproducible

NUM_EXPORT_ITEMS, NUM_ITEMS = 512, 256
# The same weights on the same device: nothing but the layout of memory may differ. bfloat16 has 8 bits, and a graph
# sums in another order (as for golden requests).
TOLERANCES: Mapping[Runtime, float] = {"eager": 1e-6, "amp": 0.02, "onnx": 1e-4, "onnx-int8": 1e-4}


@dataclasses.dataclass(frozen=True, slots=True)
class Proof:
    """The decoding of training, and some of the items that it was fed: (item id, bytes)."""

    recipe: Recipe
    preprocessing: Mapping[str, Any]
    items: Sequence[tuple[str, bytes]]

    def check(self, loaded: LoadedModel, module: torch.nn.Module | None) -> None:
        """Do nothing if the loaded model version is the module that training holds; None compares inputs alone.

        Raises:
            PermanentError: PUBLISH_MISMATCH, with the first item, the place in it and both values.
        """
        inputs: list[tuple[str, Array]] = []
        for item_id, data in self.items:
            trained = _decoded(lambda data=data: decode_item(self.recipe, data, preprocessing=self.preprocessing))
            served = _decoded(lambda data=data: loaded.decode(data))
            if isinstance(trained, str) or isinstance(served, str):
                if str(trained) != str(served):
                    raise _mismatch(item_id, "as a whole", _short(trained), _short(served))
                continue
            _compare_inputs(item_id, trained, served)
            inputs.append((item_id, trained))
        if module is not None and inputs:
            self._compare_answers(loaded, module, inputs)

    def _compare_answers(
        self, loaded: LoadedModel, module: torch.nn.Module, inputs: Sequence[tuple[str, Array]]
    ) -> None:
        arrays = [array for _, array in inputs]
        there = loaded.module
        device = next(there.parameters()).device if isinstance(there, torch.nn.Module) else torch.device("cpu")
        here = copy.deepcopy(module).to(device).eval()
        with reproducible(threads=1, device=device.type):
            served_nc = loaded.predict(arrays)
            with in_precision_of(loaded.runtime, here):
                trained_nc = self.recipe.predict_batch(here, self.recipe.collate(arrays))
        if served_nc.shape != trained_nc.shape:
            raise _mismatch(inputs[0][0], "in the answer's shape", str(trained_nc.shape), str(served_nc.shape))
        different_nc = np.abs(served_nc - trained_nc) > _tolerance(loaded)
        if different_nc.any():
            row, column = (int(index) for index in np.argwhere(different_nc)[0])
            place = f"in the probability of {loaded.classes[column]!r}"
            raise _mismatch(inputs[row][0], place, f"{trained_nc[row, column]:.6f}", f"{served_nc[row, column]:.6f}")


def spread(rows: npt.NDArray[np.int64], limit: int = NUM_ITEMS) -> npt.NDArray[np.int64]:
    """Return at most so many of the rows, spread over all."""
    return rows[:: max(1, -(-len(rows) // limit))]


def export_rows(train_rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the training rows that a graph is checked and calibrated with."""
    return spread(train_rows, NUM_EXPORT_ITEMS)


def proof_rows(train_rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the training rows to prove a model version with: of those that its graph was measured with."""
    return spread(export_rows(train_rows))


def _tolerance(loaded: LoadedModel) -> float:
    """Return how far answers may differ; 8 bits change as much as was measured when the graph was made."""
    export = loaded.manifest.metrics.get("export")
    quantized = float(export.get("int8_max_difference", 0.0)) if isinstance(export, Mapping) else 0.0
    return TOLERANCES[loaded.runtime] + quantized


def _decoded(decode: Any) -> Array | str:
    try:
        array: Array = decode()
    except InputError as error:
        return f"refused as {error.code}"
    return array


def _compare_inputs(item_id: str, trained: Array, served: Array) -> None:
    kinds = [f"{array.dtype.name} of the shape {array.shape}" for array in (trained, served)]
    if kinds[0] != kinds[1]:
        raise _mismatch(item_id, "in its decoded kind", *kinds)
    both_nan = (trained != trained) & (served != served)  # noqa: PLR0124  (true of NaN alone)
    different = (trained != served) & ~both_nan
    if different.any():
        place = tuple(int(index) for index in np.argwhere(different)[0])
        raise _mismatch(item_id, f"at position {list(place)}", str(trained[place]), str(served[place]))


def _short(value: Array | str) -> str:
    return value if isinstance(value, str) else f"decoded to {value.dtype.name} of the shape {value.shape}"


def _mismatch(item_id: str, place: str, trained: str, served: str) -> PermanentError:
    return PermanentError(
        f"the stored model version must see and answer what was trained (got a difference in item {item_id[:16]} "
        f"{place}: {trained} in training, {served} as stored). Nothing is published. What the recipe's `preprocessing` "
        "returns must mean the same after JSON: use lists where an order matters, and texts as keys (docs/recipes.md).",
        code="PUBLISH_MISMATCH",
    )
