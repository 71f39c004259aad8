"""The prediction log against the routes: read part by part, since it may hold more than fits into memory."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
import pyarrow.compute as pc

from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.invariants.champions import served_violations
from pipeline_tasks.invariants.violation import Row, Violation, listed
from pipeline_tasks.monitoring.prediction_log import PredictionLog, StoredPart

MARK_BYTES = 8  # what is kept of each prediction's id


def prediction_violations(
    project: str, store: ObjectStore, *, imported: frozenset[str], routes: Sequence[Row], slack: dt.timedelta
) -> Iterator[Violation]:
    """I1, I2, I5: each part there and readable, each prediction once, from a model that the route named at the time.

    `imported` are the keys of the parts that the catalog has taken in. Memory: three parts and 8 bytes per prediction.
    """
    log = PredictionLog(store, project)
    keys = log.object_keys()
    yield from listed("I1", project, "imported prediction parts that are gone", imported - set(keys))
    marks, unreadable = bytearray(), list[str]()

    def logged() -> Iterator[Row]:
        for rows in log.each(keys, _predictions, reads=1, damaged=unreadable.append):
            for row in rows:
                if row["prediction_id"] is not None:
                    marks.extend(_mark(row["prediction_id"]))
                yield row

    served = list(served_violations(project, routes, logged(), slack=slack))
    for key in unreadable:
        yield Violation("I1", project, f"{key} must be readable (got DataCorrupt)")
    yield from listed("I2", project, "predictions logged more than once", _repeated(marks, keys, log))
    yield from served


def _predictions(part: StoredPart) -> list[Row]:
    """Return what a part says of the models; raises DataCorrupt when it has not the log's columns or no texts."""
    is_prediction = pc.field("kind") == "prediction"
    return list(part.texts(["prediction_id", "model_version", "at_ms"], where=is_prediction).to_pylist())


def _mark(prediction_id: str) -> bytes:
    return blake2b(prediction_id.encode(), digest_size=MARK_BYTES).digest()


def _repeated(marks: bytearray, keys: Sequence[str], log: PredictionLog) -> list[str]:
    """Return the ids that stand more than once; the parts are read again only where marks do."""
    values, counts = np.unique(np.frombuffer(marks, dtype=np.uint64), return_counts=True)
    suspects = {value.tobytes() for value in values[counts > 1]}
    if not suspects:
        return []
    seen: Counter[str] = Counter()
    for rows in log.each(keys, _predictions, reads=1, damaged=lambda _: None):  # told by the first reading
        ids = [row["prediction_id"] for row in rows]
        seen.update(id_ for id_ in ids if id_ is not None and _mark(id_) in suspects)
    return [id_ for id_, count in seen.items() if count > 1]
