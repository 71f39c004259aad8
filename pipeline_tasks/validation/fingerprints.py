"""Fingerprints of items, a few hundred bytes each: enough to find copies that differ in their bytes. Pure.

Legend: h, w pixels; c channels; n items.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import re
import unicodedata
import zlib
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from pipeline_tasks.contracts import canonical_json, content_id, sha256_hex
from pipeline_tasks.core.arrow_columns import is_ascending
from pipeline_tasks.errors import DataCorrupt, InputError
from pipeline_tasks.guards.cells import spelled
from pipeline_tasks.guards.image import guard_image
from pipeline_tasks.project.gate_schema import NearDuplicates
from pipeline_tasks.project.schema import Modality, Project

# Raise one when the same bytes get another fingerprint: stored ones are then computed anew.
FORMATS: dict[Modality, int] = {"image": 2, "text": 2, "tabular": 3}
SCHEMA = pa.schema([("item_id", pa.string()), ("fingerprint", pa.binary())])
MIN_GREY_SPREAD = 4.0  # standard deviation in grey levels; below it an image has too little in it to be told apart
SIDE, GREY_SIDE, COLOUR_SIDE, THUMB_SIDE = 32, 16, 4, 28
HASH_BYTES, GREY_BYTES, COLOUR_BYTES, THUMB_BYTES = 8, GREY_SIDE**2, 2 * COLOUR_SIDE**2, THUMB_SIDE**2
MAX_COLOUR_DISTANCE = 6.0  # mean absolute difference of the colour planes, in levels of 255
MAX_GAIN = 4.0  # of the spread of one photo over the other's: beyond, colours are not scaled any more
ROW_HASH_BYTES, NUM_VALUES = 32, 32  # of a row
TEXT_CODE = 1e30  # at least, as a value; numbers are kept below a ten-thousand-millionth of it
MAX_NUMBER = 1e20
NUM_PERMUTATIONS = 128
MINHASH_SEED, MINHASH_SCHEME = 1, "affine32"
SHINGLE_CHARACTERS = 5
FLOAT_NOISE_DIGITS = 12
WIDTHS: dict[Modality, int] = {
    "image": HASH_BYTES + GREY_BYTES + COLOUR_BYTES + THUMB_BYTES,
    "text": NUM_PERMUTATIONS * 4,
    "tabular": ROW_HASH_BYTES + NUM_VALUES * 4,
}
ROWS_AT_ONCE = 1 << 18  # as many are looked up at a time: a table of the ids of all would be larger than they are
ROWS_OF_A_GROUP = 1 << 16  # of a file, and read at a time: what decodes them takes three times their memory
_NO_BYTES = np.empty(0, dtype=np.uint8)
_VARIANT = re.compile("[\ufe00-\ufe0f]")  # asks for one look or the other of the sign before it

Bytes = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, slots=True)
class Fingerprints:
    """The fingerprints of a set of items: `values` uint8 (n, width). What has none is left out."""

    item_ids: pa.Array | pa.ChunkedArray
    values: Bytes

    def item_id(self, row: int) -> str:
        """Return the item of a row."""
        return str(self.item_ids[row].as_py())


@dataclasses.dataclass(frozen=True, slots=True)
class RowColumns:
    """The columns of rows whose values are compared, at most NUM_VALUES; none: those that a row has.

    `numbers` are those whose texts are numbers, as a declared `decimal` is.
    """

    names: tuple[str, ...] = ()
    numbers: frozenset[str] = frozenset()

    @staticmethod
    def of(project: Project) -> RowColumns:
        """Return a project's: no dates, no free texts, and for the stock recipe none that it does not read."""
        types = {column.name: column.type for column in project.columns}
        names = {name for name, column_type in types.items() if column_type not in ("date", "text")}
        params = project.recipe.params
        if project.recipe.reads_columns and {"numbers", "categories"} & params.keys():
            read = {str(name) for key in ("numbers", "categories") for name in params.get(key) or ()}
            names = names & read or names
        chosen = sorted(names, key=_name_rank)[:NUM_VALUES]
        return RowColumns(tuple(chosen), frozenset(name for name in chosen if types[name] in ("number", "decimal")))


