"""From an encoded image to a uint8 array; shared by training, evaluation and the gateway. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from pipeline_tasks.guards.image import guard_image
from pipeline_tasks.models.base import Array

MODES = {1: "L", 3: "RGB"}


def decode_image(data: bytes, *, preprocessing: Mapping[str, Any]) -> Array:
    """Return the image as uint8 (channels, size, size); other sizes are resized (bilinear), not cropped.

    Raises:
        InputError: with a code of `guard_image`.
    """
    size, channels = int(preprocessing["image_size"]), int(preprocessing["channels"])
    image = guard_image(data, max_pixels=int(preprocessing["max_pixels"])).image.convert(MODES[channels])
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.array(image, dtype=np.uint8)
    return pixels[np.newaxis] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def collate_images(inputs: Sequence[Array]) -> Array:
    """Stack decoded images into a batch, uint8 (n, channels, height, width)."""
    return np.stack(inputs)


def flip_some(images_nchw: Array, *, generator: np.random.Generator) -> Array:
    """Return a copy in which a random half of the images is mirrored left to right."""
    flipped = images_nchw.copy()
    chosen = generator.random(len(images_nchw)) < 0.5
    flipped[chosen] = images_nchw[chosen][..., ::-1]
    return flipped
