"""Records of predictions and feedback: one record each, its bytes in the spool, its row in Parquet."""

from __future__ import annotations

import dataclasses
import datetime as dt
import io
import json
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_tasks.contracts import sha256_hex

# Length of the JSON head, length of the payload, CRC-32 of both.
_PREFIX = struct.Struct(">III")
MAX_HEAD_BYTES = 1_000_000

SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("prediction_id", pa.string()),
        ("request_id", pa.string()),
        ("project", pa.string()),
        ("model_version", pa.string()),
        ("deployment_id", pa.string()),
        ("at_ms", pa.int64()),
        ("status", pa.int32()),
        ("label", pa.string()),
        ("confidence", pa.float64()),
        ("scores", pa.string()),
        ("needs_review", pa.bool_()),
        ("client", pa.string()),
        ("user_key", pa.string()),
        ("media_type", pa.string()),
        ("payload", pa.binary()),
        ("payload_sha256", pa.string()),
        ("latency_ms", pa.float64()),
        ("error_code", pa.string()),
        ("business_key", pa.string()),
        ("outcome_label", pa.string()),
        ("answer_label", pa.string()),
        ("generation", pa.int64()),
        ("assigned", pa.string()),
    ]
)


@dataclasses.dataclass(frozen=True, slots=True)
class LogRecord:
    """One line of the prediction log; fields that do not apply are None. Times are UTC milliseconds since 1970."""

    kind: Literal["prediction", "feedback", "shadow"]
    prediction_id: str | None
    request_id: str
    project: str
    at_ms: int
    status: int
    client: str
    latency_ms: float
    model_version: str | None = None
    deployment_id: str | None = None
    label: str | None = None
    confidence: float | None = None
    scores: str | None = None
    needs_review: bool | None = None
    user_key: str | None = None
    media_type: str | None = None
    payload: bytes | None = dataclasses.field(default=None, repr=False)
    payload_sha256: str | None = None
    error_code: str | None = None
    business_key: str | None = None
    outcome_label: str | None = None
    answer_label: str | None = None  # what the caller was told after thresholds; `label` is the model's own best class
    generation: int | None = (
        None  # of the route whose share drew `assigned`; both None where the caller named a version
    )
    assigned: str | None = None


def to_bytes(record: LogRecord) -> bytes:
    """Return the record as it lies in the spool."""
    payload = record.payload if record.payload is not None else b""
    fields = {name: getattr(record, name) for name in _HEAD_FIELDS}
    fields["has_payload"] = record.payload is not None
    head = json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()
    return _PREFIX.pack(len(head), len(payload), zlib.crc32(payload, zlib.crc32(head))) + head + payload


_HEAD_FIELDS = tuple(field.name for field in dataclasses.fields(LogRecord) if field.name != "payload")


def read_records(data: bytes) -> Iterator[tuple[LogRecord, int]]:
    """Yield each whole record with the offset behind it; stop at the first that is torn or damaged."""
    offset = 0
    while offset + _PREFIX.size <= len(data):
        head_size, payload_size, checksum = _PREFIX.unpack_from(data, offset)
        start, end = offset + _PREFIX.size, offset + _PREFIX.size + head_size + payload_size
        if head_size > MAX_HEAD_BYTES or end > len(data):
            return
        head, payload = data[start : start + head_size], data[start + head_size : end]
        if zlib.crc32(payload, zlib.crc32(head)) != checksum:
            return
        fields: dict[str, Any] = json.loads(head)
        known = {name: value for name, value in fields.items() if name in _HEAD_FIELDS}
        yield LogRecord(**known, payload=payload if fields["has_payload"] else None), end
        offset = end


def to_parts(records: Sequence[LogRecord]) -> dict[str, bytes]:
    """Return object key -> Parquet bytes, one part per project and UTC day; the same records give the same parts."""
    groups: dict[tuple[str, str], list[LogRecord]] = defaultdict(list)
    for record in records:
        day = dt.datetime.fromtimestamp(record.at_ms / 1000, dt.UTC).strftime("%Y-%m-%d")
        groups[record.project, day].append(record)
    parts = {}
    for (project, day), rows in sorted(groups.items()):
        data = _parquet(rows)
        parts[f"predictions/{project}/{day}/{sha256_hex(data)}.parquet"] = data
    return parts


def _parquet(records: Sequence[LogRecord]) -> bytes:
    columns = {name: [getattr(record, name) for record in records] for name in SCHEMA.names}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()
