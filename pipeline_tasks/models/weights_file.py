"""Strict reading of safetensors bytes: every byte accounted for before anything is built from them.

Source: the format section of the safetensors README (8-byte little-endian header length, JSON header, data).
The official library checks most of this; duplicate names, unknown keys, size and finiteness are ours.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_tasks.errors import PermanentError

if TYPE_CHECKING:
    import torch

MAX_HEADER_BYTES = 4_000_000
MAX_TENSORS = 10_000
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class ArtifactInvalid(PermanentError):
    """A model version's files are not what they should be; it must not be served, released or compared."""

    code = "ARTIFACT_INVALID"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(
            f"ARTIFACT_INVALID({reason}): {message} Fetch the model version again, or train again if the store has the "
            "same bytes."
        )
        self.reason = reason


def read_weights(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors by name and the file's metadata.

    Raises:
        ArtifactInvalid: HEADER, DUPLICATE_NAME, TOO_MANY_TENSORS, DTYPE, SHAPE, LAYOUT, TRAILING_BYTES or NON_FINITE.
    """
    metadata = read_metadata(data)
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise ArtifactInvalid("LAYOUT", f"the weights must be a safetensors file (got: {error}).") from None
    _check_finite(tensors)
    return tensors, metadata


def read_metadata(data: bytes) -> dict[str, str]:
    """Return the file's metadata alone, without torch; ArtifactInvalid as in `read_weights`, but for the values."""
    return _checked_metadata(data, size_bytes=len(data))


def read_file_metadata(path: Path) -> dict[str, str]:
    """Return what `read_metadata` does, holding no more than the header in memory."""
    with path.open("rb") as file:
        beginning = file.read(8 + MAX_HEADER_BYTES)
        return _checked_metadata(beginning, size_bytes=file.seek(0, os.SEEK_END))


def _checked_metadata(beginning: bytes, *, size_bytes: int) -> dict[str, str]:
    header, data_start = _read_header(beginning, size_bytes=size_bytes)
    metadata = _metadata(header.pop("__metadata__", {}))
    _check_layout(header, num_bytes=size_bytes - data_start)
    return metadata


def write_weights(tensors: Mapping[str, torch.Tensor], *, metadata: Mapping[str, str]) -> bytes:
    """Return the tensors as safetensors bytes; the same tensors and metadata always give the same bytes."""
    from safetensors.torch import save

    plain = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    data = bytes(save(plain, metadata=dict(metadata)))
    return data if len(metadata) < 2 else _sorted_metadata(data)


def _sorted_metadata(data: bytes) -> bytes:
    """Return the file with its metadata in order: safetensors writes it in another one each time (a Rust HashMap)."""
    header, data_start = _read_header(data, size_bytes=len(data))
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[data_start:]


def _read_header(beginning: bytes, *, size_bytes: int) -> tuple[dict[str, Any], int]:
    if size_bytes < 8:
        raise ArtifactInvalid("HEADER", f"the weights must have a header of 8 bytes or more (got {size_bytes}).")
    (length,) = struct.unpack("<Q", beginning[:8])
    if not 2 <= length <= min(MAX_HEADER_BYTES, size_bytes - 8):
        raise ArtifactInvalid("HEADER", f"the header must fit the file of {size_bytes} bytes (got length {length}).")
    try:
        header = json.loads(beginning[8 : 8 + length].decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise ArtifactInvalid("HEADER", "the header must be JSON (got other bytes).") from None
    if not isinstance(header, dict):
        raise ArtifactInvalid("HEADER", f"the header must be a JSON object (got {type(header).__name__}).")
    if len(header) > MAX_TENSORS:
        raise ArtifactInvalid("TOO_MANY_TENSORS", f"there must be at most {MAX_TENSORS} tensors (got {len(header)}).")
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ArtifactInvalid("DUPLICATE_NAME", "names in the header must be unique (got one twice).")
    return result


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(entry, str) for entry in value.values()):
        raise ArtifactInvalid("HEADER", "__metadata__ must map strings to strings.")
    return value


def _check_layout(header: Mapping[str, Any], *, num_bytes: int) -> None:
    spans = sorted(_span(name, entry) for name, entry in header.items())
    end = 0
    for start, stop, name in spans:
        if start != end:
            raise ArtifactInvalid("LAYOUT", f"{name} must start at byte {end} (got {start}: an overlap or a gap).")
        end = stop
    if end > num_bytes:
        raise ArtifactInvalid("LAYOUT", f"the tensors must lie within {num_bytes} bytes (got an end at {end}).")
    if end < num_bytes:
        raise ArtifactInvalid("TRAILING_BYTES", f"the file must end with its last tensor (got {num_bytes - end} more).")


def _span(name: str, entry: Any) -> tuple[int, int, str]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ArtifactInvalid("HEADER", f"{name} must have dtype, shape and data_offsets and nothing else.")
    if entry["dtype"] not in DTYPE_BYTES:
        raise ArtifactInvalid("DTYPE", f"{name} must have one of the dtypes {', '.join(DTYPE_BYTES)}.")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _naturals(shape) or len(shape) > 16:
        raise ArtifactInvalid("SHAPE", f"{name} must have a shape of whole numbers from 0 on (got {str(shape)[:60]}).")
    if not _naturals(offsets) or len(offsets) != 2:
        raise ArtifactInvalid("LAYOUT", f"{name} must have two data_offsets (got {str(offsets)[:60]}).")
    size = math.prod(shape) * DTYPE_BYTES[entry["dtype"]]
    if offsets[1] - offsets[0] != size:
        raise ArtifactInvalid("LAYOUT", f"{name} must take {size} bytes (got {offsets[1] - offsets[0]}).")
    return offsets[0], offsets[1], name


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def _check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    bad = sorted(name for name, tensor in tensors.items() if not bool(tensor.isfinite().all()))
    if bad:
        raise ArtifactInvalid("NON_FINITE", f"every weight must be finite (got NaN or infinity in {bad[:10]}).")