@lru_cache(maxsize=10_000)
def _name_rank(name: str) -> str:
    return sha256_hex(name.encode())


def kind(modality: Modality, settings: NearDuplicates, columns: RowColumns | None = None) -> str:
    """Return what two fingerprints must have in common to be compared; stands in the name of their file."""
    name = f"{modality}-{FORMATS[modality]}"
    if modality == "tabular":
        name += f"-{settings.significant_digits}"
        if columns and columns.names:
            name += f"-{content_id([*columns.names, *sorted(columns.numbers)])[:8]}"
    return name


def fingerprint(
    data: bytes, *, modality: Modality, max_pixels: int, digits: int, columns: RowColumns | None = None
) -> bytes | None:
    """Return an item's fingerprint, or None where there is nothing to compare: unreadable bytes, a flat image."""
    try:
        if modality == "image":
            return image_fingerprint(data, max_pixels=max_pixels)
        if modality == "text":
            return text_fingerprint(data.decode("utf-8-sig"))
        return row_fingerprint(json.loads(data), digits=digits, columns=columns)
    except (InputError, ValueError, RecursionError):
        return None


def image_fingerprint(data: bytes, *, max_pixels: int) -> bytes | None:
    """Return perceptual hash, 16 x 16 and 28 x 28 grey pixels, 4 x 4 colours; None for an image of (nearly) one grey.

    The image is decoded and resized as the models do it. The hash is the sign of the lowest frequencies of its cosine
    transform. Source: imagehash.phash, after Krawetz, "Looks Like It" (2011).

    Raises:
        InputError: the bytes are no image of at most `max_pixels`.
    """
    import imagehash

    image = guard_image(data, max_pixels=max_pixels).image.convert("RGB")
    colours = _resized(image, side=SIDE).convert("YCbCr")
    planes_hwc = np.asarray(colours, dtype=np.float64)
    grey_hw = _pooled(planes_hwc[..., 0], side=GREY_SIDE)
    if float(grey_hw.std()) < MIN_GREY_SPREAD:
        return None
    bits = imagehash.phash(colours.getchannel("Y")).hash
    chroma = [_pooled(planes_hwc[..., channel], side=COLOUR_SIDE) for channel in (1, 2)]
    parts = [np.packbits(bits), *(np.rint(plane).astype(np.uint8) for plane in (grey_hw, *chroma))]
    thumb_hw = np.asarray(_resized(image, side=THUMB_SIDE).convert("L"))
    return b"".join(part.tobytes() for part in (*parts, thumb_hw))


def _resized(image: Image.Image, *, side: int) -> Image.Image:
    return image if image.size == (side, side) else image.resize((side, side), Image.Resampling.BILINEAR)


def _pooled(plane_hw: npt.NDArray[np.float64], *, side: int) -> npt.NDArray[np.float64]:
    step = SIDE // side
    pooled: npt.NDArray[np.float64] = plane_hw.reshape(side, step, side, step).mean(axis=(1, 3))
    return pooled


def hashes(values_nw: Bytes) -> npt.NDArray[np.uint64]:
    """Return the perceptual hashes of images."""
    return np.ascontiguousarray(values_nw[:, :HASH_BYTES]).view(np.uint64).reshape(-1)


def grey(values_nw: Bytes) -> npt.NDArray[np.float32]:
    """Return the 16 x 16 grey pixels of images (n, 256)."""
    return values_nw[:, HASH_BYTES : HASH_BYTES + GREY_BYTES].astype(np.float32)


def colours(values_nw: Bytes) -> npt.NDArray[np.float32]:
    """Return the colour planes of images (n, 32)."""
    start = HASH_BYTES + GREY_BYTES
    return values_nw[:, start : start + COLOUR_BYTES].astype(np.float32)


