"""The store of predictions that are read later: bounded, leased, and what it holds after a kill."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap

import pytest

from bento_services.gateway.async_predictions.store import (
    FLUSH_SECONDS,
    PredictionStore,
    StoreFullError,
    StoreLimits,
    Waiting,
)
from tests.service.servers import ROOT

ANSWER = {"label": "bag", "needs_review": False}


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def waiting(number=1, payload=b"x"):
    return Waiting(f"p{number}", "fashion", {"n": number}, payload, 1000.0)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(tmp_path, clock):
    stores = []

    def build(**limits):
        store = PredictionStore(
            tmp_path / "serving" / "predictions.db", limits=StoreLimits(**limits), wall_seconds=clock
        )
        stores.append(store)
        return store

    yield build
    for store in stores:
        store.close()


def submit(store, prediction, **more):
    facts = {"fingerprint": "f", "item_id": "i", "callback_url": None} | more
    return store.submit(prediction, **facts).result()


def test_what_waits_is_claimed_once_until_its_lease_ends(make, clock):
    store, other = make(), make()
    for number in range(3):
        submit(store, waiting(number))
        clock.now += 1
    assert [prediction.prediction_id for prediction in store.claim(limit=2, lease_seconds=60).result()] == ["p0", "p1"]
    assert [prediction.prediction_id for prediction in other.claim(limit=9, lease_seconds=60).result()] == ["p2"]
    assert store.claim(limit=9, lease_seconds=60).result() == []
    clock.now += 61
    again = other.claim(limit=9, lease_seconds=60).result()
    assert {prediction.prediction_id for prediction in again} == {"p0", "p1", "p2"}
    assert again[0].payload == b"x"


def test_a_finished_one_is_not_claimed_and_its_payload_is_gone(make, clock):
    store = make()
    submit(store, waiting())
    store.finish("p1", "done", ANSWER, review_in=None).result()
    store.finish("p1", "failed", {"code": "LATE"}, review_in=None).result()
    clock.now += 1000
    assert store.claim(limit=9, lease_seconds=1).result() == []
    prediction = store.find("p1").result()
    assert (prediction.state, prediction.answer) == ("done", ANSWER)
    assert store._run(lambda: store._rows("SELECT payload FROM predictions")[0]["payload"]).result() is None


def test_the_bounds_hold_by_number_and_by_bytes(make):
    store = make(max_pending=2, max_pending_bytes=10)
    submit(store, waiting(1, b"x" * 9))
    with pytest.raises(StoreFullError):
        submit(store, waiting(2, b"xx"))
    submit(store, waiting(2, b"x"))
    with pytest.raises(StoreFullError):
        submit(store, waiting(3, b""))
    assert submit(store, waiting(1, b"y" * 99)).state == "pending", "a known id is told, not refused"
    assert store._run(lambda: len(store._rows("SELECT 1 FROM predictions WHERE state = 'pending'"))).result() == 2


async def remember(store, *numbers):
    for number in numbers:
        store.remember(f"p{number}", project="fashion", answer=ANSWER | {"n": number}, item_id="i")


def test_old_answers_expire_and_the_oldest_are_forgotten(make, clock):
    store = make(keep_seconds=100, max_kept=2)
    for number in range(3):
        asyncio.run(remember(store, number))
        clock.now += 1
    store.expire().result()
    assert [store.find(f"p{number}").result() is None for number in range(3)] == [True, False, False]
    clock.now += 200
    store.expire().result()
    prediction = store.find("p2").result()
    assert (prediction.state, prediction.answer, prediction.item_id) == ("expired", None, "i")


def test_answers_are_remembered_without_waiting_and_not_beyond_the_buffer(make):
    store = make()
    asyncio.run(remember(store, *range(50)))
    assert [store.find(f"p{number}").result().answer["n"] for number in range(50)] == list(range(50))


def test_remembered_answers_are_written_together_by_themselves(make, tmp_path):
    store = make()
    store.expire().result()  # the file is there

    async def play(other):
        counts = []
        for numbers in ((1, 2, 3), (4,)):
            await remember(store, *numbers)
            counts.append(other.execute("SELECT count(*) FROM predictions").fetchone()[0])
            await asyncio.sleep(5 * FLUSH_SECONDS)
            counts.append(other.execute("SELECT count(*) FROM predictions").fetchone()[0])
        return counts

    with contextlib.closing(sqlite3.connect(tmp_path / "serving" / "predictions.db")) as other:
        assert asyncio.run(play(other)) == [0, 3, 3, 4]


def test_only_the_owner_reads_the_file(make, tmp_path):
    submit(make(), waiting())
    assert (tmp_path / "serving" / "predictions.db").stat().st_mode & 0o777 == 0o600


def test_what_was_accepted_survives_a_kill(make, tmp_path, clock):
    script = """
        import os, sys, time
        from pathlib import Path
        from bento_services.gateway.async_predictions.store import PredictionStore, StoreLimits, Waiting
        store = PredictionStore(Path(sys.argv[1]), limits=StoreLimits(), wall_seconds=lambda: 0.0)
        for n in range(100):
            one = Waiting(f"p{n}", "fashion", {}, b"payload", 0.0)
            store.submit(one, fingerprint="f", item_id="i", callback_url=None).result()
            print(n, flush=True)
        store.claim(limit=5, lease_seconds=60).result()
        print("claimed", flush=True)
        time.sleep(60)
    """
    path = tmp_path / "serving" / "predictions.db"
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    lines = []
    for line in child.stdout:
        lines.append(line)
        if line == "claimed\n":
            break
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert len(lines) == 101
    clock.now = 30.0
    assert len(make().claim(limit=200, lease_seconds=1).result()) == 95, "five are still leased by the dead"
    clock.now = 61.0
    assert len(make().claim(limit=200, lease_seconds=1).result()) == 100


def test_the_request_comes_back_as_it_was(make):
    store = make()
    submit(store, Waiting("p", "fashion", {"user_key": "ä", "version": None}, b"\x00\xff", 5.0))
    (prediction,) = store.claim(limit=1, lease_seconds=1).result()
    assert (json.dumps(dict(prediction.request)), prediction.payload, prediction.created_at) == (
        json.dumps({"user_key": "ä", "version": None}),
        b"\x00\xff",
        5.0,
    )
