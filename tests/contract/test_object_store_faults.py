"""The S3 adapter on a real SeaweedFS behind a proxy that breaks requests."""

import dataclasses
import datetime as dt
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline_tasks.adapters.s3 import READ_TIMEOUT_SECONDS, S3ObjectStore
from pipeline_tasks.contracts import Location, sha256_hex
from pipeline_tasks.errors import DataCorrupt, PermanentError, ServiceUnavailable
from tests import services
from tests.fault_proxy import Fault, FaultProxy

pytestmark = pytest.mark.integration
DATA = random.Random(7).randbytes(200_000)
KEY = f"items/pets/{sha256_hex(DATA)[:2]}/{sha256_hex(DATA)}"


def make_store(endpoint, bucket, *, budget_seconds=60.0, read_timeout_seconds=2.0, secret_key=None, access_key=None):
    return S3ObjectStore(
        endpoint=endpoint,
        bucket=bucket,
        access_key=access_key or services.S3_ACCESS_KEY,
        secret_key=secret_key or services.S3_SECRET_KEY,
        budget_seconds=budget_seconds,
        read_timeout_seconds=read_timeout_seconds,
        rng=random.Random(0),
        sleep=lambda seconds: time.sleep(min(seconds, 0.02)),
    )


@pytest.fixture(scope="module")
def bucket(seaweed_server):
    """One bucket for the module, with and without the proxy before it: a client costs 0.3 s to make."""
    name = seaweed_server.new_bucket_name()
    direct = make_store(seaweed_server.endpoint, name)
    direct.ensure_bucket()
    with FaultProxy("127.0.0.1", seaweed_server.ports[0]) as running:
        yield running, make_store(running.url, name), direct


@pytest.fixture
def proxy(bucket):
    bucket[0].clear()
    bucket[0].log.clear()
    return bucket[0]


@pytest.fixture
def store(bucket, proxy):
    """The adapter behind the proxy."""
    return bucket[1]


@pytest.fixture
def s3_store(bucket):
    """The same bucket without the proxy, empty."""
    bucket[2].delete([info.key for info in bucket[2].list("")])
    return bucket[2]


def modes(proxy) -> list[str | None]:
    return [mode for _, _, mode in proxy.log]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("refuse", 3),
        Fault("reset", 3),
        Fault("blackhole", 1),
        Fault("http5xx", 4),
        Fault("exec_then_drop", 10),
        Fault("duplicate", 1),
        Fault("latency", 1, seconds=0.3),
        Fault("truncate", 2, side="request", at=65_536),
        Fault("corrupt", 2, side="request", at=1000),
    ],
    ids=lambda fault: fault.mode,
)
@pytest.mark.parametrize("verb", ["put", "create"])
def test_a_broken_write_is_repeated_until_the_right_bytes_lie_there(proxy, store, s3_store, fault, verb):
    proxy.add(planned := dataclasses.replace(fault))
    assert getattr(store, verb)(KEY, DATA) in {None, True}
    assert planned.count == 0
    assert modes(proxy)[: fault.count] == [fault.mode] * fault.count
    assert s3_store.get(KEY) == DATA
    assert [info.size_bytes for info in s3_store.list("items/")] == [len(DATA)]


READ_FAULTS = [
    Fault("refuse", 3),
    Fault("reset", 3),
    Fault("blackhole", 1),
    Fault("http5xx", 4),
    Fault("slowbody", 1, seconds=0.05),
    Fault("truncate", 2, at=65_536),
    Fault("exec_then_drop", 3),
]


def read_whole(store, _folder) -> bytes:
    return store.get(KEY)


def read_range(store, _folder) -> bytes:
    return store.get_range(Location(KEY, 0, 150_000)) + store.get_range(Location(KEY, 150_000, 50_000))


def read_file(store, folder) -> bytes:
    store.get_file(KEY, folder / "file")
    assert [path.name for path in folder.iterdir()] == ["file"]
    return (folder / "file").read_bytes()


