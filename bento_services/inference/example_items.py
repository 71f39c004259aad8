"""Items to measure, warm up and probe with, when nobody has sent one yet."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from pipeline_tasks.models.base import Array, Signature

USUAL_LENGTH = 64  # words of a short text


def encoded_samples(signature: Signature) -> list[tuple[str, bytes]]:
    """Return a media type and an encoded item of it, for those that the signature names and that need no knowledge."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, format="PNG")
    text = " ".join(f"word{number}" for number in range(USUAL_LENGTH)).encode()
    known = [("image/png", buffer.getvalue()), ("text/plain", text)]
    return [(media_type, data) for media_type, data in known if media_type in signature.media_types]


def plain_arrays(signature: Signature) -> Iterator[Array]:
    """Yield arrays of the signature's shape that a model may take: zeros and ones, free dimensions long and short."""
    for length in (USUAL_LENGTH, 1) if -1 in signature.input_shape else (1,):
        shape = [length if size == -1 else size for size in signature.input_shape]
        yield np.zeros(shape, dtype=signature.input_dtype)
        yield np.ones(shape, dtype=signature.input_dtype)
