"""Records, the spool and the shipping of its segments."""

import dataclasses
import errno
import fcntl
import functools
import hashlib
import io
import json
import os
import re
import struct
import time
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bento_services.gateway import spool as spool_module
from bento_services.gateway.metrics import Metrics
from bento_services.gateway.records import SCHEMA, LogRecord, read_records, to_bytes, to_parts
from bento_services.gateway.shipper import Shipper
from bento_services.gateway.spool import Spool
from bento_services.gateway.uploader import Uploaded, upload

DAY_MS = 86_400_000
AT_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
MIB = 1024 * 1024


def record(number: int = 0, **changes) -> LogRecord:
    fields = {
        "kind": "prediction",
        "prediction_id": f"p{number}",
        "request_id": f"r{number}",
        "project": "fashion",
        "at_ms": AT_MS + number,
        "status": 200,
        "client": "k1",
        "latency_ms": 1.5,
        "model_version": "A",
        "label": "bag",
        "confidence": 0.7,
        "scores": '{"bag":0.7}',
        "needs_review": False,
        "payload": b"\x89PNG\x00\xff",
        "payload_sha256": "d",
    }
    return LogRecord(**(fields | changes))


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool", limit_bytes=MIB, segment_bytes=MIB)


def spooled(spool: Spool) -> list[LogRecord]:
    spool.seal()
    return [found for path in spool.sealed() for found, _ in read_records(path.read_bytes())]


class Store:
    """A store whose next puts can fail, before or after they took effect."""

    def __init__(self):
        self.objects = {}
        self.num_puts = 0
        self.failures = []

    def put(self, key, data):
        self.num_puts += 1
        failure = self.failures.pop(0) if self.failures else None
        if failure != "before":
            self.objects.setdefault(key, data)
        if failure is not None:
            raise OSError("away")

    def rows(self):
        tables = [pq.read_table(io.BytesIO(data)).to_pylist() for data in self.objects.values()]
        return [row for table in tables for row in table]


def shipper(spool, store, metrics=None):
    return Shipper(spool, functools.partial(upload, put=store.put), metrics=metrics or Metrics(), interval_seconds=0.01)


def test_a_record_reads_back_as_it_was_payload_or_not():
    records = [record(1), record(2, payload=b""), record(3, payload=None, label="Schuh ✓\n")]
    data = b"".join(map(to_bytes, records))
    assert [found for found, _ in read_records(data)] == records
    assert [end for _, end in read_records(data)][-1] == len(data)


def test_a_torn_or_changed_record_ends_the_reading():
    data = to_bytes(record(1)) + to_bytes(record(2))
    first = len(to_bytes(record(1)))
    for cut in range(first, len(data)):
        assert [found for found, _ in read_records(data[:cut])] == [record(1)]
    changed = bytearray(data)
    changed[first + 20] ^= 1
    assert [found for found, _ in read_records(bytes(changed))] == [record(1)]
    assert list(read_records(b"\xff" * 100)) == []


def test_unknown_fields_of_a_newer_gateway_are_passed_over():
    fields = {"kind": "feedback", "request_id": "r", "project": "fashion", "at_ms": 1, "status": 202, "client": "k"}
    fields |= {"prediction_id": None, "latency_ms": 1.0, "has_payload": False, "later_addition": 1}
    head = json.dumps(fields).encode()
    data = struct.pack(">III", len(head), 0, zlib.crc32(head)) + head
    assert [found.request_id for found, _ in read_records(data)] == ["r"]


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


def test_the_spool_keeps_order_over_segments_and_restarts(tmp_path):
    folder = tmp_path / "spool"
    first = Spool(folder, limit_bytes=MIB, segment_bytes=600)
    for number in range(5):
        assert first.append(record(number)) == "logged"
    first.seal()
    second = Spool(folder, limit_bytes=MIB, segment_bytes=600)
    for number in range(5, 8):
        assert second.append(record(number)) == "logged"
    assert [found.prediction_id for found in spooled(second)] == [f"p{n}" for n in range(8)]
    assert second.size_bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o600"}


def test_no_answer_waits_for_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(spool_module.os, "fsync", synced.append)
    spool = Spool(tmp_path, limit_bytes=MIB, segment_bytes=1)
    assert [spool.append(record(number)) for number in range(3)] == ["logged"] * 3
    assert synced == []
    spool.seal()
    assert len(synced) == len(spool.sealed()) == 3


