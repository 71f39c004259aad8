"""From a request's body to items: one encoded item, a batch of them, or a tensor (.npy, safetensors). No HTTP here.

Each item is decoded and checked before it meets anybody else's: a bad one becomes a Refusal and can fail nobody.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import io
import json
import logging
import math
import struct
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from bento_services.inference.responses import MODEL_FAILED, PredictionError
from pipeline_tasks.errors import InputError
from pipeline_tasks.models.base import Array, Signature

BATCH = "application/vnd.dethrone.batch"
NPY = "application/x-npy"
SAFETENSORS = "application/vnd.safetensors"
LENGTH = struct.Struct(">I")
MAX_HEADER_BYTES = 10_000
MAX_SAFETENSORS_HEADER_BYTES = 1_000_000  # its metadata may name a thousand classes
SAFETENSORS_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "U8": "|u1"}
# A number that a model uses as an index could reach outside its table, which ends a GPU process: such a model takes
# encoded items only, whose decoder gives numbers within bounds.
TENSOR_DTYPES = frozenset({"float64", "float32", "float16", "uint8"})

Item = Array | PredictionError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """A body's items, in order; `single` when the body is one item and not a batch of one."""

    items: Sequence[Item]
    single: bool


def read_content(
    data: bytes, *, media_type: str, decode: Callable[[bytes], Array], signature: Signature, max_items: int
) -> Content:
    """Return the body's items.

    Raises:
        InputError: BATCH_INVALID, BATCH_TOO_LARGE, TENSOR_INVALID or TENSOR_NOT_TAKEN: the body as a whole is unusable.
    """
    if media_type == BATCH:
        return Content(
            [decode_item(item, decode=decode) for item in split_batch(data, max_items=max_items)], single=False
        )
    if media_type == NPY:
        return _of_tensor(read_npy(data), signature=signature, max_items=max_items)
    if media_type == SAFETENSORS:
        return _of_tensor(read_safetensors(data), signature=signature, max_items=max_items)
    return Content([decode_item(data, decode=decode)], single=True)


def decode_item(data: bytes, *, decode: Callable[[bytes], Array]) -> Item:
    """Return the decoded item, or why it cannot be used."""
    try:
        return decode(data)
    except InputError as error:
        return PredictionError(422, error.code, str(error), "body")
    except MemoryError:
        return MODEL_FAILED
    except Exception:  # the decoder is pure: what breaks it is in the bytes
        logger.exception("decoding failed")
        return PredictionError(422, "ITEM_INVALID", "the item must decode (got an error in its bytes).", "body")


def split_batch(data: bytes, *, max_items: int) -> list[bytes]:
    """Return the items of a batch: each is its length (4 bytes, the highest first) and that many bytes.

    Raises:
        InputError: BATCH_INVALID, it is empty or does not end where its last item does; BATCH_TOO_LARGE.
    """
    items: list[bytes] = []
    position = 0
    while position < len(data):
        start = position + LENGTH.size
        end = start + LENGTH.unpack_from(data, position)[0] if start <= len(data) else len(data) + 1
        if end > len(data):
            raise InputError(
                f"item {len(items)} must end within the batch (got {len(data) - position} bytes left). "
                "Send each item as 4 bytes of length, the highest first, and its bytes.",
                code="BATCH_INVALID",
            )
        _check_count(len(items) + 1, max_items=max_items)
        items.append(data[start:end])
        position = end
    if not items:
        raise InputError("a batch must have an item (got no bytes).", code="BATCH_INVALID")
    return items


def join_batch(items: Sequence[bytes]) -> bytes:
    """Return the body of a batch of encoded items."""
    return b"".join(part for item in items for part in (LENGTH.pack(len(item)), item))


def read_npy(data: bytes) -> Array:
    """Return the array of an .npy file, as a view of its bytes; InputError TENSOR_INVALID. Never unpickles."""
    version = data[6:8]
    if data[:6] != b"\x93NUMPY" or version not in {b"\x01\x00", b"\x02\x00", b"\x03\x00"}:
        raise _bad_tensor("an .npy file of version 1 to 3", "other bytes")
    start = 10 if version == b"\x01\x00" else 12
    length = int.from_bytes(data[8:start], "little")
    if length > MAX_HEADER_BYTES or start + length > len(data):
        raise _bad_tensor(f"a header of at most {MAX_HEADER_BYTES} bytes", f"{length}")
    dtype, shape, fortran = _npy_header(data[start : start + length])
    return _array(memoryview(data)[start + length :], dtype=dtype, shape=shape, order="F" if fortran else "C")


