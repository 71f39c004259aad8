"""Reads an experiment's exposures and outcomes from the prediction log."""

from __future__ import annotations

import dataclasses
import datetime as dt
import io
import logging
from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline_tasks.contracts import content_id
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.deployment.experiment_analysis import Exposure, Outcome
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.monitoring.log_parts import read_columns, rows_of

DRAWN = ["request_id", "prediction_id", "user_key", "business_key", "assigned", "answer_label", "at_ms"]
TOLD = ["request_id", "prediction_id", "business_key", "outcome_label", "at_ms"]

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class ExperimentLog:
    """The log's counts of one generation; `digest` names the parts that were read."""

    exposures: tuple[Exposure, ...]
    outcomes: tuple[Outcome, ...]
    num_parts: int
    digest: str
    num_damaged: int = 0  # parts that were passed over


def read_log(
    store: ObjectStore, project: str, *, generation: int, deployments: Collection[str], since: dt.date
) -> ExperimentLog:
    """Read the parts from a day on (UTC); a part that is damaged is passed over, which is said, and a record alone."""
    prefix = f"predictions/{project}/"
    keys = sorted(info.key for info in store.list(prefix) if info.key.removeprefix(prefix)[:10] >= since.isoformat())
    exposures: list[Exposure] = []
    outcomes: list[Outcome] = []
    read: list[str] = []
    told = (pc.field("kind") == "feedback") & pc.field("outcome_label").is_valid()
    for key in keys:
        data = store.get(key)
        try:
            drawn = _drawn(data, key, generation)
            outcomes += [_outcome(row) for row in _whole(read_columns(data, TOLD, object_key=key, filters=told))]
        except DataCorrupt as error:
            _log.warning("a part of the log is passed over: %s", error)
            continue
        exposures += [_exposure(row) for row in drawn if row["assigned"] in deployments]
        read.append(key)
    return ExperimentLog(tuple(exposures), tuple(outcomes), len(read), content_id(read), len(keys) - len(read))


def _drawn(data: bytes, key: str, generation: int) -> list[dict[str, Any]]:
    try:
        names = pq.read_schema(io.BytesIO(data)).names
    except (pa.ArrowException, OSError) as error:
        raise DataCorrupt(f"{key} must be a Parquet part (got {type(error).__name__}: {error}).") from error
    if "generation" not in names:
        return []  # of a gateway from before experiments
    mine = (pc.field("kind") == "prediction") & (pc.field("generation") == generation)
    return _whole(read_columns(data, DRAWN, object_key=key, filters=mine))


def _whole(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows that an experiment can count: with a time, an id, and texts that are text."""
    rows = rows_of(table)
    return [
        row
        for row in rows
        if isinstance(row["at_ms"], int)
        and isinstance(row["request_id"], str)
        and not any(isinstance(value, bytes) for value in row.values())
    ]


def _exposure(row: dict[str, Any]) -> Exposure:
    return Exposure(
        request_id=row["request_id"],
        prediction_id=row["prediction_id"],
        user_key=row["user_key"],
        business_key=row["business_key"],
        assigned=row["assigned"],
        label=row["answer_label"],
        at_ms=row["at_ms"],
    )


def _outcome(row: dict[str, Any]) -> Outcome:
    return Outcome(
        request_id=row["request_id"],
        prediction_id=row["prediction_id"],
        business_key=row["business_key"],
        label=row["outcome_label"],
        at_ms=row["at_ms"],
    )
