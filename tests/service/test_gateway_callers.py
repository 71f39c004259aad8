"""Callers whom a gateway must survive: bent HTTP, heads that never end, bodies without end."""

from __future__ import annotations

import httpx
import pytest

from pipeline_tasks.contracts import RouteEntry
from tests.service.bent_http import ambiguous, broken, half_open, raw, statuses
from tests.service.servers import StubInference
from tests.service.test_gateway_served import HEADERS, TOKEN, Stack, ask, follows

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """A gateway with one stub, for requests that bend HTTP itself."""
    stack = Stack(tmp_path_factory.mktemp("quiet"))
    stub = StubInference(version="A")
    stack.route(RouteEntry("dA", "A", stub.url, 100))
    with stack.gateway(DETHRONE_BODY_TIMEOUT_SECONDS="1") as gateway:
        follows(gateway.url, 1)
        yield gateway
    stub.stop()


HEAD = (
    b"POST /v1/projects/fashion/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nAuthorization: Bearer %s\r\n"
)
GOOD_HEAD = HEAD % TOKEN.encode()


def test_bent_http_is_refused_and_the_next_request_is_answered(quiet):
    for name, data in broken(GOOD_HEAD).items():
        got = raw(quiet.port, data, timeout_seconds=2.5)
        assert all(400 <= status < 500 for status in statuses(got)), (name, got[:500])
        assert b"Traceback" not in got, name
    assert statuses(raw(quiet.port, broken(GOOD_HEAD)["huge header"])) in ([431], [])
    assert ask(quiet.url).status_code == 200


def test_a_message_that_can_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_answered(quiet):
    for name, data in ambiguous(GOOD_HEAD).items():
        got = raw(quiet.port, data)
        assert [400 <= status < 500 for status in statuses(got)] == [True], (name, got[:500])
        assert b"dethrone_" not in got, name
    assert ask(quiet.url).status_code == 200


def test_five_hundred_callers_who_never_finish_their_head_stop_nobody(quiet):
    """They are closed after 75 s, which tests/unit/gateway/test_server.py shows with a shorter time."""
    with half_open(quiet.port, GOOD_HEAD + b"X-A: a", count=500):
        assert [ask(quiet.url).status_code for _ in range(20)] == [200] * 20


def test_only_health_is_open(quiet):
    def status(path: str) -> int:
        return httpx.get(f"{quiet.url}{path}", trust_env=False).status_code

    assert {path: status(path) for path in ("/healthz", "/livez", "/readyz")} == {
        "/healthz": 200,
        "/livez": 200,
        "/readyz": 200,
    }
    for path in ("/openapi.json", "/docs"):
        assert status(path) == 200
    for path in ("/", "/docs.json", "/schema.json", "/static_content/x", "/a%0Ab", "/v1/projects/a%0Ab"):
        assert status(path) == 404
        assert httpx.get(f"{quiet.url}{path}", headers=HEADERS, trust_env=False).json()["error"]["code"]
    assert status("/metrics") == 401


def test_a_hundred_megabytes_are_refused_without_being_held(quiet):
    worker = quiet.worker()
    before = worker.memory_info().rss
    head = GOOD_HEAD + b"Content-Length: 100000000\r\n\r\n"
    got = raw(quiet.port, head + b"x" * 1_000_000)
    assert got.startswith(b"HTTP/1.1 413 ")
    endless = GOOD_HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + (b"100000\r\n" + b"x" * 0x100000 + b"\r\n") * 30
    got = raw(quiet.port, endless)
    assert got == b"" or got.startswith(b"HTTP/1.1 413 ")
    assert worker.memory_info().rss - before < 50_000_000
    assert ask(quiet.url).status_code == 200


def test_no_torch_is_loaded_in_the_gateway(quiet):
    maps = "".join(entry.path for process in quiet.processes() for entry in process.memory_maps())
    assert maps
    assert "torch" not in maps