def thumbs(values_nw: Bytes) -> npt.NDArray[np.float32]:
    """Return the 28 x 28 grey pixels of images (n, 28, 28)."""
    return values_nw[:, -THUMB_BYTES:].reshape(-1, THUMB_SIDE, THUMB_SIDE).astype(np.float32)


def colour_distance(
    one_pw: npt.NDArray[np.float32], other_pw: npt.NDArray[np.float32], gain_p: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the mean difference of colour planes, both brought to one contrast; `gain` is other over one."""
    half_p = np.sqrt(np.clip(gain_p, 1 / MAX_GAIN, MAX_GAIN))[:, None]
    distance_p: npt.NDArray[np.float32] = np.abs((one_pw - 128) * half_p - (other_pw - 128) / half_p).mean(axis=1)
    return distance_p


def text_fingerprint(text: str) -> bytes:
    """Return the MinHash signature of the text's shingles. Source: Broder 1997, datasketch.MinHash."""
    signature = _empty_signature().copy()
    signature.update_batch([shingle.encode() for shingle in shingles(text)])
    return np.asarray(signature.hashvalues, dtype="<u4").tobytes()


@cache
def _empty_signature() -> Any:
    from datasketch import MinHash

    return MinHash(num_perm=NUM_PERMUTATIONS, seed=MINHASH_SEED, hashfunc=zlib.crc32, scheme=MINHASH_SCHEME)


def shingles(text: str) -> frozenset[str]:
    """Return every run of five characters, white space, punctuation and case left out; a shorter text is one shingle.

    Vowel signs and emoji stay: where they differ, texts say different things. A text without any of these, letters and
    digits is its own only shingle.
    """
    folded = _VARIANT.sub("", unicodedata.normalize("NFKC", text).casefold())
    plain = " ".join("".join(map(_or_space, folded)).split()) or text.strip()
    last = max(len(plain) - SHINGLE_CHARACTERS, 0)
    return frozenset(plain[start : start + SHINGLE_CHARACTERS] for start in range(last + 1))


@cache
def _or_space(char: str) -> str:
    category = unicodedata.category(char)
    return char if category[0] in "LMN" or category == "So" or char == "_" else " "


def row_fingerprint(row: Mapping[str, Any], *, digits: int, columns: RowColumns | None = None) -> bytes:
    """Return the hash of the row, fractions rounded to `digits` significant digits and texts without case, and values.

    Raises:
        ValueError: the row is no JSON object.
    """
    if not isinstance(row, dict):
        raise ValueError(  # noqa: TRY004 - the user's data, not a caller's type
            f"a row must be a JSON object (got {type(row).__name__})."
        )
    plain = {str(name): _rounded(value, digits=digits) for name, value in row.items()}
    columns = columns or RowColumns()
    names = columns.names or sorted(plain, key=_name_rank)[:NUM_VALUES]
    values = np.full(NUM_VALUES, np.nan, dtype="<f4")
    values[: len(names)] = [_as_number(row.get(name), is_number=name in columns.numbers) for name in names]
    return bytes.fromhex(sha256_hex(canonical_json(plain))) + values.tobytes()


def row_values(values_nw: Bytes) -> npt.NDArray[np.float32]:
    """Return the compared values of rows (n, NUM_VALUES): numbers, codes of texts from TEXT_CODE on, NaN for none."""
    return np.ascontiguousarray(values_nw[:, ROW_HASH_BYTES:]).view("<f4")


def _as_number(value: Any, *, is_number: bool) -> float:
    """Return a cell as a number; texts are equal or another code, as far from one another as from any number."""
    if value is None or value == "":
        return math.nan
    if isinstance(value, str) and is_number:
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, int | float):
        is_nan = isinstance(value, float) and math.isnan(value)
        return math.nan if is_nan else max(-MAX_NUMBER, min(MAX_NUMBER, value))
    said = _rounded(value, digits=FLOAT_NOISE_DIGITS)
    return TEXT_CODE * (1 + zlib.crc32(canonical_json(said)) / 2**32)


