"""Served = logged + dropped + failed, whatever the disk does; floods are refused before they cost anything."""

from __future__ import annotations

import errno
import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from bento_services.gateway.flood import refuse
from tests.service.conftest import png
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

    monkeypatch.setattr("bento_services.gateway.spool.os.write", flaky)
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


def test_at_the_door_a_flood_is_refused_as_behind_it_but_not_logged(bench):
    assert refuse(bench.gateway, PREDICT, {}) is None
    bench.gateway.num_open = 8
    head, _, body = refuse(bench.gateway, PREDICT, {}).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert bench.records() == []
    assert bench.counts() == (0, 0, 0)  # nobody's prediction: the accounts add up without it
    assert bench.metrics.get("dethrone_refused_total", label='code="OVERLOADED"') == 1
    behind = bench.predict()
    assert bench.counts() == (1, 1, 0)
    told, other = json.loads(body)["error"], behind.json()["error"]
    assert told | {"request_id": None} == other | {"request_id": None}
    headers = {name.lower() for name, _ in (line.split(": ", 1) for line in lines)}
    assert headers == set(behind.headers)


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
    assert refuse(bench.gateway, url, headers) is None
