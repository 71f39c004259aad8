"""The spool: what is written is whole, bounded and found again, whatever the disk and other gateways do."""

import errno
import fcntl
import os
import struct
import zlib

import pytest

from bento_services.gateway.prediction_log import spool as spool_module
from bento_services.gateway.prediction_log.records import to_bytes
from bento_services.gateway.prediction_log.spool import Spool
from tests.unit.gateway.prediction_log.log_case import MIB, Store, record, shipper, spooled


def test_the_spool_keeps_order_over_segments_and_restarts(tmp_path):
    folder = tmp_path / "spool"
    first = Spool(folder, limit_bytes=MIB, segment_bytes=600)
    for number in range(5):
        assert first.append(record(number)) == "logged"
    first.seal()
    second = Spool(folder, limit_bytes=MIB, segment_bytes=600)
    for number in range(5, 8):
        assert second.append(record(number)) == "logged"
    assert [entry.prediction_id for entry in spooled(second)] == [f"p{n}" for n in range(8)]
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
    assert [entry.prediction_id for entry in spooled(spool)] == ["p0", "p1"]
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
    assert [entry.prediction_id for entry in spooled(spool)] == ["p1"]
    assert [entry.prediction_id for entry in spooled(spool)] == ["p0", "p1"]


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
    assert [entry.prediction_id for entry in spooled(spool)] == ["p2"]


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
    size_bytes = len(to_bytes(record(0)))
    spool = Spool(tmp_path, limit_bytes=3 * size_bytes, segment_bytes=MIB)
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
    assert [entry.prediction_id for entry in spooled(spool)] == ["p0", "p2"]


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
    assert [entry.prediction_id for entry in spooled(spool)] == ["p0", "p2"]
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
    assert [entry.prediction_id for entry in spooled(spool)] == ["p1", "p3"]
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["000000000007", "000000000008"]


def test_the_open_segment_of_a_living_gateway_is_left_alone(tmp_path):
    living = tmp_path / "000000000001-4242.open"
    living.write_bytes(to_bytes(record(1)))
    with living.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        spool = Spool(tmp_path, limit_bytes=MIB, segment_bytes=MIB)
        assert spooled(spool) == []
    assert living.exists()
