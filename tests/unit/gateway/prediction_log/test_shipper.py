"""Records, the parts that they make, and the shipping of segments."""

import dataclasses
import errno
import hashlib
import io
import json
import re
import struct
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bento_services.gateway.metrics import GatewayMetrics
from bento_services.gateway.prediction_log.records import SCHEMA, read_records, to_bytes, to_parts
from bento_services.gateway.prediction_log.shipper import Shipper
from bento_services.gateway.prediction_log.spool import Spool
from bento_services.gateway.prediction_log.uploader import Uploaded, upload
from tests.services import wait_until
from tests.unit.gateway.prediction_log.log_case import AT_MS, DAY_MS, MIB, Store, record, shipper


def test_a_record_reads_back_as_it_was_payload_or_not():
    records = [record(1), record(2, payload=b""), record(3, payload=None, label="Schuh ✓\n")]
    data = b"".join(map(to_bytes, records))
    assert [entry for entry, _ in read_records(data)] == records
    assert [end for _, end in read_records(data)][-1] == len(data)


def test_a_torn_or_changed_record_ends_the_reading():
    data = to_bytes(record(1)) + to_bytes(record(2))
    first = len(to_bytes(record(1)))
    for cut in range(first, len(data)):
        assert [entry for entry, _ in read_records(data[:cut])] == [record(1)]
    changed = bytearray(data)
    changed[first + 20] ^= 1
    assert [entry for entry, _ in read_records(bytes(changed))] == [record(1)]
    assert list(read_records(b"\xff" * 100)) == []


def test_unknown_fields_of_a_newer_gateway_are_passed_over():
    fields = {"kind": "feedback", "request_id": "r", "project": "fashion", "at_ms": 1, "status": 202, "client": "k"}
    fields |= {"prediction_id": None, "latency_ms": 1.0, "has_payload": False, "later_addition": 1}
    head = json.dumps(fields).encode()
    data = struct.pack(">III", len(head), 0, zlib.crc32(head)) + head
    assert [entry.request_id for entry, _ in read_records(data)] == ["r"]


def test_parts_are_by_project_and_day_named_by_content_and_repeatable():
    records = [record(1), record(2, at_ms=AT_MS + DAY_MS), record(3, project="texts")]
    parts = to_parts(records)
    assert parts == to_parts(records)
    assert sorted(key.rpartition("/")[0] for key in parts) == [
        "predictions/fashion/2026-01-01",
        "predictions/fashion/2026-01-02",
        "predictions/texts/2026-01-01",
    ]
    for key, data in parts.items():
        assert key.endswith(f"/{hashlib.sha256(data).hexdigest()}.parquet")
        assert pq.read_schema(io.BytesIO(data)).equals(SCHEMA)


def test_a_part_has_every_field_of_its_records():
    (data,) = to_parts([record(1)]).values()
    (row,) = pq.read_table(io.BytesIO(data)).to_pylist()
    assert row == dataclasses.asdict(record(1))


def test_segments_are_shipped_once_and_deleted(spool):
    store, metrics = Store(), GatewayMetrics()
    for number in range(3):
        spool.append(record(number))
    assert shipper(spool, store, metrics).ship()
    assert shipper(spool, store, metrics).ship()
    assert [row["prediction_id"] for row in store.rows()] == ["p0", "p1", "p2"]
    assert (store.num_puts, spool.sealed(), spool.size_bytes) == (1, [], 0)
    assert metrics.get("dethrone_log_shipped_records_total") == 3


@pytest.mark.parametrize("failure", ["before", "after"])
def test_an_outage_or_a_lost_answer_loses_and_doubles_nothing(spool, failure):
    store, metrics = Store(), GatewayMetrics()
    store.failures = [failure] * 3
    ship = shipper(spool, store, metrics)
    for number in range(4):
        spool.append(record(number))
        ship.ship()
    assert ship.ship()
    assert sorted(row["prediction_id"] for row in store.rows()) == ["p0", "p1", "p2", "p3"]
    assert metrics.get("dethrone_log_ship_failures_total") == 3
    assert spool.size_bytes == 0


def test_a_kill_between_put_and_delete_ships_the_same_part_again(tmp_path):
    spool = Spool(tmp_path, limit_bytes=MIB, segment_bytes=MIB)
    spool.append(record(1))
    spool.seal()
    (segment,) = spool.sealed()
    kept = segment.read_bytes()
    store = Store()
    shipper(spool, store).ship()
    segment.write_bytes(kept)
    restarted = Spool(tmp_path, limit_bytes=MIB, segment_bytes=MIB)
    shipper(restarted, store).ship()
    assert (store.num_puts, len(store.objects), restarted.size_bytes) == (2, 1, 0)


def test_a_damaged_segment_gives_its_whole_records_and_does_not_block_the_next(spool, caplog):
    spool.append(record(1))
    spool.append(record(2))
    spool.seal()
    (segment,) = spool.sealed()
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(bytes(data))
    spool.append(record(3))
    store, metrics = Store(), GatewayMetrics()
    assert shipper(spool, store, metrics).ship()
    assert sorted(row["prediction_id"] for row in store.rows()) == ["p1", "p3"]
    assert metrics.get("dethrone_log_damaged_segments_total") == 1
    assert re.search("cannot be read behind byte", caplog.text)


