"""Model versions in the catalog, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest

from pipeline_tasks.catalog.model_versions import ModelRecord, ModelRepository
from pipeline_tasks.contracts import Attempt, ModelRef
from pipeline_tasks.errors import StaleAttempt

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
RECORD = ModelRecord(
    ref=ModelRef("pets", "v1", "models/pets/v1", "d" * 64, "s1"),
    training_key="k1",
    recipe="image_cnn",
    params={"width": 2},
    metrics={"validation": {"accuracy": 0.5}},
    seed=3,
    lock_hash="l",
    code_revision="abc",
    tracker={"mode": "offline"},
    run_id="run-1",
    created_at=NOW,
)


@pytest.fixture
def models(database) -> ModelRepository:
    return ModelRepository(database)


@pytest.fixture
def fence(database):
    return database.acquire("train/pets/v1", Attempt("run-1", "train"), now=NOW)


def test_a_record_comes_back_as_it_was_written(models, fence):
    assert models.record(RECORD, fence=fence) == RECORD
    assert models.get("pets", "v1") == RECORD
    assert models.find("pets", training_key="k1") == RECORD


def test_nothing_is_none(models):
    assert models.get("pets", "v1") is None
    assert models.find("pets", training_key="k1") is None
    assert models.history("pets") == []


def test_the_first_record_of_a_training_stays(models, fence):
    models.record(RECORD, fence=fence)
    later = dataclasses.replace(RECORD, run_id="run-2", created_at=NOW + dt.timedelta(hours=1))
    assert models.record(later, fence=fence) == RECORD
    assert models.history("pets") == [RECORD]


def test_a_stale_attempt_writes_nothing(database, models, fence):
    database.acquire("train/pets/v1", Attempt("run-1", "train", 2), now=NOW)
    with pytest.raises(StaleAttempt, match="run-1/train/2 holds it"):
        models.record(RECORD, fence=fence)
    assert models.history("pets") == []


def test_history_is_oldest_first_and_of_one_project(models, fence):
    newer = dataclasses.replace(
        RECORD,
        ref=dataclasses.replace(RECORD.ref, version="a0"),
        training_key="k2",
        created_at=NOW + dt.timedelta(hours=1),
    )
    other = dataclasses.replace(RECORD, ref=dataclasses.replace(RECORD.ref, project="cars"))
    for record in (newer, RECORD, other):
        models.record(record, fence=fence)
    assert [record.ref.version for record in models.history("pets")] == ["v1", "a0"]
    assert (models.newest("pets"), models.newest("none")) == (models.history("pets")[-1], None)
