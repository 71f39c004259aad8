"""The one table format of snapshots and exams: rows to Parquet and back, and the id that names the rows."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_tasks.contracts import Location, content_id
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.ports import ObjectStore

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


def build_manifest(decided: pa.Table) -> pa.Table:
    """Return decided labels (as the catalog gives them) as a manifest, sorted by item id."""
    known = {name: decided[name] for name in decided.column_names}
    known["decision_version"] = known.pop("version")
    known["weight"] = pa.chunked_array([np.ones(decided.num_rows)])
    is_keyed = not known.get("content_id", known["item_id"]).equals(known["item_id"])
    schema = KEYED_SCHEMA if is_keyed else SCHEMA
    return pa.table([known[field.name].cast(field.type) for field in schema], schema=schema).sort_by("item_id")


def content_ids(table: pa.Table) -> list[str]:
    """Return the SHA-256 of each row's bytes, in row order."""
    found: list[str] = table["content_id" if "content_id" in table.column_names else "item_id"].to_pylist()
    return found


def manifest_id(table: pa.Table) -> str:
    """Return the SHA-256 of the rows, one canonical JSON array a line: Parquet's own bytes depend on its writer."""
    identity = (*IDENTITY, "content_id") if "content_id" in table.column_names else IDENTITY
    digest = hashlib.sha256(f"dethrone-manifest-{FORMAT} {json.dumps(identity)}\n".encode())
    encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for batch in table.to_batches(max_chunksize=10_000):
        rows = zip(*(batch.column(name).to_pylist() for name in identity), strict=True)
        digest.update("".join(f"{encoder.encode(row)}\n" for row in rows).encode())
    return digest.hexdigest()


def exam_id(table: pa.Table) -> str:
    """Return the SHA-256 of an exam's (item id, label) pairs, with the content where it differs, sorted by item id."""
    names = [name for name in ("item_id", "label", "content_id") if name in table.column_names]
    return content_id(sorted(zip(*(table[name].to_pylist() for name in names), strict=True)))


def to_parquet(table: pa.Table) -> bytes:
    """Return the manifest as Parquet."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def from_parquet(data: bytes, *, object_key: str, columns: Sequence[str] = KEYED_SCHEMA.names) -> pa.Table:
    """Return the manifest that Parquet bytes hold, or those of its columns that are asked for.

    Raises:
        DataCorrupt: the bytes are no Parquet of this schema.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        schema = file.schema_arrow
        if not (schema.equals(SCHEMA) or schema.equals(KEYED_SCHEMA)):
            raise DataCorrupt(f"{object_key} must have the columns {SCHEMA.names} (got {schema.names}).")
        return file.read([name for name in schema.names if name in columns])
    except (pa.ArrowException, OSError) as error:
        raise DataCorrupt(f"{object_key} must be a Parquet manifest (got {type(error).__name__}).") from error


def read(store: ObjectStore, object_key: str) -> pa.Table:
    """Return the manifest that lies in the object store.

    Raises:
        DataCorrupt: it is not there, or no Parquet of this schema.
    """
    return from_parquet(_stored(store, object_key), object_key=object_key)


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
    return places(from_parquet(_stored(store, object_key), object_key=object_key, columns=PLACE_COLUMNS))


def places(table: pa.Table) -> pa.Table:
    """Return the columns PLACE_COLUMNS of a manifest or of decided labels, the objects' names held once each."""
    contents = table["content_id" if "content_id" in table.column_names else "item_id"]
    names = table["object_key"]
    if not pa.types.is_dictionary(names.type):
        names = names.dictionary_encode()
    columns = [table["item_id"], contents, names, table["offset"], table["size_bytes"]]
    return pa.table(columns, names=list(PLACE_COLUMNS))


def locations(table: pa.Table) -> list[Location]:
    """Return where each row's bytes lie, in row order."""
    parts = (table[name].to_pylist() for name in ("object_key", "offset", "size_bytes"))
    return [Location(*part) for part in zip(*parts, strict=True)]
