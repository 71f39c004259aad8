"""The prediction log against the routes: read part by part, since it may hold more than fits into memory."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np

from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.invariants.champions import served_violations
from pipeline_tasks.invariants.violation import Row, Violation, listed

MARK_BYTES = 8  # what is kept of each prediction's id


def prediction_violations(
    project: str, store: ObjectStore, *, imported: frozenset[str], routes: Sequence[Row], slack: dt.timedelta
) -> Iterator[Violation]:
    """I1, I2, I5: each part there and readable, each prediction once, from a model that the route named at the time.

    `imported` are the keys of the parts that the catalog has taken in. Memory: one part and 8 bytes per prediction.
    """
    keys = [info.key for info in store.list(f"predictions/{project}/")]
    yield from listed("I1", project, "imported prediction parts that are gone", imported - set(keys))
    marks, unreadable = bytearray(), []

    def logged() -> Iterator[Row]:
        for key in keys:
            try:
                rows = _rows_of(store.get(key))
            except DataCorrupt as error:
                unreadable.append(Violation("I1", project, f"{key} must be readable (got {type(error).__name__})"))
                continue
            for row in rows:
                if row["prediction_id"] is not None:
                    marks.extend(_mark(row["prediction_id"]))
                yield row

    served = list(served_violations(project, routes, logged(), slack=slack))
    yield from unreadable
    yield from listed("I2", project, "predictions logged more than once", _repeated(marks, keys, store))
    yield from served


def _rows_of(data: bytes) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["kind", "prediction_id", "model_version", "at_ms"]
    try:
        part = pq.read_table(pa.BufferReader(data), columns=columns)
    except pa.ArrowException as error:
        raise DataCorrupt(f"a prediction part must be Parquet (got {error}).") from error
    return [row for row in part.to_pylist() if row["kind"] == "prediction"]


def _mark(prediction_id: str) -> bytes:
    return blake2b(prediction_id.encode(), digest_size=MARK_BYTES).digest()


def _repeated(marks: bytearray, keys: Sequence[str], store: ObjectStore) -> list[str]:
    """Return the ids that stand more than once; the parts are read again only where marks do."""
    values, counts = np.unique(np.frombuffer(marks, dtype=np.uint64), return_counts=True)
    suspects = {value.tobytes() for value in values[counts > 1]}
    if not suspects:
        return []
    seen: Counter[str] = Counter()
    for key in keys:
        try:
            ids = [row["prediction_id"] for row in _rows_of(store.get(key))]
        except DataCorrupt:  # said by the first reading
            continue
        seen.update(id_ for id_ in ids if id_ is not None and _mark(id_) in suspects)
    return [id_ for id_, count in seen.items() if count > 1]
