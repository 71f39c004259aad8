"""Facts of an item's bytes: size, readability, pixels, characters, fields. Pure."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.errors import InputError, printable
from pipeline_tasks.guards.image import ImageTooLarge, guard_image
from pipeline_tasks.project.schema import Modality


def item_facts(
    data: bytes, *, item_id: str, content_id: str | None = None, modality: Modality, max_pixels: int
) -> dict[str, Any]:
    """Return the facts of one item; what cannot be read has `readable` False, its `problem`, and no further facts."""
    is_same = sha256_hex(data) == (content_id or item_id)
    facts: dict[str, Any] = {"item_id": item_id, "digest_matches": is_same, "readable": True}
    try:
        if modality == "image":
            return facts | image_facts(data, max_pixels=max_pixels)
        if modality == "text":
            return facts | text_facts(data)
        return facts | row_facts(data)
    except InputError as error:
        return facts | {"readable": False, "problem": printable(f"{error.code}: {error}")}
    except (ValueError, RecursionError) as error:
        return facts | {"readable": False, "problem": printable(f"{type(error).__name__}: {error}")}


def image_facts(data: bytes, *, max_pixels: int) -> dict[str, Any]:
    """Return size and pixel facts of the picture that the models see (upright, on white, 8 bits).

    An image beyond `max_pixels` is judged by its header and not decoded.

    Raises:
        InputError: the bytes are no readable PNG, JPEG or WebP.
    """
    try:
        header = guard_image(data, max_pixels=max_pixels)
    except ImageTooLarge as error:
        return _size_facts(error.width, error.height)
    pixels_hw = np.asarray(header.image.convert("L"))
    spread = int(pixels_hw.max()) - int(pixels_hw.min())
    return _size_facts(header.width, header.height) | {"pixel_mean": float(pixels_hw.mean()), "pixel_spread": spread}


def _size_facts(width: int, height: int) -> dict[str, Any]:
    return {"width": width, "height": height, "num_pixels": width * height}


def text_facts(data: bytes) -> dict[str, Any]:
    """Return the number of characters, spaces at the ends left out.

    Raises:
        ValueError: the bytes are not UTF-8.
    """
    return {"characters": len(data.decode("utf-8").strip())}


def row_facts(data: bytes) -> dict[str, Any]:
    """Return how many fields a row has and how many are empty.

    Raises:
        ValueError: the bytes are not a JSON object.
    """
    row = json.loads(data)
    if not isinstance(row, dict):
        raise ValueError(  # noqa: TRY004 - the user's data, not a caller's type
            f"a row must be a JSON object (got {type(row).__name__})"
        )
    return {"num_fields": len(row), "num_empty_fields": sum(value in (None, "") for value in row.values())}
