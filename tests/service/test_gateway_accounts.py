"""Served = logged + dropped + failed, whatever the disk does; floods are refused before they cost anything."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from bento_services.gateway.load_shedding import Entrance
from tests.service.conftest import png, token_of
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


def test_a_flood_is_refused_before_its_bodies_are_read_and_is_logged(bench):
    bench.gateway.num_open = 8  # the cap of this gateway

    def body():
        raise AssertionError("the body must not be read")
        yield b""

    response = bench.predict(body())
    assert error_of(response)[:2] == (503, "OVERLOADED")
    assert response.headers["retry-after"] == "1"
    assert [(record.error_code, record.payload) for record in bench.records()] == [("OVERLOADED", None)]
    assert bench.counts() == (1, 1, 0)


PREDICT = b"/v1/projects/fashion/predict"


KNOWN = {b"authorization": f"Bearer {token_of('reader')}".encode()}


async def at_the_door(gateway, url=PREDICT, headers=None):
    return Entrance().refuse(gateway, url, headers or {})


def test_at_the_door_a_flood_is_refused_as_behind_it_but_not_logged(bench):
    assert asyncio.run(at_the_door(bench.gateway)) is None
    bench.gateway.num_open = 8
    head, _, body = asyncio.run(at_the_door(bench.gateway)).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert bench.records() == []
    assert bench.counts() == (0, 0, 0)  # nobody's prediction: the accounts add up without it
    assert bench.metrics.get("dethrone_refused_total", label='code="OVERLOADED"') == 1
    behind = bench.predict()
    assert bench.counts() == (1, 1, 0)
    told, other = json.loads(body)["error"], behind.json()["error"]
    assert told | {"request_id": None} == other | {"request_id": None}
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert set(headers) == set(behind.headers)
    assert int(headers["content-length"]) == len(body)
    assert headers["x-request-id"] == told["request_id"]


def test_each_refusal_has_an_id_of_its_own(bench):
    bench.gateway.num_open = 8
    ids = set()
    for new_id in ("a", "bb", "cc", "d"):
        bench.gateway.new_id = lambda new_id=new_id: new_id
        head, _, body = asyncio.run(at_the_door(bench.gateway)).partition(b"\r\n\r\n")
        assert b"content-length: %d\r\n" % len(body) in head
        ids.add(json.loads(body)["error"]["request_id"])
    assert ids == {"a", "bb", "cc", "d"}


def test_in_one_turn_of_the_loop_no_more_come_in_than_there_are_slots(bench):
    bench.gateway.num_open = 5
    entrance = Entrance()

    def let_in(headers):
        return [entrance.refuse(bench.gateway, PREDICT, headers) is None for _ in range(5)]

    async def two_turns():
        strangers = let_in({}) + let_in({b"authorization": b"Bearer unknown"}) + let_in({b"x-request-id": b"r"})
        first = let_in(KNOWN)
        await asyncio.sleep(0)
        return strangers, first, let_in(KNOWN)

    assert asyncio.run(two_turns()) == ([True] * 15, *([True] * 3 + [False] * 2,) * 2)


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        (b"/v1/projects/fashion/predict:batch", {}),
        (b"/v1/projects/fashion/feedback", {}),
        (b"/metrics", {}),
        (PREDICT, {b"x-request-id": b"r1"}),
    ],
)
def test_other_requests_come_in_also_in_a_flood(bench, url, headers):
    bench.gateway.num_open = 8
    assert asyncio.run(at_the_door(bench.gateway, url, headers)) is None