@pytest.mark.parametrize("fault", READ_FAULTS, ids=lambda fault: fault.mode)
@pytest.mark.parametrize("read", [read_whole, read_range, read_file])
def test_a_broken_read_is_repeated_until_the_bytes_are_there(proxy, store, s3_store, tmp_path, fault, read):  # noqa: PLR0917
    s3_store.put(KEY, DATA)
    proxy.add(planned := dataclasses.replace(fault))
    assert read(store, tmp_path) == DATA
    assert planned.count == 0


@pytest.mark.parametrize("read", [read_whole, read_file])  # a range has no checksum: its reader compares the item's
def test_bytes_that_were_damaged_on_the_way_are_read_again(proxy, store, s3_store, tmp_path, read):
    s3_store.put(KEY, DATA)
    proxy.add(planned := Fault("corrupt", 2, at=1000))
    assert read(store, tmp_path) == DATA
    assert planned.count == 0


def test_bytes_that_stay_wrong_are_corrupt(proxy, store, s3_store, tmp_path):
    s3_store.put(KEY, DATA)
    proxy.add(Fault("corrupt", method="GET", at=5))
    with pytest.raises(DataCorrupt, match="must"):
        store.get(KEY)
    with pytest.raises(DataCorrupt, match="must"):
        store.get_file(KEY, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_create_whose_answer_was_lost_knows_its_own_bytes_from_a_winners(proxy, store, s3_store):
    proxy.add(Fault("exec_then_drop", 1, method="PUT"))
    assert store.create("verdicts/pets/1/verdict.json", b"ours")
    s3_store.create("verdicts/pets/2/verdict.json", b"theirs")
    proxy.add(Fault("exec_then_drop", 1, method="PUT"))
    assert not store.create("verdicts/pets/2/verdict.json", b"ours")
    assert s3_store.get("verdicts/pets/2/verdict.json") == b"theirs"


def test_a_store_that_stays_away_is_unavailable_after_the_budget(proxy, s3_store):
    store = make_store(proxy.url, s3_store.bucket, budget_seconds=1.0)
    proxy.add(Fault("refuse"))
    began = time.monotonic()
    with pytest.raises(ServiceUnavailable, match=rf"must put {s3_store.bucket}/{KEY} within 1 s .*dethrone status"):
        store.put(KEY, DATA)
    assert time.monotonic() - began < 5


def test_a_burst_of_errors_loses_no_object_of_a_batch(proxy, store, s3_store):
    proxy.add(Fault("http5xx", probability=0.3))
    proxy.add(Fault("exec_then_drop", probability=0.1))
    batch = {f"reports/{number}": b"report %d" % number for number in range(80)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda pair: store.put(*pair), batch.items()))
    proxy.clear()
    assert {info.key: s3_store.get(info.key) for info in s3_store.list("reports/")} == batch


@pytest.mark.parametrize("mode", ["reset", "http5xx", "exec_then_drop"])
@pytest.mark.parametrize("step", ["partNumber", "uploads", "uploadId"])
def test_a_large_file_survives_a_broken_upload_and_leaves_no_stale_one(proxy, s3_store, tmp_path, mode, step):
    store = make_store(proxy.url, s3_store.bucket, read_timeout_seconds=20.0)
    data = random.Random(1).randbytes(17 * 1024 * 1024)
    (tmp_path / "in").write_bytes(data)
    proxy.add(planned := Fault(mode, 1, method="PUT" if step == "partNumber" else "POST", path=step))
    store.put_file("bentos/pets/r1.bento", tmp_path / "in")
    assert planned.count == 0
    s3_store.get_file("bentos/pets/r1.bento", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    s3_store.abort_stale_uploads(before=dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1))
    assert s3_store.abort_stale_uploads(before=dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)) == 0


