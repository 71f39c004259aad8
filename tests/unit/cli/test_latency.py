"""`dethrone latency`: the parts of a request add up, and what cannot be asked is said."""

from __future__ import annotations

import argparse
import dataclasses
import json
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from bento_services.gateway.server_timing import format_timing
from pipeline_tasks.cli import latency, serving_commands
from pipeline_tasks.cli.latency import as_text, quantiles, split
from pipeline_tasks.errors import ConfigError, ServiceUnavailable

TOLD = {"read": 0.001, "check": 0.0005, "inference": 0.006, "log": 0.0002}
MODEL = {"queue": 0.001, "decode": 0.0005, "model": 0.003}
WHOLE, HOP = "all, as the caller sees it", "hop to the model server, and what it does not tell"


@pytest.mark.parametrize("inside", [{}, MODEL])
def test_the_parts_of_a_request_add_up_to_what_its_caller_saw(inside):
    parts = split(10.0, format_timing(TOLD | inside, total_seconds=0.009))
    assert parts.pop(WHOLE) == 10.0
    assert sum(parts.values()) == pytest.approx(10.0)
    assert parts["caller and network"] == pytest.approx(1.0)
    assert parts["gateway: the rest"] == pytest.approx(1.3)
    assert parts[HOP] == pytest.approx(1.5 if inside else 6.0)
    assert parts.get("model server: model") == (3.0 if inside else None)


def test_an_answer_without_the_header_is_all_network():
    assert split(10.0, "")["caller and network"] == split(10.0, "strange, x;dur=")[WHOLE] == 10.0


def test_a_quantile_is_a_value_that_was_seen():
    rows = [{"a": value} for value in (4.0, 1.0, 3.0, 2.0)]
    assert quantiles(rows) == {"a": {"p50_ms": 2.0, "p95_ms": 4.0, "p99_ms": 4.0}}


def test_a_part_that_some_requests_lack_is_counted_as_nothing_there():
    figures = quantiles([{"a": 1.0}, {"a": 1.0}, {"a": 1.0, "b": 2.0}])
    assert figures["b"] == {"p50_ms": 0.0, "p95_ms": 2.0, "p99_ms": 2.0}


class Server:
    """A gateway that answers predictions with a Server-Timing header."""

    def __init__(self, *, status=200):
        self.seen = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                server.seen.append((self.path, self.headers, self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(status)
                self.send_header("Server-Timing", "read;dur=0.1, inference;dur=0.2, total;dur=0.5")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def servers():
    made = []

    def make(**options):
        made.append(Server(**options))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def measured(tmp_path, monkeypatch):
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "gateway_api_key").write_text("k\n")

    def measure(gateway_url, *, items=(), file=None):
        settings = types.SimpleNamespace(home=tmp_path, gateway_url=gateway_url)
        store = types.SimpleNamespace(get_range=lambda location: location)
        parts = types.SimpleNamespace(settings=settings, database=None, store=store)
        monkeypatch.setattr(latency, "ItemRepository", lambda _: types.SimpleNamespace(iterate=lambda _: iter(items)))
        ticks = iter(range(10_000))
        return latency.measure(parts, "fashion", num_requests=20, file=file, monotonic=lambda: next(ticks) / 1000)

    return measure


@dataclasses.dataclass
class StoredItem:
    location: bytes
    media_type: str = "image/png"


def test_items_of_the_project_are_asked_about_in_turn(servers, measured):
    gateway = servers()
    figures = measured(gateway.url, items=[StoredItem(b"a"), StoredItem(b"b")])
    assert (figures["num_requests"], len(gateway.seen)) == (20, 22), "a tenth more warms up"
    path, headers, body = gateway.seen[0]
    assert (path, body, headers["Content-Type"]) == ("/v1/projects/fashion/predict", b"a", "image/png")
    assert (headers["Authorization"], headers["X-User-Key"]) == ("Bearer k", "dethrone-latency")
    assert [body for _, _, body in gateway.seen[:4]] == [b"a", b"b", b"a", b"b"]
    assert figures["parts"][WHOLE]["p50_ms"] == 1.0
    assert figures["parts"]["gateway: the rest"]["p99_ms"] == 0.2
    json.dumps(figures)
    assert f"{WHOLE:52}     1.00     1.00     1.00" in as_text(figures).splitlines()


def test_what_stops_it_says_what_to_do(servers, measured, tmp_path):
    with pytest.raises(ServiceUnavailable, match="must answer 200 \\(got 429"):
        measured(servers(status=429).url, file=(b"x", "text/plain"))
    with pytest.raises(ServiceUnavailable, match="the gateway must answer \\(got ConnectError\\)"):
        measured("http://127.0.0.1:9", file=(b"x", "text/plain"))
    with pytest.raises(ConfigError, match="must have an item to ask about"):
        measured("http://127.0.0.1:9")
    asked = argparse.Namespace(project="fashion", requests=1, file=tmp_path / "nothing")
    with pytest.raises(ConfigError, match="--file must exist"):
        serving_commands.latency(asked)