def test_a_record_of_another_format_does_not_block_the_next_segment(spool, caplog):
    spool.append(record(1))
    spool.seal()
    (segment,) = spool.sealed()
    head = b'{"kind":"prediction"}'
    segment.write_bytes(segment.read_bytes() + struct.pack(">III", len(head), 0, zlib.crc32(head)) + head)
    spool.append(record(2))
    store, metrics = Store(), GatewayMetrics()
    assert shipper(spool, store, metrics).ship()
    assert sorted(row["prediction_id"] for row in store.rows()) == ["p1", "p2"]
    assert metrics.get("dethrone_log_damaged_segments_total") == 1
    assert "a record of another format behind byte" in caplog.text


def test_one_bad_segment_holds_up_no_other_and_a_store_that_is_away_is_asked_once(tmp_path, caplog):
    spool = Spool(tmp_path, limit_bytes=MIB, segment_bytes=1)
    for number in range(3):
        spool.append(record(number))
    answers = [Uploaded(failure="bad segment"), Uploaded(1, 1), Uploaded(failure="away", is_store_away=True)]
    asked = []

    def answer(segment):
        asked.append(segment.name[:12])
        return answers.pop(0) if answers else Uploaded(failure="away", is_store_away=True)

    ship = Shipper(spool, answer, metrics=GatewayMetrics(), interval_seconds=1)
    assert [ship.ship() for _ in range(3)] == [False] * 3
    assert asked == [f"{number:012d}" for number in (1, 2, 3, 1, 1)]
    assert caplog.messages == ["the prediction log waits here: bad segment", "the prediction log waits here: away"]
    assert len(spool.sealed()) == 2


def test_a_segment_that_cannot_be_read_now_waits(spool, monkeypatch, caplog):
    spool.append(record(1))
    store, metrics = Store(), GatewayMetrics()

    def broken(_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", broken)
        assert not shipper(spool, store, metrics).ship()
    assert re.search(r"waits here: segment \S+ cannot be read \(Input/output error\)", caplog.text)
    assert metrics.get("dethrone_log_ship_failures_total") == 1
    assert shipper(spool, store).ship()
    assert [row["prediction_id"] for row in store.rows()] == ["p1"]


def test_what_comes_while_a_queue_of_segments_is_shipped_is_sealed_meanwhile(tmp_path):
    spool = Spool(tmp_path, limit_bytes=MIB, segment_bytes=1)
    for number in range(2):
        spool.append(record(number))
    seen = []

    def look(segment):
        seen.append([path.suffix for path in sorted(tmp_path.iterdir())])
        if len(seen) == 1:
            spool.append(record(2))
        return Uploaded(1, 1)

    assert Shipper(spool, look, metrics=GatewayMetrics(), interval_seconds=1).ship()
    assert seen == [[".sealed"] * 2] * 2


def test_a_defect_does_not_end_the_thread(spool, caplog):
    store, failures = Store(), [RuntimeError("a defect")]

    def broken_once(segment):
        if failures:
            raise failures.pop()
        return upload(segment, put=store.put)

    running = Shipper(spool, broken_once, metrics=GatewayMetrics(), interval_seconds=0.01)
    spool.append(record(1))
    running.start()
    wait_until(lambda: not failures, timeout_seconds=10, what="the defect")
    running.stop()
    assert [row["prediction_id"] for row in store.rows()] == ["p1"]
    assert "it is tried again" in caplog.text


def test_the_thread_ships_while_running_and_once_more_when_it_stops(spool):
    store = Store()
    running = shipper(spool, store)
    running.start()
    spool.append(record(1))
    running.stop()
    assert [row["prediction_id"] for row in store.rows()] == ["p1"]


def test_every_scrape_shows_served_as_logged_plus_dropped_plus_failed():
    metrics = GatewayMetrics()
    assert "dethrone_predictions_served_total 0.0\n" in metrics.render([])
    for outcome in ("logged", "dropped", "logged", "failed", "logged", "dropped", "logged"):
        metrics.record_outcome(outcome)
    metrics.observe(0.003)
    metrics.observe(99.0)
    metrics.add("dethrone_refused_total", code="X")
    lines = metrics.render(
        [("dethrone_spool_bytes", 5.0, {}), ("dethrone_breaker_open", 0.5, {"deployment": 'd"\n'})]
    ).splitlines()
    for line in (
        "dethrone_predictions_served_total 7.0",
        "dethrone_predictions_logged_total 4.0",
        "dethrone_predictions_dropped_total 2.0",
        "dethrone_predictions_failed_total 1.0",
        'dethrone_refused_total{code="X"} 1.0',
        'dethrone_request_seconds_bucket{le="0.005"} 1.0',
        'dethrone_request_seconds_bucket{le="+Inf"} 2.0',
        "dethrone_request_seconds_count 2.0",
        "dethrone_spool_bytes 5.0",
        'dethrone_breaker_open{deployment="d\\"\\n"} 0.5',
    ):
        assert line in lines
