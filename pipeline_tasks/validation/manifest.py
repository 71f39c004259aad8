"""The one table format of snapshots and exams: rows to Parquet and back, and the id that names the rows."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

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


def build_manifest(columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    """Return decided labels (as the catalog gives them, by column) as a manifest, sorted by item id."""
    renamed = dict(columns)
    renamed["decision_version"] = renamed.pop("version")
    renamed["weight"] = [1.0] * len(renamed["item_id"])
    renamed["annotators"] = [sorted(str(name) for name in names or ()) for names in renamed["annotators"]]
    is_keyed = list(renamed.get("content_id", renamed["item_id"])) != list(renamed["item_id"])
    schema = KEYED_SCHEMA if is_keyed else SCHEMA
    table = pa.table({name: pa.array(renamed[name], schema.field(name).type) for name in schema.names}, schema=schema)
    return table.sort_by("item_id")


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


def from_parquet(data: bytes, *, object_key: str) -> pa.Table:
    """Return the manifest that Parquet bytes hold.

    Raises:
        DataCorrupt: the bytes are no Parquet of this schema.
    """
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise DataCorrupt(f"{object_key} must be a Parquet manifest (got {type(error).__name__}).") from error
    if not (table.schema.equals(SCHEMA) or table.schema.equals(KEYED_SCHEMA)):
        raise DataCorrupt(f"{object_key} must have the columns {SCHEMA.names} (got {table.schema.names}).")
    return table


def read(store: ObjectStore, object_key: str) -> pa.Table:
    """Return the manifest that lies in the object store.

    Raises:
        DataCorrupt: it is not there, or no Parquet of this schema.
    """
    try:
        data = store.get(object_key)
    except KeyError:
        raise DataCorrupt(
            f"{object_key} must exist in the object store (got nothing). Restore it from a backup."
        ) from None
    return from_parquet(data, object_key=object_key)


def locations(table: pa.Table) -> list[Location]:
    """Return where each row's bytes lie, in row order."""
    parts = (table[name].to_pylist() for name in ("object_key", "offset", "size_bytes"))
    return [Location(*part) for part in zip(*parts, strict=True)]
