"""Reads an experiment's exposures and outcomes from the prediction log."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Collection
from functools import partial

import pyarrow.compute as pc

from pipeline_tasks.contracts import content_id
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.deployment.experiment_analysis import Exposure, Outcome
from pipeline_tasks.monitoring.prediction_log import PredictionLog, Row, StoredPart

DRAWN = ["request_id", "prediction_id", "user_key", "business_key", "assigned", "answer_label", "at_ms"]
TOLD = ["request_id", "prediction_id", "business_key", "outcome_label", "at_ms"]


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
    log = PredictionLog(store, project)
    keys = sorted(log.object_keys(since=since))
    exposures: list[Exposure] = []
    outcomes: list[Outcome] = []
    read: list[str] = []
    for key, drawn, told in log.each(keys, partial(_read, generation=generation)):
        exposures += [_exposure(row) for row in drawn if row["assigned"] in deployments]
        outcomes += [_outcome(row) for row in told]
        read.append(key)
    return ExperimentLog(tuple(exposures), tuple(outcomes), len(read), content_id(read), len(keys) - len(read))


def _read(part: StoredPart, *, generation: int) -> tuple[str, list[Row], list[Row]]:
    """Return a part's name, the answers that this generation gave, and what callers told."""
    drawn: list[Row] = []
    if "generation" in part.names():  # else of a gateway from before experiments
        mine = (pc.field("kind") == "prediction") & (pc.field("generation") == generation)
        drawn = part.rows(DRAWN, where=mine)
    told = part.rows(TOLD, where=(pc.field("kind") == "feedback") & pc.field("outcome_label").is_valid())
    return part.object_key, _countable(drawn), _countable(told)


def _countable(rows: list[Row]) -> list[Row]:
    """Return the rows that an experiment can count: with a time, an id, and texts that are text."""
    return [
        row
        for row in rows
        if isinstance(row["at_ms"], int)
        and isinstance(row["request_id"], str)
        and not any(isinstance(value, bytes) for value in row.values())
    ]


def _exposure(row: Row) -> Exposure:
    return Exposure(label=row["answer_label"], **{name: row[name] for name in DRAWN if name != "answer_label"})


def _outcome(row: Row) -> Outcome:
    return Outcome(label=row["outcome_label"], **{name: row[name] for name in TOLD if name != "outcome_label"})