def _rounded(value: Any, *, digits: int) -> Any:
    """Return a value as it is compared. Whole numbers stay whole: 201501 and 201502 may be two months."""
    if isinstance(value, str):
        return " ".join(unicodedata.normalize("NFKC", value).casefold().split())
    if isinstance(value, bool):
        return spelled(value)
    if not isinstance(value, int | float):
        return value
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    clean = float(f"{value:.{FLOAT_NOISE_DIGITS}g}")  # 3.0000000000000004 is 3
    return str(int(clean)) if clean.is_integer() else f"{clean:.{digits}g}"


def as_table(values: Mapping[str, bytes | None]) -> pa.Table:
    """Return fingerprints by item id as a table (columns: SCHEMA), in their order."""
    return pa.table({"item_id": list(values), "fingerprint": list(values.values())}, schema=SCHEMA)


class Gathered:
    """The fingerprints of a set of items while they are found: one row for each, no Python objects."""

    def __init__(self, item_ids: pa.ChunkedArray, *, modality: Modality) -> None:
        self._item_ids = item_ids
        self._values_nw = np.zeros((len(item_ids), WIDTHS[modality]), dtype=np.uint8)
        self._is_known_n = np.zeros(len(item_ids), dtype=bool)
        self._is_given_n = np.zeros(len(item_ids), dtype=bool)

    def take_over(self, stored: pa.Table) -> None:
        """Take what is stored (columns: SCHEMA) of these items; what is known already stays."""
        for start in range(0, stored.num_rows, ROWS_AT_ONCE):
            some = stored.slice(start, ROWS_AT_ONCE).combine_chunks()
            at = pc.index_in(self._item_ids, value_set=some["item_id"])
            rows_n = np.flatnonzero(pc.is_valid(at).to_numpy() & ~self._is_known_n)
            taken = some["fingerprint"].take(at.take(pa.array(rows_n)))
            given_n = rows_n[pc.is_valid(taken).to_numpy()]
            self._is_known_n[rows_n] = True
            self._is_given_n[given_n] = True
            self._values_nw[given_n] = _matrix(taken.drop_null(), width=self._values_nw.shape[1])

    def put(self, row: int, value: bytes | None) -> None:
        """Note an item's fingerprint, or that it has none."""
        self._is_known_n[row] = True
        if value is not None:
            self._is_given_n[row] = True
            self._values_nw[row] = np.frombuffer(value, dtype=np.uint8)

    def missing(self) -> npt.NDArray[np.int64]:
        """Return the rows of which nothing is known."""
        return np.flatnonzero(~self._is_known_n)

    def table(self) -> pa.Table:
        """Return all as a table (columns: SCHEMA) on the same memory."""
        return _as_rows(self._item_ids, self._values_nw, self._is_given_n)


def _as_rows(item_ids: pa.ChunkedArray, values_nw: Bytes, is_given_n: npt.NDArray[np.bool_]) -> pa.Table:
    """Return ids and fingerprints as a table (columns: SCHEMA) on the same memory."""
    num_rows, width = values_nw.shape
    at_once = np.iinfo(np.int32).max // width
    offsets_n = np.arange(min(num_rows, at_once) + 1, dtype=np.int32) * np.int32(width)
    chunks = []
    for start in range(0, num_rows, at_once):
        some_nw, given_n = (array[start : start + at_once] for array in (values_nw, is_given_n))
        valid = None if given_n.all() else pa.array(given_n).buffers()[1]
        buffers = [valid, pa.py_buffer(offsets_n), pa.py_buffer(some_nw)]
        chunks.append(pa.Array.from_buffers(pa.binary(), len(some_nw), buffers))
    return pa.table([item_ids, pa.chunked_array(chunks, pa.binary())], schema=SCHEMA)