def test_a_broken_part_is_repeated_alone(proxy, s3_store, tmp_path):
    store = make_store(proxy.url, s3_store.bucket, read_timeout_seconds=20.0)
    (tmp_path / "in").write_bytes(bytes(17 * 1024 * 1024))
    proxy.add(Fault("reset", 2, method="PUT", path="partNumber"))
    store.put_file("bentos/pets/r1.bento", tmp_path / "in")
    parts = [path for method, path, _ in proxy.log if method == "PUT" and "partNumber" in path]
    assert len(parts) == 3 + 2


def test_racing_creates_through_lost_answers_have_one_winner_each(proxy, store):
    proxy.add(Fault("exec_then_drop", probability=0.1))
    for number in range(3):
        with ThreadPoolExecutor(4) as pool:
            won = list(pool.map(lambda who, n=number: store.create(f"verdicts/pets/{n}/v", b"%d" % who), range(4)))
        assert sum(won) == 1


def test_the_self_test_passes_and_leaves_nothing(seaweed_server, s3_store):
    # SeaweedFS has the racers wait for each other by whole seconds.
    make_store(seaweed_server.endpoint, s3_store.bucket, read_timeout_seconds=READ_TIMEOUT_SECONDS).self_test()
    assert list(s3_store.list("self-test/")) == []


def test_a_store_that_ignores_the_condition_is_refused(s3_store, monkeypatch):
    real = s3_store._client.put_object
    monkeypatch.setattr(
        s3_store._client,
        "put_object",
        lambda **request: real(**{k: v for k, v in request.items() if k != "IfNoneMatch"}),
    )
    with pytest.raises(
        PermanentError, match=r"one of 4 racing writes with IfNoneMatch must win \(got 4 winners\)"
    ) as caught:
        s3_store.self_test()
    assert caught.value.code == "STORE_UNSAFE"


def test_a_wrong_secret_is_not_retried_and_says_which_setting(seaweed_server, s3_store):
    store = make_store(seaweed_server.endpoint, s3_store.bucket, secret_key="wrongsecretwrongsecret")
    began = time.monotonic()
    with pytest.raises(PermanentError, match=r"SignatureDoesNotMatch.*DETHRONE_S3_SECRET_KEY") as caught:
        store.put(KEY, DATA)
    assert time.monotonic() - began < 3
    assert "wrongsecret" not in str(caught.value)


def test_an_unknown_access_key_says_which_setting(seaweed_server, s3_store):
    store = make_store(seaweed_server.endpoint, s3_store.bucket, access_key="unknownaccesskey")
    with pytest.raises(PermanentError, match="DETHRONE_S3_ACCESS_KEY"):
        store.put(KEY, DATA)


def test_a_missing_bucket_is_named(seaweed_server):
    store = make_store(seaweed_server.endpoint, "no-such-bucket")
    with pytest.raises(PermanentError, match=r"no-such-bucket does not exist: create it, or set DETHRONE_S3_BUCKET"):
        list(store.list(""))


def test_ensure_bucket_is_idempotent_and_safe_to_race(seaweed_server):
    store = make_store(seaweed_server.endpoint, seaweed_server.new_bucket_name())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: store.ensure_bucket(), range(4)))
    assert list(store.list("")) == []


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_when_the_store_is_killed_mid_batch(tmp_path):
    with services.running(services.SeaweedServer()) as server:
        store = make_store(server.endpoint, "batch", budget_seconds=90)
        store.ensure_bucket()
        batch = {f"reports/{number}": random.Random(number).randbytes(20_000) for number in range(300)}
        written = threading.Semaphore(0)

        def put(pair: tuple[str, bytes]) -> None:
            store.put(*pair)
            written.release()

        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(put, pair) for pair in batch.items()]
            for _ in range(50):
                written.acquire(timeout=60)
            server.kill()
            time.sleep(1)
            server.start()
            for future in done:
                future.result(timeout=120)
        assert {info.key: store.get(info.key) for info in store.list("reports/")} == batch
