"""Decoded inputs in one file of the scratch folder: decoded once, used by every trial, epoch and resumed attempt."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline_tasks.contracts import UNDECODABLE
from pipeline_tasks.core.atomic_files import replace_file
from pipeline_tasks.errors import GateClosed, InputError
from pipeline_tasks.models.base import Array
from pipeline_tasks.training.progress import step_progress

VALUES_NAME = "inputs.bin"
INDEX_NAME = "inputs.json"
MAX_SKIPPED_SHARE = 0.01
TOLD_EVERY = 100


class DecodedInputs:
    """Items as arrays that may differ in the length of their first axis; the file is mapped, not read into memory."""

    def __init__(self, folder: Path, index: dict[str, Any]) -> None:
        shape = (-1, *index["tail_shape"])
        self._values = np.memmap(folder / index["file"], dtype=index["dtype"], mode="r").reshape(shape)
        self._starts, self._lengths = np.load(folder / index["places"], mmap_mode="r")
        self.skipped: dict[int, str] = {int(row): code for row, code in index["skipped"].items()}

    def __len__(self) -> int:
        return len(self._starts)

    def take(self, rows: Iterable[int]) -> list[Array]:
        """Return the arrays of these rows."""
        return [self._values[self._starts[row] : self._starts[row] + self._lengths[row]] for row in rows]


def decode_inputs(
    items: Callable[[], Iterable[tuple[int, bytes]]],
    *,
    num_rows: int,
    decode: Callable[[bytes], Array],
    folder: Path,
    key: str,
) -> DecodedInputs:
    """Decode every item into the folder, or return what an earlier attempt with the same key left there.

    `items` yields (row, bytes) in any order. Rows that cannot be decoded are listed in `skipped` with their code.

    Raises:
        GateClosed: UNDECODABLE, more than 1 % of the rows cannot be decoded.
    """
    index_path = folder / INDEX_NAME
    if index_path.exists():
        index = json.loads(index_path.read_text())
        if index["key"] == key and "places" in index:
            return DecodedInputs(folder, index)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, path = tempfile.mkstemp(dir=folder, suffix=f"-{VALUES_NAME}")
    with os.fdopen(descriptor, "wb") as file:
        written, places = _write(file, items(), num_rows=num_rows, decode=decode)
    _check_skipped(written["skipped"], num_rows=num_rows)
    np.save(f"{path}.npy", places)
    index = {"key": key, "file": Path(path).name, "places": f"{Path(path).name}.npy", **written}
    replace_file(index_path, json.dumps(index).encode())
    return DecodedInputs(folder, index)


def _write(
    file: BinaryIO, items: Iterable[tuple[int, bytes]], *, num_rows: int, decode: Callable[[bytes], Array]
) -> tuple[dict[str, Any], npt.NDArray[np.int64]]:
    skipped: dict[int, str] = {}
    places = np.zeros((2, num_rows), dtype=np.int64)  # where each row's array begins, and its length
    position, dtype, tail = 0, "uint8", []
    for row, data in _told(items, num_rows=num_rows):
        try:
            array = np.ascontiguousarray(decode(data))
        except InputError as error:
            skipped[row] = error.code
            continue
        dtype, tail = array.dtype.str, list(array.shape[1:])
        file.write(array.data)
        places[:, row] = position, len(array)
        position += len(array)
    return {"dtype": dtype, "tail_shape": tail, "skipped": skipped}, places


def _told(items: Iterable[tuple[int, bytes]], *, num_rows: int) -> Iterator[tuple[int, bytes]]:
    with step_progress("decode", total=num_rows) as progress:
        for number, pair in enumerate(items, start=1):
            yield pair
            if number % TOLD_EVERY == 0 or number == num_rows:
                progress.advance(done=number, note="")


def _check_skipped(skipped: dict[int, str], *, num_rows: int) -> None:
    if len(skipped) > MAX_SKIPPED_SHARE * num_rows:
        codes = ", ".join(sorted(set(skipped.values()))[:10])
        raise GateClosed(
            f"at least {1 - MAX_SKIPPED_SHARE:.0%} of a snapshot's rows must decode with the recipe "
            f"(got {len(skipped)} of {num_rows} that do not: {codes}). Check recipe.params against the items.",
            code=UNDECODABLE,
        )


def batches_of(rows: npt.NDArray[np.int64], *, batch_size: int) -> Sequence[npt.NDArray[np.int64]]:
    """Cut positions into as few batches as hold them, as equal as can be: a last batch of two would steer the model."""
    return np.array_split(rows, max(1, math.ceil(len(rows) / batch_size)))
