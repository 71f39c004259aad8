"""Reads parts of the prediction log: Parquet rows of predictions and feedback, as the gateway writes them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_tasks.catalog.monitoring import OutcomeRow
from pipeline_tasks.contracts import content_id
from pipeline_tasks.errors import DataCorrupt

LIGHT_COLUMNS = [
    "kind",
    "prediction_id",
    "request_id",
    "model_version",
    "at_ms",
    "status",
    "label",
    "confidence",
    "needs_review",
    "client",
    "user_key",
    "payload_sha256",
    "business_key",
    "outcome_label",
]


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """One answered request of the log, without its payload."""

    prediction_id: str
    at: dt.datetime
    model_version: str
    label: str
    confidence: float
    needs_review: bool
    client: str
    user_key: str | None
    payload_sha256: str
    object_key: str


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """What one part holds: answered predictions, what callers told, and how many requests failed."""

    object_key: str
    predictions: tuple[Prediction, ...]
    outcomes: tuple[OutcomeRow, ...]
    num_errors: int


def read_part(data: bytes, *, object_key: str) -> Part:
    """Return the rows of a part.

    Raises:
        DataCorrupt: the bytes are no Parquet with the log's columns.
    """
    rows = read_columns(data, LIGHT_COLUMNS, object_key=object_key).to_pylist()
    predictions = [row for row in rows if row["kind"] == "prediction"]
    answered = [row for row in predictions if row["status"] == 200 and row["prediction_id"] and row["payload_sha256"]]
    told = [row for row in rows if row["kind"] == "feedback" and row["outcome_label"] is not None]
    return Part(
        object_key=object_key,
        predictions=tuple(_prediction(row, object_key) for row in answered),
        outcomes=tuple(_outcome(row) for row in told),
        num_errors=len(predictions) - len(answered),
    )


def read_payloads(data: bytes, *, object_key: str) -> dict[str, bytes]:
    """Return the payload of each prediction that has one."""
    table = read_columns(data, ["prediction_id", "payload"], object_key=object_key)
    pairs = zip(table["prediction_id"].to_pylist(), table["payload"].to_pylist(), strict=True)
    return {prediction_id: payload for prediction_id, payload in pairs if prediction_id and payload is not None}


def merge_predictions(parts: Sequence[Part]) -> list[Prediction]:
    """Return the predictions of all parts, each id once (a part can be shipped twice), in the order of their ids."""
    by_id = {one.prediction_id: one for part in reversed(parts) for one in part.predictions}
    return [by_id[prediction_id] for prediction_id in sorted(by_id)]


def read_columns(data: bytes, columns: list[str], *, object_key: str, filters: Any = None) -> pa.Table:
    """Return these columns of a part, of the rows that the pyarrow expression `filters` lets through.

    Raises:
        DataCorrupt: the bytes are no Parquet with these columns.
    """
    try:
        table = pq.read_table(io.BytesIO(data), columns=columns, filters=filters)
    except (pa.ArrowException, OSError) as error:
        raise DataCorrupt(f"{object_key} must be a Parquet part (got {type(error).__name__}: {error}).") from error
    missing = sorted(set(columns) - set(table.column_names))
    if missing:
        raise DataCorrupt(f"{object_key} must have the columns of the prediction log (got no {', '.join(missing)}).")
    return table


def _prediction(row: dict[str, Any], object_key: str) -> Prediction:
    return Prediction(
        prediction_id=row["prediction_id"],
        at=_time(row["at_ms"]),
        model_version=row["model_version"],
        label=row["label"],
        confidence=float(row["confidence"]),
        needs_review=bool(row["needs_review"]),
        client=row["client"],
        user_key=row["user_key"],
        payload_sha256=row["payload_sha256"],
        object_key=object_key,
    )


def _outcome(row: dict[str, Any]) -> OutcomeRow:
    told = {name: row[name] for name in ("prediction_id", "business_key", "outcome_label", "client")}
    return OutcomeRow(
        # The same caller saying the same thing twice is one outcome.
        outcome_id=content_id(told),
        prediction_id=row["prediction_id"],
        business_key=row["business_key"],
        label=row["outcome_label"],
        source=row["client"],
        at=_time(row["at_ms"]),
    )


def _time(at_ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC)
