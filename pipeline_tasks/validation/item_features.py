"""Numbers of an item for a quick comparison of labels, by modality; what cannot be read has none. Pure.

They are no model's input: small, alike for every project, and computed in well under a millisecond for a small item.
"""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline_tasks.errors import InputError
from pipeline_tasks.project.schema import Modality

SIDE = 16  # pixels
BUCKETS = 1024  # of words, or of a row's fields
WAVES = 512
SPREAD = 1.2
SEED = 0

Floats = npt.NDArray[np.float64]


def item_numbers(data: bytes, *, modality: Modality, max_pixels: int) -> Floats | None:
    """Return an item as numbers of one length: grey pixels, shares of words, or a row's values; None: unreadable."""
    try:
        if modality == "image":
            return _pixels(data, max_pixels=max_pixels)
        if modality == "text":
            return _words(data.decode("utf-8-sig"))
        row = json.loads(data)
        return _fields(row) if isinstance(row, dict) else None
    except (InputError, ValueError, RecursionError):
        return None


def item_features(numbers: Sequence[Floats], *, modality: Modality) -> Floats:
    """Return features (n, d) of items, in which a linear model tells classes apart that no plane of the numbers does.

    Random cosine waves of the numbers (the words of texts are many enough without). Source: Rahimi and Recht 2007.
    """
    values_nd = np.stack(numbers)
    if modality == "tabular":
        spread_d = values_nd.std(axis=0)
        values_nd = np.clip((values_nd - values_nd.mean(axis=0)) / np.where(spread_d > 0, spread_d, 1.0), -5.0, 5.0)
        values_nd = values_nd[:, spread_d > 0]
    if modality == "text" or not values_nd.shape[1]:
        idf_d = np.log((1 + len(values_nd)) / (1 + (values_nd > 0).sum(axis=0)))
        weighted_nd: Floats = values_nd * idf_d
        norm_n1 = np.linalg.norm(weighted_nd, axis=1, keepdims=True)
        unit_nd: Floats = weighted_nd / np.where(norm_n1 > 0, norm_n1, 1.0)
        return unit_nd
    centred_nd = values_nd - values_nd.mean(axis=0)
    scale = math.sqrt(float((centred_nd**2).sum(axis=1).mean())) or 1.0
    random = np.random.default_rng(SEED)
    waves_dw = random.standard_normal((centred_nd.shape[1], WAVES)) * (SPREAD / scale)
    phases_w = random.uniform(0.0, 2.0 * math.pi, WAVES)
    waves = math.sqrt(2.0 / WAVES) * np.cos(centred_nd @ waves_dw + phases_w)
    return np.hstack([waves, np.ones((len(waves), 1))])


def _pixels(data: bytes, *, max_pixels: int) -> Floats:
    from pipeline_tasks.models.image_cnn.preprocess import decode_image

    pixels_chw = decode_image(data, preprocessing={"image_size": SIDE, "channels": 3, "max_pixels": max_pixels})
    return np.asarray(pixels_chw, dtype=np.float64).ravel() / 255.0


def _words(text: str) -> Floats:
    words = text.casefold().split()
    pairs = itertools.pairwise(words)
    buckets = np.zeros(BUCKETS)
    for word in (*words, *(f"{first} {other}" for first, other in pairs)):
        buckets[zlib.crc32(word.encode()) % BUCKETS] += 1.0
    return np.log1p(buckets)


def _fields(row: Mapping[str, Any]) -> Floats:
    """Return a row's numbers and, for each other value, that it is there; each in a bucket of its own, by its name."""
    buckets = np.zeros(BUCKETS)
    for name, value in row.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        place = name if is_number else f"{name}={value}"
        buckets[zlib.crc32(place.encode()) % BUCKETS] += float(value) if is_number else 1.0
    return buckets
