"""The one table format of snapshots and exams: rows to Parquet and back, and the id that names the rows."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_tasks.contracts import Location, content_id
from pipeline_tasks.core.arrow_columns import is_ascending
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.errors import DataCorrupt

SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("label", pa.string()),
        ("weight", pa.float64()),
        ("split", pa.string()),
        ("group_key", pa.string()),
        ("object_key", pa.string()),
        ("offset", pa.int64()),
        ("size_bytes", pa.int64()),
        ("media_type", pa.string()),
        ("decision_version", pa.int64()),
        ("method", pa.string()),
        ("annotators", pa.list_(pa.string())),
        ("source", pa.string()),
        ("origin", pa.string()),
        ("arrived_at", pa.timestamp("us", tz="UTC")),
    ]
)
# Only where rows of a table are items of their own does the content of an item differ from its id: a manifest without
# such rows has no such column, and the bytes and the id that it always had.
KEYED_SCHEMA = SCHEMA.append(pa.field("content_id", pa.string()))
# When an item came in and in which pack it lies say nothing about what is learned from it: two installations (or one
# that was killed half-way) that hold the same items with the same labels have the same snapshot.
IDENTITY = tuple(name for name in SCHEMA.names if name not in {"object_key", "offset", "arrived_at"})
FORMAT = 2
PLACE_COLUMNS = ("item_id", "content_id", "object_key", "offset", "size_bytes")
# Columns of few values: in memory each value is held once. In Parquet they are plain strings.
FEW_VALUES = ("label", "split", "object_key", "media_type", "method", "source", "origin")
_ONCE = pa.dictionary(pa.int32(), pa.string())
# Rows of a row group: so many are held as plain strings while a manifest is written.
ROWS_OF_A_GROUP = 1 << 16
ROWS_AT_ONCE = 10_000  # as Python objects


def build_manifest(decided: pa.Table) -> pa.Table:
    """Return decided labels (as the catalog gives them) as a manifest, sorted by item id; FEW_VALUES are encoded."""
    known = {name: decided[name] for name in decided.column_names}
    known["decision_version"] = known.pop("version")
    known["weight"] = pa.chunked_array([np.ones(decided.num_rows)])
    is_keyed = not known.get("content_id", known["item_id"]).equals(known["item_id"])
    schema = _in_memory(KEYED_SCHEMA if is_keyed else SCHEMA)
    table = pa.table([known[field.name].cast(field.type) for field in schema], schema=schema)
    return table if is_ascending(table["item_id"]) else table.sort_by("item_id")


def _in_memory(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_type(_ONCE) if field.name in FEW_VALUES else field for field in schema])


def content_ids(table: pa.Table) -> list[str]:
    """Return the SHA-256 of each row's bytes, in row order."""
    ids: list[str] = table["content_id" if "content_id" in table.column_names else "item_id"].to_pylist()
    return ids


def manifest_id(table: pa.Table) -> str:
    """Return the SHA-256 of the rows, one canonical JSON array a line: Parquet's own bytes depend on its writer."""
    identity = (*IDENTITY, "content_id") if "content_id" in table.column_names else IDENTITY
    digest = hashlib.sha256(f"dethrone-manifest-{FORMAT} {json.dumps(identity)}\n".encode())
    encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        rows = zip(*(batch.column(name).to_pylist() for name in identity), strict=True)
        digest.update("".join(f"{encoder.encode(row)}\n" for row in rows).encode())
    return digest.hexdigest()


def exam_id(table: pa.Table) -> str:
    """Return the SHA-256 of an exam's (item id, label) pairs, with the content where it differs, sorted by item id."""
    names = [name for name in ("item_id", "label", "content_id") if name in table.column_names]
    return content_id(sorted(zip(*(table[name].to_pylist() for name in names), strict=True)))


def to_parquet(table: pa.Table) -> bytes:
    """Return the manifest as Parquet."""
    schema = KEYED_SCHEMA if "content_id" in table.column_names else SCHEMA
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        for start in range(0, max(1, table.num_rows), ROWS_OF_A_GROUP):
            writer.write_table(table.slice(start, ROWS_OF_A_GROUP).cast(schema).combine_chunks())
    return buffer.getvalue()


def from_parquet(data: bytes, *, object_key: str, columns: Sequence[str] = KEYED_SCHEMA.names) -> pa.Table:
    """Return the manifest that Parquet bytes hold, or those of its columns that are asked for; FEW_VALUES are encoded.

    Raises:
        DataCorrupt: the bytes are no Parquet of this schema.
    """
    try:
        schema = pq.read_schema(io.BytesIO(data))
        if not (schema.equals(SCHEMA) or schema.equals(KEYED_SCHEMA)):
            raise DataCorrupt(f"{object_key} must have the columns {SCHEMA.names} (got {schema.names}).")
        file = pq.ParquetFile(io.BytesIO(data), read_dictionary=list(FEW_VALUES))
        # Column by column, so that no more than one of them is in memory twice.
        names = [name for name in schema.names if name in columns]
        return pa.table({name: file.read([name]).unify_dictionaries().combine_chunks()[name] for name in names})
    except (pa.ArrowException, OSError) as error:
        raise DataCorrupt(f"{object_key} must be a Parquet manifest (got {type(error).__name__}).") from error


def read(store: ObjectStore, object_key: str, *, columns: Sequence[str] = KEYED_SCHEMA.names) -> pa.Table:
    """Return the manifest that lies in the object store, or those of its columns that are asked for.

    Raises:
        DataCorrupt: it is not there, or no Parquet of this schema.
    """
    return from_parquet(_stored(store, object_key), object_key=object_key, columns=columns)


def _stored(store: ObjectStore, object_key: str) -> bytes:
    try:
        return store.get(object_key)
    except KeyError:
        raise DataCorrupt(
            f"{object_key} must exist in the object store (got nothing). Restore it from a backup."
        ) from None


def read_places(store: ObjectStore, object_key: str) -> pa.Table:
    """Return where each row of a manifest in the object store lies, and what its bytes hash to (`places`).

    Raises:
        DataCorrupt: it is not there, or no Parquet of this schema.
    """
    return places(read(store, object_key, columns=PLACE_COLUMNS))


def places(table: pa.Table) -> pa.Table:
    """Return the columns PLACE_COLUMNS of a manifest or of decided labels."""
    contents = table["content_id" if "content_id" in table.column_names else "item_id"]
    columns = [table["item_id"], contents, table["object_key"], table["offset"], table["size_bytes"]]
    return pa.table(columns, names=list(PLACE_COLUMNS))


def filtered(table: pa.Table, mask: pa.ChunkedArray) -> pa.Table:
    """Return the rows of a mask; columns that lie in the same memory do so again."""
    done: dict[tuple[Any, ...], pa.ChunkedArray] = {}
    columns = {}
    for name in table.column_names:
        buffers = (buffer for chunk in table[name].chunks for buffer in chunk.buffers() if buffer is not None)
        place = (table[name].type, *(buffer.address for buffer in buffers))
        if place not in done:
            done[place] = table[name].filter(mask)
        columns[name] = done[place]
    return pa.table(columns, schema=table.schema)


def locations(table: pa.Table) -> list[Location]:
    """Return where each row's bytes lie, in row order."""
    parts = (table[name].to_pylist() for name in ("object_key", "offset", "size_bytes"))
    return [Location(*part) for part in zip(*parts, strict=True)]
