"""From an encoded image to a uint8 array; shared by training, evaluation and the gateway. No torch."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline_tasks.errors import InputError
from pipeline_tasks.models.base import Array

FORMATS = ("PNG", "JPEG", "WEBP")
MODES = {1: "L", 3: "RGB"}


def decode_image(data: bytes, *, preprocessing: Mapping[str, Any]) -> Array:
    """Return the image as uint8 (channels, size, size); other sizes are resized (bilinear), not cropped.

    Raises:
        InputError: EMPTY_FILE, NOT_AN_IMAGE, IMAGE_TOO_LARGE (from the header, before decoding) or IMAGE_TRUNCATED.
    """
    size, channels = int(preprocessing["image_size"]), int(preprocessing["channels"])
    image = _open(data, max_pixels=int(preprocessing["max_pixels"]))
    image = _flatten(image, mode=MODES[channels])
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.array(image, dtype=np.uint8)
    return pixels[np.newaxis] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _open(data: bytes, *, max_pixels: int) -> Image.Image:
    if not data:
        raise InputError("an image must have bytes (got an empty file).", code="EMPTY_FILE")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise _not_usable(error) from None
    if image.width * image.height > max_pixels:
        raise InputError(
            f"an image must have at most {max_pixels} pixels (got {image.width} x {image.height}). Scale it down.",
            code="IMAGE_TOO_LARGE",
        )
    try:
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise InputError(
            f"an image must decode to its end (got: {error}). Send the whole file.", code="IMAGE_TRUNCATED"
        ) from None
    return ImageOps.exif_transpose(image)


def _not_usable(error: Exception) -> InputError:
    if isinstance(error, Image.DecompressionBombError):
        return InputError("an image must be small enough to decode (got a decompression bomb).", code="IMAGE_TOO_LARGE")
    return InputError(
        f"an image must be {', '.join(FORMATS)} (got other bytes). Convert it first.", code="NOT_AN_IMAGE"
    )


def _flatten(image: Image.Image, *, mode: str) -> Image.Image:
    """Return the image in the mode; transparency goes onto white, 16-bit grey is scaled to 8 bits."""
    if image.mode.startswith("I"):
        wide = np.asarray(image, dtype=np.int64)
        return Image.fromarray(np.clip(wide >> 8, 0, 255).astype(np.uint8)).convert(mode)
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        background = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(background, rgba).convert(mode)
    return image if image.mode == mode else image.convert(mode)


def collate_images(images: Sequence[Array]) -> Array:
    """Stack decoded images into a batch, uint8 (n, channels, height, width)."""
    return np.stack(images)


def flip_some(images_nchw: Array, *, generator: np.random.Generator) -> Array:
    """Return a copy in which a random half of the images is mirrored left to right."""
    flipped = images_nchw.copy()
    chosen = generator.random(len(images_nchw)) < 0.5
    flipped[chosen] = images_nchw[chosen][..., ::-1]
    return flipped