def select(stored: pa.Table, item_ids: pa.ChunkedArray) -> pa.Table:
    """Return the fingerprints of these items, in their order.

    Raises:
        KeyError: an item has no row.
    """
    if stored["item_id"].equals(item_ids):
        return stored
    rows = pc.index_in(item_ids, value_set=stored["item_id"])
    if rows.null_count:
        raise KeyError(item_ids.filter(pc.is_null(rows))[0].as_py())
    return pa.table([item_ids, stored["fingerprint"].take(rows)], schema=SCHEMA)


def pack(stored: pa.Table, *, modality: Modality) -> Fingerprints:
    """Return a table of fingerprints as arrays, sorted by item id."""
    ordered = stored if is_ascending(stored["item_id"]) else stored.sort_by("item_id")
    given = ordered.filter(pc.is_valid(ordered["fingerprint"])) if ordered["fingerprint"].null_count else ordered
    return Fingerprints(given["item_id"], _matrix(given["fingerprint"], width=WIDTHS[modality]))


def _matrix(column: pa.ChunkedArray, *, width: int) -> Bytes:
    """Return fingerprints of which none is missing as an array (n, width)."""
    parts = [_bytes_of(chunk) for chunk in column.chunks]
    return (parts[0] if len(parts) == 1 else np.concatenate([_NO_BYTES, *parts])).reshape(len(column), width)


def _bytes_of(chunk: pa.BinaryArray) -> Bytes:
    """Return the bytes of all values, one after the other."""
    _validity, offsets, data = chunk.buffers()
    first, last = np.frombuffer(offsets, dtype=np.int32)[[chunk.offset, chunk.offset + len(chunk)]]
    return np.frombuffer(data or b"", dtype=np.uint8)[first:last]


def to_parquet(stored: pa.Table) -> bytes:
    """Return the fingerprints as Parquet."""
    buffer = io.BytesIO()
    pq.write_table(stored, buffer, compression="zstd", row_group_size=ROWS_OF_A_GROUP)
    return buffer.getvalue()


def from_parquet(data: bytes, *, object_key: str, modality: Modality) -> pa.Table:
    """Return stored fingerprints (columns: SCHEMA).

    Raises:
        DataCorrupt: the bytes are not what `to_parquet` writes.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        if not (schema := file.schema_arrow).equals(SCHEMA):
            raise DataCorrupt(f"{object_key} must have the columns {SCHEMA.names} (got {schema.names}). Delete it.")
        return _read(file, object_key=object_key, width=WIDTHS[modality])
    except (pa.ArrowException, OSError) as error:
        raise DataCorrupt(f"{object_key} must be Parquet (got {type(error).__name__}). Delete it.") from error


def _read(file: pq.ParquetFile, *, object_key: str, width: int) -> pa.Table:
    """Return a file's rows, read in parts into memory that is as large as they are."""
    num_rows, start, ids = file.metadata.num_rows, 0, []
    values_nw = np.frombuffer(pa.allocate_buffer(num_rows * width), dtype=np.uint8).reshape(num_rows, width)
    is_given_n = np.zeros(num_rows, dtype=bool)
    for batch in file.iter_batches(ROWS_OF_A_GROUP):
        is_given = pc.is_valid(batch["fingerprint"])
        given = batch["fingerprint"].filter(is_given)
        if not set(pc.unique(pc.binary_length(given)).to_pylist()) <= {width}:
            raise DataCorrupt(f"{object_key} must hold fingerprints of {width} bytes (got others). Delete it.")
        values_nw[start + np.flatnonzero(is_given)] = _bytes_of(given).reshape(-1, width)
        is_given_n[start : start + batch.num_rows] = is_given
        ids.append(batch["item_id"])
        start += batch.num_rows
    return _as_rows(pa.chunked_array(ids, pa.string()), values_nw, is_given_n)