def test_what_the_disk_does_not_take_is_sealed_later(tmp_path, monkeypatch):
    spool = Spool(tmp_path, limit_bytes=MIB, segment_bytes=1)

    def broken(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(spool_module.os, "fsync", broken)
    for number in range(2):
        spool.append(record(number))
        spool.seal()
    assert spool.sealed() == []
    assert spool.size_bytes == sum(path.stat().st_size for path in tmp_path.iterdir()) > 0
    monkeypatch.undo()
    assert [found.prediction_id for found in spooled(spool)] == ["p0", "p1"]
    assert {path.suffix for path in tmp_path.iterdir()} == {".sealed"}


def test_one_segment_that_cannot_be_sealed_does_not_hold_up_the_others(tmp_path, monkeypatch):
    spool = Spool(tmp_path, limit_bytes=MIB, segment_bytes=1)
    calls = []

    def broken_once(_):
        calls.append(1)
        if len(calls) == 1:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(spool_module.os, "fsync", broken_once)
    for number in range(2):
        spool.append(record(number))
    assert [found.prediction_id for found in spooled(spool)] == ["p1"]
    assert [found.prediction_id for found in spooled(spool)] == ["p0", "p1"]


def test_what_another_gateway_shipped_is_not_counted_any_more(tmp_path):
    first, second = (Spool(tmp_path, limit_bytes=MIB, segment_bytes=1) for _ in range(2))
    first.append(record(1))
    first.seal()
    assert shipper(second, Store()).ship()
    assert first.size_bytes > 0
    first.seal()
    assert first.size_bytes == 0


def test_a_segment_that_somebody_removed_is_forgotten(tmp_path, caplog):
    spool = Spool(tmp_path, limit_bytes=MIB, segment_bytes=MIB)
    spool.append(record(1))
    for path in tmp_path.iterdir():
        path.unlink()
    spool.seal()
    assert (spool.sealed(), spool.size_bytes) == ([], 0)
    assert "somebody has removed it" in caplog.text
    spool.append(record(2))
    assert [found.prediction_id for found in spooled(spool)] == ["p2"]


def test_a_file_system_without_locks_fails_each_record_and_leaves_nothing(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(spool_module.fcntl, "flock", unknown)
    spool = Spool(tmp_path, limit_bytes=MIB, segment_bytes=MIB)
    assert [spool.append(record(number)) for number in range(3)] == ["failed"] * 3
    assert list(tmp_path.iterdir()) == []


def test_a_restart_keeps_what_it_cannot_read(tmp_path, caplog):
    head = b'{"kind":"prediction"}'
    strange = to_bytes(record(1)) + struct.pack(">III", len(head), 0, zlib.crc32(head)) + head
    (tmp_path / "000000000007-4242.open").write_bytes(strange)
    (segment,) = Spool(tmp_path, limit_bytes=MIB, segment_bytes=MIB).sealed()
    assert segment.read_bytes() == strange
    assert "a record of another format" in caplog.text


def test_a_full_spool_says_no_and_takes_again_after_shipping(tmp_path):
    one = len(to_bytes(record(0)))
    spool = Spool(tmp_path, limit_bytes=3 * one, segment_bytes=MIB)
    assert [spool.append(record(number)) for number in range(5)] == [
        *["logged"] * 3,
        *["dropped"] * 2,
    ]
    store = Store()
    assert shipper(spool, store).ship()
    assert spool.size_bytes == 0
    assert spool.append(record(5)) == "logged"
    assert [row["prediction_id"] for row in store.rows()] == ["p0", "p1", "p2"]


@pytest.mark.parametrize("short", [0, 7])
def test_a_full_disk_fails_the_record_and_leaves_no_half_of_it(spool, monkeypatch, short):
    assert spool.append(record(0)) == "logged"
    real = os.write
    calls = []

    def full(descriptor, data):
        calls.append(len(data))
        if short and len(calls) == 1:
            return real(descriptor, data[:short])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spool_module.os, "write", full)
    assert spool.append(record(1)) == "failed"
    monkeypatch.undo()
    assert spool.append(record(2)) == "logged"
    assert [found.prediction_id for found in spooled(spool)] == ["p0", "p2"]


def test_a_segment_whose_torn_end_cannot_be_cut_off_is_given_up_and_its_whole_records_shipped(spool, monkeypatch):
    assert spool.append(record(0)) == "logged"
    real = os.write

    def torn(descriptor, data):
        real(descriptor, data[:9])
        raise OSError(errno.EIO, "Input/output error")

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(spool_module.os, "write", torn)
    monkeypatch.setattr(spool_module.os, "ftruncate", broken)
    assert spool.append(record(1)) == "failed"
    monkeypatch.undo()
    assert spool.append(record(2)) == "logged"
    assert [found.prediction_id for found in spooled(spool)] == ["p0", "p2"]
    assert spool.size_bytes == sum(path.stat().st_size for path in spool.sealed())


def test_a_record_that_cannot_be_written_down_is_failed_not_raised(spool):
    assert spool.append(record(1, latency_ms=float("nan"))) == "failed"
    assert spool.append(record(2)) == "logged"


def test_a_restart_adopts_what_a_killed_gateway_left_without_the_torn_end(tmp_path):
    dead = tmp_path / "000000000007-4242.open"
    dead.write_bytes(to_bytes(record(1)) + to_bytes(record(2))[:-3])
    (tmp_path / "000000000008-4242.open").write_bytes(b"")
    spool = Spool(tmp_path, limit_bytes=MIB, segment_bytes=MIB)
    assert spool.append(record(3)) == "logged"
    assert [found.prediction_id for found in spooled(spool)] == ["p1", "p3"]
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["000000000007", "000000000008"]


def test_the_open_segment_of_a_living_gateway_is_left_alone(tmp_path):
    living = tmp_path / "000000000001-4242.open"
    living.write_bytes(to_bytes(record(1)))
    with living.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        spool = Spool(tmp_path, limit_bytes=MIB, segment_bytes=MIB)
        assert spooled(spool) == []
    assert living.exists()


def test_segments_are_shipped_once_and_deleted(spool):
    store, metrics = Store(), Metrics()
    for number in range(3):
        spool.append(record(number))
    assert shipper(spool, store, metrics).ship()
    assert shipper(spool, store, metrics).ship()
    assert [row["prediction_id"] for row in store.rows()] == ["p0", "p1", "p2"]
    assert (store.num_puts, spool.sealed(), spool.size_bytes) == (1, [], 0)
    assert metrics.get("dethrone_log_shipped_records_total") == 3


@pytest.mark.parametrize("failure", ["before", "after"])
def test_an_outage_or_a_lost_answer_loses_and_doubles_nothing(spool, failure):
    store, metrics = Store(), Metrics()
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
    store, metrics = Store(), Metrics()
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
    store, metrics = Store(), Metrics()
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

    ship = Shipper(spool, answer, metrics=Metrics(), interval_seconds=1)
    assert [ship.ship() for _ in range(3)] == [False] * 3
    assert asked == [f"{number:012d}" for number in (1, 2, 3, 1, 1)]
    assert caplog.messages == ["the prediction log waits here: bad segment", "the prediction log waits here: away"]
    assert len(spool.sealed()) == 2


def test_a_segment_that_cannot_be_read_now_waits(spool, monkeypatch, caplog):
    spool.append(record(1))
    store, metrics = Store(), Metrics()

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

    assert Shipper(spool, look, metrics=Metrics(), interval_seconds=1).ship()
    assert seen == [[".sealed"] * 2] * 2


def test_a_defect_does_not_end_the_thread(spool, caplog):
    store, failures = Store(), [RuntimeError("a defect")]

    def broken_once(segment):
        if failures:
            raise failures.pop()
        return upload(segment, put=store.put)

    running = Shipper(spool, broken_once, metrics=Metrics(), interval_seconds=0.01)
    spool.append(record(1))
    running.start()
    while failures:
        time.sleep(0.01)
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
    metrics = Metrics()
    assert "dethrone_predictions_served_total 0\n" in metrics.render({})
    for outcome in ("logged", "dropped", "logged", "failed", "logged", "dropped", "logged"):
        metrics.record_outcome(outcome)
    metrics.observe(0.003)
    metrics.observe(99.0)
    metrics.add("dethrone_refused_total", label='code="X"')
    lines = metrics.render({"dethrone_spool_bytes": 5.0}).splitlines()
    for line in (
        "dethrone_predictions_served_total 7",
        "dethrone_predictions_logged_total 4",
        "dethrone_predictions_dropped_total 2",
        "dethrone_predictions_failed_total 1",
        'dethrone_refused_total{code="X"} 1',
        'dethrone_request_seconds_bucket{le="0.005"} 1',
        'dethrone_request_seconds_bucket{le="+Inf"} 2',
        "dethrone_request_seconds_count 2",
        "dethrone_spool_bytes 5.0",
    ):
        assert line in lines
