"""The gateway in its real server: swaps and kills under load, outages of the catalog and the store, raw sockets."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime as dt
import io
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time

import httpx
import psutil
import pyarrow.parquet as pq
import pytest

from bento_services.gateway.prediction_log.records import LogRecord, read_records
from pipeline_tasks.catalog import tables
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.contracts import Route, RouteEntry
from tests.service.conftest import png
from tests.service.servers import CLASSES, GATEWAY, ROOT, StubInference, gateway_environment, serving
from tests.services import S3_ACCESS_KEY, S3_SECRET_KEY, answers, free_ports, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
TOKEN = "t" * 43
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "image/png"}
SERVING = {
    "classes": list(CLASSES),
    "modality": "image",
    "requests_per_second": 1e6,
    "preprocess": {"max_pixels": 1000000},
}


class Stack:
    """A catalog with a key, and the routes that a test commits."""

    def __init__(self, home) -> None:
        self.home = home
        engine = create_engine(f"sqlite:///{home / 'catalog.db'}")
        tables.metadata.create_all(engine)
        self.serving = ServingRepository(Database(engine))
        self.serving.issue_key("*", name="t", scopes=["predict", "feedback", "admin"], token=TOKEN, at=NOW)

    def route(self, *entries: RouteEntry, standby: RouteEntry | None = None) -> Route:
        head = self.serving.head_route("fashion")
        generation = head.generation + 1 if head else 1
        parent = head.commit_id if head else None
        route = Route("fashion", generation, f"c{generation}", parent, entries[0].model_version, entries)
        facts = {"action": "promote", "attempt": "r/ship/1", "verdict_id": "v", "actor": "gate", "reason": "won"}
        kept = {"standby": dataclasses.asdict(standby)} if standby else {}
        return self.serving.commit_route(route, **facts, serving=SERVING | kept, at=NOW)

    def gateway(self, **more: str):
        return serving(GATEWAY, home=self.home, environment=gateway_environment(self.home, **more))


@pytest.fixture
def stack(tmp_path) -> Stack:
    return Stack(tmp_path)


class Load:
    """Clients that keep asking until they are told to stop; counts what they got."""

    def __init__(self, url: str, *, num_clients: int = 6) -> None:
        self.codes = collections.Counter()
        self.versions = collections.Counter()
        self.told: list[tuple[str, str]] = []
        self.refusals: list[str] = []
        self.seconds: list[float] = []
        self._url = f"{url}/v1/projects/fashion/predict"
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(num_clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)

    def wait_for_more(self, number: int) -> None:
        """Wait until so many more requests have ended, however slow the machine is."""
        goal = sum(self.codes.values()) + number
        wait_until(lambda: sum(self.codes.values()) >= goal, timeout_seconds=60, what="the traffic")

    def _run(self) -> None:
        body = png()
        with httpx.Client(headers=HEADERS, trust_env=False, timeout=30) as client:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    response = client.post(self._url, content=body)
                except httpx.HTTPError as error:
                    self.codes[type(error).__name__] += 1
                    continue
                self.codes[response.status_code] += 1
                self.seconds.append(time.monotonic() - began)
                if response.status_code == 200:
                    answer = response.json()
                    self.versions[answer["model_version"]] += 1
                    self.told.append((answer["prediction_id"], answer["model_version"]))
                else:
                    self.refusals.append(response.text)


def get(url: str, path: str) -> dict:
    return httpx.get(f"{url}{path}", headers=HEADERS, trust_env=False).json()


def metric(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics", headers=HEADERS, trust_env=False).text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


def follows(url: str, generation: int) -> None:
    wait_until(
        lambda: get(url, "/v1/projects/fashion").get("generation") == generation, timeout_seconds=20, what="the route"
    )


def ask(url: str, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/projects/fashion/predict", content=png(), headers=HEADERS | headers, trust_env=False, timeout=20
    )


def test_twenty_swaps_under_load_fail_no_request(stack):
    stubs = [StubInference(version="A", delay_seconds=0.005), StubInference(version="B", delay_seconds=0.005)]
    entries = [RouteEntry(f"d{stub.version}", stub.version, stub.url, 100) for stub in stubs]
    stack.route(entries[0])
    with stack.gateway() as gateway:
        follows(gateway.url, 1)
        with Load(gateway.url) as load:
            for number in range(20):
                new, old = entries[(number + 1) % 2], entries[number % 2]
                generation = stack.route(new).generation
                follows(gateway.url, generation)
                path = f"/internal/inflight?deployment={old.deployment_id}"
                wait_until(lambda p=path: get(gateway.url, p)["in_flight"] == 0, timeout_seconds=20, what="the drain")
                before = stubs[number % 2].num_requests
                time.sleep(0.05)
                assert stubs[number % 2].num_requests == before, "a drained deployment gets no request"
        assert set(load.codes) == {200}
        assert sum(load.codes.values()) > 200
        assert min(load.versions["A"], load.versions["B"]) > 20
        served, logged = (metric(gateway.url, f"dethrone_predictions_{name}_total") for name in ("served", "logged"))
        assert served == logged == sum(load.codes.values())
    for stub in stubs:
        stub.stop()


class Replica:
    """A stub in its own process, killed and started again on the same port."""

    def __init__(self) -> None:
        self.port = free_ports(1)[0]
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.service.stub_process", str(self.port), "A"]
        self._process = subprocess.Popen(command, cwd=ROOT)
        wait_until(lambda: answers(f"http://127.0.0.1:{self.port}/"), timeout_seconds=30, what="the replica")

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def entry(self, number: int) -> RouteEntry:
        return RouteEntry(f"r{number}", "A", f"http://127.0.0.1:{self.port}", 50)


def test_ten_kills_of_a_replica_under_load_fail_no_request(stack):
    replicas = [Replica(), Replica()]
    stack.route(*(replica.entry(number) for number, replica in enumerate(replicas)))
    try:
        # Patient: a machine that stands still for some seconds is no replica that died.
        with stack.gateway(DETHRONE_INFERENCE_TIMEOUT_SECONDS="20") as gateway:
            follows(gateway.url, 1)
            with Load(gateway.url) as load:
                for number in range(10):
                    victim = replicas[number % 2]
                    load.wait_for_more(30)  # one replay covers one kill at a time
                    victim.kill()
                    load.wait_for_more(30)
                    victim.start()
            assert set(load.codes) == {200}
            assert sum(load.codes.values()) > 200
            assert metric(gateway.url, "dethrone_replays") > 0
    finally:
        for replica in replicas:
            replica.kill()


@pytest.mark.parametrize("has_standby", [pytest.param(True, id="H6-standby"), pytest.param(False, id="H6-first")])
def test_kills_of_the_only_champion_fail_no_request_and_the_log_says_who_answered(stack, has_standby):
    """Requests failed until it was back. benchmarks/kills.py does it with real servers."""
    predecessor, champion = StubInference(version="P"), Replica()
    kept = RouteEntry("dP", "P", predecessor.url, 100)
    stack.route(kept)
    stack.route(dataclasses.replace(champion.entry(0), weight=100), standby=kept if has_standby else None)
    try:
        with stack.gateway(DETHRONE_INFERENCE_TIMEOUT_SECONDS="20") as gateway:
            follows(gateway.url, 2)
            with Load(gateway.url) as load:
                for _ in range(4):
                    load.wait_for_more(30)
                    champion.kill()
                    if has_standby:
                        load.wait_for_more(30)
                    champion.start()
            assert set(load.codes) == {200}
            assert metric(gateway.url, "dethrone_standby_answers") == load.versions["P"]
            assert (load.versions["P"] > 0) == has_standby
            gateway.kill()
        logged = [(record.prediction_id, record.model_version) for record in spooled(stack.home / "spool")]
        assert sorted(logged) == sorted(load.told)
        assert len({name for name, _ in logged}) == len(logged)
    finally:
        predecessor.stop()
        champion.kill()


def test_answers_without_sense_or_in_time_are_the_champions(stack):
    champion, candidate = StubInference(version="A"), StubInference(version="B")
    stack.route(RouteEntry("dB", "B", candidate.url, 100))
    stack.route(RouteEntry("dA", "A", champion.url, 0), RouteEntry("dB", "B", candidate.url, 100))
    with stack.gateway(DETHRONE_INFERENCE_TIMEOUT_SECONDS="1") as gateway:
        follows(gateway.url, 2)
        assert ask(gateway.url).json()["model_version"] == "B"
        for status, body in (
            (200, b'{"model_version":"B","labels":["bag"],"probabilities":[NaN]}'),
            (500, b""),
            (429, b""),
        ):
            candidate.status, candidate.body = status, body
            assert ask(gateway.url).json()["model_version"] == "A"
        candidate.status, candidate.body, candidate.delay_seconds = 200, None, 3.0
        assert ask(gateway.url).json()["model_version"] == "A"
        named = ask(gateway.url, **{"X-Model-Version": "B"})
        assert (named.status_code, named.json()["error"]["code"]) == (503, "MODEL_FAILED")
    champion.stop()
    candidate.stop()


def test_serving_goes_on_without_the_catalog_also_after_a_kill(stack):
    stub = StubInference(version="A")
    stack.route(RouteEntry("dA", "A", stub.url, 100))
    with stack.gateway() as gateway:
        follows(gateway.url, 1)
        away = stack.home / "catalog.away"
        for name in ("catalog.db", "catalog.db-wal", "catalog.db-shm"):
            with contextlib.suppress(FileNotFoundError):
                (stack.home / name).rename(f"{away}{name.removeprefix('catalog.db')}")
        wait_until(
            lambda: metric(gateway.url, "dethrone_catalog_age_seconds") == -1, timeout_seconds=20, what="the outage"
        )
        assert ask(gateway.url).status_code == 200
        gateway.kill()
    with stack.gateway() as gateway:
        assert ask(gateway.url).status_code == 200
        assert ask(gateway.url, Authorization="Bearer wrong").status_code == 401
        for name in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                (stack.home / f"catalog.away{name}").rename(stack.home / f"catalog.db{name}")
        stack.route(RouteEntry("dA", "A", stub.url, 100))
        follows(gateway.url, 2)
    stub.stop()


def submit(url: str, body: bytes) -> str:
    response = httpx.post(
        f"{url}/v1/projects/fashion/predict:async", content=body, headers=HEADERS, trust_env=False, timeout=20
    )
    assert response.status_code == 202, response.text
    return response.headers["location"]


def test_accepted_predictions_are_made_after_a_kill_each_logged_under_its_one_id(stack):
    stub = StubInference(version="A")
    stub.status = 500  # the model cannot answer yet
    stack.route(RouteEntry("dA", "A", stub.url, 100))
    with stack.gateway() as gateway:
        follows(gateway.url, 1)
        paths = [submit(gateway.url, png(seed)) for seed in range(20)]
        assert {get(gateway.url, path)["status"] for path in paths} == {"pending"}
        gateway.kill()
    stub.status = 200
    with sqlite3.connect(stack.home / "serving" / "predictions.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM predictions WHERE state = 'pending'").fetchone() == (20,)
        connection.execute("UPDATE predictions SET due_at = 0 WHERE state = 'pending'")  # the dead one's leases run out
    with stack.gateway() as gateway:
        wait_until(
            lambda: {get(gateway.url, path)["status"] for path in paths} == {"done"}, timeout_seconds=60, what="answers"
        )
        answers_ = [get(gateway.url, path)["prediction"] for path in paths]
        assert accounts(gateway.url)["logged"] == 20
        gateway.kill()
    ids = [path.rpartition("/")[2] for path in paths]
    assert [answer["prediction_id"] for answer in answers_] == ids
    assert sorted(record.prediction_id for record in spooled(stack.home / "spool")) == sorted(ids)
    assert int(stub.last_headers["X-Request-Timeout-Ms"]) == 5000
    stub.stop()


def rows_in(store, prefix: str = "predictions/") -> list[dict]:
    parts = [store.get(info.key) for info in store.list(prefix)]
    return [row for part in parts for row in pq.read_table(io.BytesIO(part)).to_pylist()]


def test_every_answer_is_in_the_store_once_after_an_outage_a_kill_and_a_stop(stack, seaweed_server, s3_store):
    stub = StubInference(version="A")
    stack.route(RouteEntry("dA", "A", stub.url, 100))
    keys = {"DETHRONE_S3_ACCESS_KEY": S3_ACCESS_KEY, "DETHRONE_S3_SECRET_KEY": S3_SECRET_KEY}
    store = keys | {"DETHRONE_S3_BUCKET": s3_store.bucket}
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    sent = []
    with stack.gateway(**store, DETHRONE_S3_ENDPOINT=nobody) as gateway:
        follows(gateway.url, 1)
        sent += [ask(gateway.url).json()["prediction_id"] for _ in range(20)]
        wait_until(
            lambda: "the store does not take it" in gateway.log.read_text(), timeout_seconds=30, what="the outage"
        )
        sent += [ask(gateway.url).json()["prediction_id"] for _ in range(20)]
        gateway.kill()
    with stack.gateway(**store, DETHRONE_S3_ENDPOINT=seaweed_server.endpoint) as gateway:
        sent += [ask(gateway.url).json()["prediction_id"] for _ in range(20)]
        bad = httpx.post(
            f"{gateway.url}/v1/projects/fashion/predict", content=b"x", headers=HEADERS, trust_env=False, timeout=20
        )
        assert bad.status_code == 422
    assert "the gateway does it itself" not in gateway.log.read_text()  # also at its end
    rows = rows_in(s3_store)
    assert sorted(row["prediction_id"] for row in rows if row["prediction_id"]) == sorted(sent)
    assert [row["error_code"] for row in rows if row["error_code"]] == [bad.json()["error"]["code"]]
    assert {row["payload"] for row in rows if row["status"] == 200} == {png()}
    assert list((stack.home / "spool").iterdir()) == []
    stub.stop()


def accounts(url: str) -> dict[str, int]:
    """Return the counters of one scrape: `served` is the sum of the others, or the test ends here."""
    text = httpx.get(f"{url}/metrics", headers=HEADERS, trust_env=False, timeout=20).text
    names = ("served", "logged", "dropped", "failed")
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines())
    counts = {name: int(float(lines[f"dethrone_predictions_{name}_total"])) for name in names}
    assert counts["served"] == counts["logged"] + counts["dropped"] + counts["failed"]
    return counts


def spooled(folder) -> list[LogRecord]:
    return [record for path in sorted(folder.iterdir()) for record, _ in read_records(path.read_bytes())]


def limit_files(processes: list[psutil.Process], size_bytes: int) -> None:
    """Let the kernel refuse writes beyond a size, as a full disk does."""
    for process in processes:
        process.rlimit(psutil.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))


def test_the_accounts_add_up_under_load_a_refusing_disk_a_full_spool_and_a_kill(stack):
    stub = StubInference(version="A")
    stack.route(RouteEntry("dA", "A", stub.url, 100))
    sizes = {"DETHRONE_SPOOL_SEGMENT_BYTES": "60000", "DETHRONE_SPOOL_MAX_BYTES": "400000"}
    with stack.gateway(**sizes) as gateway:
        follows(gateway.url, 1)
        workers = gateway.processes()
        with Load(gateway.url) as load:
            load.wait_for_more(50)
            accounts(gateway.url)
            limit_files(workers, 1)  # from now on no file takes a byte
            wait_until(lambda: accounts(gateway.url)["failed"] > 20, timeout_seconds=30, what="failed records")
            limit_files(workers, resource.RLIM_INFINITY)
            before = accounts(gateway.url)
            wait_until(
                lambda: accounts(gateway.url)["logged"] > before["logged"] + 50, timeout_seconds=30, what="new records"
            )
            wait_until(lambda: accounts(gateway.url)["dropped"] > 50, timeout_seconds=60, what="a full spool")
        assert set(load.codes) == {200}
        last = accounts(gateway.url)
        assert last["served"] == sum(load.codes.values())
        gateway.kill()
    assert len(spooled(stack.home / "spool")) == last["logged"]
    stub.stop()


def test_a_killed_server_leaves_no_worker_and_its_port_is_free_again(stack):
    with stack.gateway() as gateway:
        assert answers(f"{gateway.url}/healthz")
        gateway.kill()
        wait_until(lambda: not answers(f"{gateway.url}/healthz"), timeout_seconds=5, what="the end of the worker")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            wait_until(lambda: probe.connect_ex(("127.0.0.1", gateway.port)) != 0, timeout_seconds=5, what="the port")
