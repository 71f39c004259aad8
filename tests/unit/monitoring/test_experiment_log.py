"""Rows of the prediction log that an experiment reads, as the gateway writes them."""

import dataclasses
import datetime as dt
import io

import pyarrow.parquet as pq

from bento_services.gateway.prediction_log.records import to_parts
from pipeline_tasks.monitoring.experiment_log import read_log
from tests.unit.monitoring.builders import NOW, feedback, record

DAY = NOW.date()
SHOWN = {"answer_label": "cat", "generation": 4}


def put(store, *records):
    for key, data in to_parts(records).items():
        store.put(key, data)


def read(store, *, since=DAY):
    return read_log(store, "pets", generation=4, deployments=("d1", "d2"), since=since)


def test_what_the_generation_drew_and_what_was_told_is_read(object_store):
    put(
        object_store,
        record(1, **SHOWN, assigned="d2", user_key="ann", business_key="o1"),
        record(2, **SHOWN | {"generation": 3}, assigned="d2"),
        record(3, answer_label="cat"),
        record(4, **SHOWN, assigned="gone"),
        record(5, **SHOWN, assigned="d1", status=503, prediction_id=None),
        record(6, **SHOWN, assigned="d1", kind="shadow"),
        feedback(1, "dog"),
    )
    log = read(object_store)
    first, failed = log.exposures
    assert (first.prediction_id, first.user_key, first.business_key, first.assigned, first.label) == (
        "p00001",
        "ann",
        "o1",
        "d2",
        "cat",
    )
    assert (failed.request_id, failed.prediction_id) == ("r00005", None)
    assert [(outcome.prediction_id, outcome.label) for outcome in log.outcomes] == [("p00001", "dog")]
    assert log.num_parts == 1


def test_the_digest_names_the_parts(object_store):
    put(object_store, record(1, **SHOWN, assigned="d1"))
    digest = read(object_store).digest
    assert read(object_store).digest == digest
    put(object_store, record(2, **SHOWN, assigned="d1"))
    assert read(object_store).digest != digest


def test_days_before_are_not_read(object_store):
    put(object_store, record(1, **SHOWN, assigned="d1"))
    object_store.put("predictions/pets/2026-02-28/x.parquet", b"garbage")
    assert read(object_store).num_parts == 1
    assert read(object_store, since=DAY + dt.timedelta(days=1)).num_parts == 0


def test_parts_of_an_older_gateway_expose_nobody_but_may_tell_outcomes(object_store):
    (data,) = to_parts([record(1, **SHOWN, assigned="d1"), feedback(1, "dog")]).values()
    buffer = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(data)).drop_columns(["generation", "assigned"]), buffer)
    object_store.put(f"predictions/pets/{DAY}/old.parquet", buffer.getvalue())
    log = read(object_store)
    assert (log.exposures, len(log.outcomes)) == ((), 1)


def test_a_damaged_part_or_record_is_passed_over_and_the_others_count(object_store, caplog):
    put(
        object_store,
        record(1, **SHOWN, assigned="d1"),
        record(2, **SHOWN, assigned="d1", request_id=None),
        feedback(1, "dog"),
    )
    whole = read(object_store)
    assert ([exposure.prediction_id for exposure in whole.exposures], len(whole.outcomes)) == (["p00001"], 1)
    object_store.put(f"predictions/pets/{DAY}/x.parquet", b"garbage")
    assert read(object_store) == dataclasses.replace(whole, num_damaged=1)
    assert "x.parquet must be a Parquet part" in caplog.text
