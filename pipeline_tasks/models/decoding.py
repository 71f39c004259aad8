"""From one item's bytes to a recipe's array: the one place where a recipe decodes, whatever it does. No torch.

A recipe is other people's code. What it raises on one item, and an array that is not what its signature says, make that
item undecodable; they fail nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline_tasks.errors import InputError, TransientError, printable
from pipeline_tasks.models.base import Array, Recipe, Signature

ITEM_INVALID = "ITEM_INVALID"


def decode_item(
    recipe: Recipe, data: bytes, *, preprocessing: Mapping[str, Any], signature: Signature | None = None
) -> Array:
    """Return one item as the recipe's array; with a signature, of its shape and type.

    Raises:
        InputError: the recipe's own reason, or ITEM_INVALID.
    """
    try:
        array = recipe.decode(data, preprocessing=preprocessing)
    except (InputError, TransientError, MemoryError):
        raise
    except Exception as error:
        got = printable(f"{type(error).__name__}: {error}")
        raise InputError(f"the recipe must decode the item (got {got}).", code=ITEM_INVALID) from error
    if not isinstance(array, np.ndarray) or array.dtype.hasobject:
        raise InputError(
            f"the recipe must decode the item to an array of numbers (got {_kind(array)}).", code=ITEM_INVALID
        )
    if signature is not None:
        _check(array, signature)
    return array


def _check(array: Array, signature: Signature) -> None:
    wanted, got = signature.input_shape, array.shape
    fits = len(wanted) == len(got) and all(size in {-1, is_} for size, is_ in zip(wanted, got, strict=True))
    if not fits or array.dtype.name != np.dtype(signature.input_dtype).name:
        raise InputError(
            f"the recipe must decode the item as its signature says: {signature.input_dtype} of the shape {wanted} "
            f"(got {array.dtype.name} of {got}).",
            code=ITEM_INVALID,
        )


def _kind(value: object) -> str:
    return "an array of objects" if isinstance(value, np.ndarray) else type(value).__name__
