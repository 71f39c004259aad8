"""The one reader of the prediction log: parts by day, in order, and damaged ones passed over."""

import datetime as dt
import io
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.monitoring.prediction_log import PredictionLog, moment_of
from tests.fakes import FakeObjectStore


def part(**columns) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


@pytest.fixture
def store():
    return FakeObjectStore()


def put(store, day, data, *, project="pets"):
    key = f"predictions/{project}/{day}/{sha256_hex(data)}.parquet"
    store.put(key, data)
    return key


def test_parts_are_those_of_the_project_from_a_day_on(store):
    keys = [put(store, day, part(a=[day])) for day in ("2026-01-01", "2026-01-02", "2026-01-03")]
    put(store, "2026-01-03", part(a=["other"]), project="pets2")
    log = PredictionLog(store, "pets")
    assert log.object_keys() == keys
    assert log.object_keys(since=dt.date(2026, 1, 2)) == keys[1:]


def test_answers_come_in_the_order_of_the_keys_though_parts_are_read_side_by_side(store):
    keys = [put(store, f"2026-01-{day:02}", part(a=[day])) for day in range(1, 21)]
    second = threading.Event()

    def read(stored):
        if stored.object_key == keys[0]:
            assert second.wait(10)
        second.set()
        return stored.table(["a"])["a"].to_pylist()

    assert list(PredictionLog(store, "pets").each(keys, read)) == [[day] for day in range(1, 21)]


def test_a_damaged_part_is_passed_over_and_told(store, caplog):
    keys = [put(store, "2026-01-01", b"no Parquet"), put(store, "2026-01-02", part(b=[1]))]
    keys += [put(store, "2026-01-03", part(a=[3]))]
    log, told = PredictionLog(store, "pets"), []
    assert list(log.each(keys, lambda stored: stored.rows(["a"]), damaged=told.append)) == [[{"a": 3}]]
    assert told == keys[:2]
    assert list(log.each(keys, lambda stored: stored.rows(["a"]))) == [[{"a": 3}]]
    assert f"{keys[0]} must be a Parquet part" in caplog.text
    assert f"{keys[1]} must have the columns of the prediction log (got no a)" in caplog.text


def test_a_text_that_is_not_utf8_is_its_bytes_or_refused(store):
    texts = pa.array([b"\xff", b"b"]).view(pa.string())
    stored = PredictionLog(store, "pets").get(put(store, "2026-01-01", part(a=texts, n=[1, 2])))
    assert stored.rows(["a", "n"]) == [{"a": b"\xff", "n": 1}, {"a": "b", "n": 2}]
    with pytest.raises(DataCorrupt, match="must hold texts in UTF-8"):
        stored.texts(["a"])


@pytest.mark.parametrize("value", [None, "soon", float("nan"), 10**18])
def test_a_time_that_is_none_is_none(value):
    assert moment_of({"at_ms": value}) is None