@functools.lru_cache(maxsize=256)
def _npy_header(header: bytes) -> tuple[str, tuple[int, ...], bool]:
    try:
        fields = ast.literal_eval(header.decode("latin-1").strip())
        return str(fields["descr"]), tuple(map(_size, fields["shape"])), bool(fields["fortran_order"])
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        raise _bad_tensor("a header with descr, shape and fortran_order", "another") from None


def read_safetensors(data: bytes) -> Array:
    """Return the one tensor of a safetensors file, as a view of its bytes; InputError TENSOR_INVALID."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > MAX_SAFETENSORS_HEADER_BYTES or 8 + length > len(data):
        raise _bad_tensor(f"a safetensors header of at most {MAX_SAFETENSORS_HEADER_BYTES} bytes", f"{length}")
    try:
        header = json.loads(data[8 : 8 + length])
        (tensor,) = [value for name, value in header.items() if name != "__metadata__"]
        dtype, (start, end) = SAFETENSORS_DTYPES[tensor["dtype"]], tensor["data_offsets"]
        sizes = tuple(map(_size, tensor["shape"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _bad_tensor(f"one tensor of {', '.join(SAFETENSORS_DTYPES)} that fills the file", "another") from None
    if (start, end) != (0, len(data) - 8 - length):
        raise _bad_tensor("one that fills the file", f"offsets {str(start)[:20]} to {str(end)[:20]}")
    return _array(memoryview(data)[8 + length :], dtype=dtype, shape=sizes, order="C")


def npy_bytes(array: Array) -> bytes:
    """Return the array as an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def takes_tensors(signature: Signature) -> bool:
    """Return whether a decoded item may come as a tensor."""
    return signature.input_dtype in TENSOR_DTYPES


def _of_tensor(array: Array, *, signature: Signature, max_items: int) -> Content:
    """Return the tensor's items: it is one, or a stack of them along one more dimension in front."""
    if not takes_tensors(signature):
        raise InputError(
            f"an item of this model must be {' or '.join(signature.media_types)} (got a tensor). Send it encoded.",
            code="TENSOR_NOT_TAKEN",
        )
    shape, single = signature.input_shape, array.ndim == len(signature.input_shape)
    got = array.shape if single else array.shape[1:]
    fits = len(got) == len(shape) and all(want in {-1, size} and size for want, size in zip(shape, got, strict=True))
    if not fits or array.dtype != np.dtype(signature.input_dtype):
        raise _bad_tensor(
            f"{signature.input_dtype} of the shape {shape} or (n, ...) of it", f"{array.dtype.name} {array.shape}"
        )
    if not single:
        if not len(array):
            raise InputError("a batch must have an item (got a tensor of none).", code="BATCH_INVALID")
        _check_count(len(array), max_items=max_items)
    if array.dtype.kind == "f" and np.isinf(array).any():
        raise _bad_tensor("numbers that are finite, or NaN where one is missing", "infinity")
    return Content([array] if single else list(array), single=single)


def _array(data: memoryview, *, dtype: str, shape: tuple[int, ...], order: Literal["C", "F"]) -> Array:
    kind = _number_type(dtype)
    expected = kind.itemsize * math.prod(shape)
    if expected != len(data):
        raise _bad_tensor(f"{expected} bytes of numbers", f"{len(data)}")
    flat: Array = np.frombuffer(data, dtype=kind)
    return flat.reshape(shape, order=order)


@functools.lru_cache(maxsize=64)
def _number_type(name: str) -> np.dtype[Any]:
    try:
        kind = np.dtype(name)
    except TypeError:
        kind = np.dtype(object)
    if kind.name not in TENSOR_DTYPES or not kind.isnative:
        raise _bad_tensor(f"numbers of {', '.join(sorted(TENSOR_DTYPES))}, little-endian", name[:40])
    return kind


def _size(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**40:
        raise ValueError(f"a size must be a whole number from 0 (got {str(value)[:40]}).")
    return value


def _check_count(count: int, *, max_items: int) -> None:
    if count > max_items:
        raise InputError(
            f"a batch must have at most {max_items} items (got {count} or more). Send several.", code="BATCH_TOO_LARGE"
        )


def _bad_tensor(expected: str, got: str) -> InputError:
    return InputError(f"the tensor must be {expected} (got {got}).", code="TENSOR_INVALID")
