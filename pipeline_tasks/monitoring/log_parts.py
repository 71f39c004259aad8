"""Records of a part of the prediction log: what was answered, what callers told, and what is no record."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Any

from pipeline_tasks.catalog.monitoring import OutcomeRow
from pipeline_tasks.contracts import content_id, sha256_hex
from pipeline_tasks.errors import InputError
from pipeline_tasks.ingest.item_checks import RejectedRow, printable_key
from pipeline_tasks.monitoring.log_records import (
    RECORD_AHEAD,
    digest_of,
    flag_of,
    invalid,
    optional_text_of,
    share_of,
    text_of,
    time_of,
)
from pipeline_tasks.monitoring.prediction_log import StoredPart

LIGHT_COLUMNS = [
    "kind",
    "project",
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
    """Content of one part: answered predictions, what callers told, failed requests, and what is no record."""

    object_key: str
    predictions: tuple[Prediction, ...]
    outcomes: tuple[OutcomeRow, ...]
    num_errors: int
    business_keys: frozenset[str]  # of the answered predictions
    refused: tuple[RejectedRow, ...]

    @property
    def is_ahead(self) -> bool:
        """True where all that it holds is ahead of the clock of who reads: one of the two clocks is wrong."""
        is_empty = not (self.predictions or self.outcomes or self.num_errors)
        return is_empty and {refusal.code for refusal in self.refused} == {RECORD_AHEAD}


def read_part(stored: StoredPart, *, project: str, now: dt.datetime) -> Part:
    """Return the rows of a part; one that is no record of the project's is refused alone.

    Raises:
        DataCorrupt: the bytes are no Parquet with the log's columns.
    """
    predictions: list[Prediction] = []
    outcomes: list[OutcomeRow] = []
    business_keys: set[str] = set()
    refused: list[RejectedRow] = []
    num_errors = 0
    object_key = stored.object_key
    for number, row in enumerate(stored.rows(LIGHT_COLUMNS)):
        try:
            if row["project"] != project:
                raise invalid("project", f"{project} in this part", row["project"])
            kind = text_of(row, "kind")
            if kind == "feedback":
                outcomes.append(_outcome(row, now=now))
            elif kind == "prediction" and _status(row) == 200:
                predictions.append(_prediction(row, object_key, now=now))
                business_keys |= {row["business_key"]} - {None}
            elif kind == "prediction":
                num_errors += 1
        except InputError as error:
            refused.append(_refusal(row, error, place=f"{object_key}, row {number}"))
    return Part(object_key, tuple(predictions), tuple(outcomes), num_errors, frozenset(business_keys), tuple(refused))


def _refusal(row: dict[str, Any], error: InputError, *, place: str) -> RejectedRow:
    name = next((text for text in (row["prediction_id"], row["request_id"]) if isinstance(text, str) and text), place)
    return RejectedRow(printable_key(name), sha256_hex(place.encode()), error.code, f"{error} [{place}]")


def read_payloads(stored: StoredPart) -> dict[str, bytes]:
    """Return the payload of each prediction that has one."""
    pairs = [(row["prediction_id"], row["payload"]) for row in stored.rows(["prediction_id", "payload"])]
    return {name: data for name, data in pairs if isinstance(name, str) and isinstance(data, bytes)}


def merge_predictions(parts: Sequence[Part]) -> list[Prediction]:
    """Return the predictions of all parts, each id once (a part can be shipped twice), in the order of their ids."""
    by_id = {prediction.prediction_id: prediction for part in reversed(parts) for prediction in part.predictions}
    return [by_id[prediction_id] for prediction_id in sorted(by_id)]


def _status(row: dict[str, Any]) -> int:
    value = row["status"]
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid("status", "an HTTP status", value)
    return value


def _prediction(row: dict[str, Any], object_key: str, *, now: dt.datetime) -> Prediction:
    optional_text_of(row, "business_key")
    return Prediction(
        prediction_id=text_of(row, "prediction_id"),
        at=time_of(row, "at_ms", now=now),
        model_version=text_of(row, "model_version"),
        label=text_of(row, "label"),
        confidence=share_of(row, "confidence"),
        needs_review=flag_of(row, "needs_review"),
        client=text_of(row, "client"),
        user_key=optional_text_of(row, "user_key"),
        payload_sha256=digest_of(row, "payload_sha256"),
        object_key=object_key,
    )


def _outcome(row: dict[str, Any], *, now: dt.datetime) -> OutcomeRow:
    told = {name: optional_text_of(row, name) for name in ("prediction_id", "business_key")}
    told |= {name: text_of(row, name) for name in ("outcome_label", "client")}
    if told["prediction_id"] is None and told["business_key"] is None:
        raise invalid("prediction_id", "given where there is no business_key", None)
    return OutcomeRow(
        # The same caller saying the same thing twice is one outcome.
        outcome_id=content_id(told),
        prediction_id=told["prediction_id"],
        business_key=told["business_key"],
        label=text_of(row, "outcome_label"),
        source=text_of(row, "client"),
        at=time_of(row, "at_ms", now=now),
    )
