"""Served = logged + dropped + failed, whatever the disk does; floods are refused before they cost anything."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from bento_services.gateway import request_handler
from bento_services.gateway.load_shedding import LoadShedding
from tests.service.conftest import bearer, png
from tests.service.test_gateway_http import error_of


def test_served_is_logged_plus_dropped_under_a_crowd(bench):
    bench.spool._limit_bytes = 20_000

    def call(number: int) -> int:
        body = png(number) if number % 5 else b"not an image"
        return bench.predict(body).status_code

    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(call, range(60)))
    served, logged, dropped = bench.counts()
    assert sorted(set(codes)) == [200, 422]
    assert served == 60
    assert logged == len(bench.records())
    assert dropped == served - logged
    assert 0 < logged < 60


def test_served_is_logged_plus_dropped_plus_failed_whatever_the_disk_does(bench, monkeypatch):
    real, calls = os.write, itertools.count()

    def flaky(descriptor, data):
        number = next(calls)
        if number % 4 == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[: len(data) // 2] if number % 4 == 2 else data)

    monkeypatch.setattr("bento_services.gateway.prediction_log.spool.os.write", flaky)
    bench.spool._limit_bytes = 30_000
    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(lambda n: bench.predict(png(n) if n % 5 else b"no image").status_code, range(80)))
    served, logged, dropped = bench.counts()
    monkeypatch.undo()
    assert sorted(set(codes)) == [200, 422]
    assert min(logged, dropped, bench.failed()) > 0
    assert served == 80 == logged + dropped + bench.failed()
    assert logged == len(bench.records())


def never_read():
    raise AssertionError("the body must not be read")
    yield b""


def test_a_flood_is_refused_before_its_bodies_are_read_and_is_logged(bench):
    bench.gateway.num_open = 8  # the cap of this gateway
    response = bench.predict(never_read())
    assert error_of(response)[:2] == (503, "OVERLOADED")
    assert response.headers["retry-after"] == "1"
    assert [(record.error_code, record.payload) for record in bench.records()] == [("OVERLOADED", None)]
    assert bench.counts() == (1, 1, 0)


@pytest.fixture
def shedding(bench):
    return TestClient(LoadShedding(bench.client.app, bench.gateway), raise_server_exceptions=False)


PREDICT = "/v1/projects/fashion/predict"


def test_a_flood_is_refused_by_nobody_in_particular_and_not_logged(bench, shedding):
    assert shedding.post(PREDICT, content=png(), headers=bearer()).status_code == 200
    bench.gateway.num_open = 8
    refused = shedding.post(PREDICT, content=never_read())
    assert bench.counts() == (1, 1, 0)  # nobody's prediction: the accounts add up without it
    assert bench.metrics.get("dethrone_refused_total", code="OVERLOADED") == 1
    behind = bench.predict()
    assert bench.counts() == (2, 2, 0)
    told, other = refused.json()["error"], behind.json()["error"]
    assert (refused.status_code, told | {"request_id": None}) == (behind.status_code, other | {"request_id": None})
    assert set(refused.headers) == set(behind.headers)
    assert refused.headers["x-request-id"] == told["request_id"] != other["request_id"]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (f"{PREDICT}:batch", {}),
        ("/v1/projects/fashion/feedback", {}),
        ("/metrics", {}),
        (PREDICT, {"X-Request-Id": "r1"}),
    ],
)
def test_other_requests_are_looked_at_also_in_a_flood(bench, shedding, path, headers):
    bench.gateway.num_open = 8
    response = shedding.post(path, headers=headers)
    assert error_of(response)[1] != "OVERLOADED"


def test_a_body_that_is_on_its_way_holds_a_slot_for_a_moment_and_no_longer(bench, monkeypatch):
    """So that no more come in than there are slots, and that who sends slowly takes nobody's."""
    monkeypatch.setattr(request_handler, "ARRIVAL_SECONDS", 0.1)
    bench.gateway.num_open = 7
    seen = []

    async def ask():
        async def receive():
            await asyncio.sleep(0.02 if not seen else 0.2)
            seen.append(bench.gateway.has_slots())
            return {"type": "http.request", "body": b"x", "more_body": len(seen) < 2}

        scope = {"type": "http", "method": "POST", "path": PREDICT, "raw_path": PREDICT.encode(), "query_string": b""}
        headers = [(name.lower().encode(), value.encode()) for name, value in bearer().items()]
        await bench.client.app(scope | {"headers": headers}, receive, lambda _: asyncio.sleep(0))

    asyncio.run(ask())
    assert seen == [False, True]
    assert bench.gateway.has_slots()
