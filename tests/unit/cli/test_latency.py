"""`dethrone latency`: the parts of a request add up, and what cannot be asked is said."""

from __future__ import annotations

import dataclasses
import json
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from pipeline_tasks.cli import latency
from pipeline_tasks.cli.latency import Payload, Sample, as_text, counter_means, parse_timing, quantile, report, split
from pipeline_tasks.contracts import Route, RouteEntry
from pipeline_tasks.errors import ConfigError, ServiceUnavailable

TOLD = {"read": 0.001, "check": 0.0005, "inference": 0.006, "log": 0.0002, "total": 0.009}
MODEL = {"queue": 0.001, "decode": 0.0005, "model": 0.003}


def test_the_parts_of_a_request_add_up_to_what_its_caller_saw():
    parts = split(Sample(0.010, TOLD))
    assert sum(parts.values()) == pytest.approx(0.010)
    assert parts["caller and network"] == pytest.approx(0.001)
    assert parts["gateway: the rest"] == pytest.approx(0.0013)
    assert parts["hop, queue and model"] == 0.006
    told = split(Sample(0.010, TOLD | MODEL))
    assert sum(told.values()) == pytest.approx(0.010)
    assert told["hop to the model and back"] == pytest.approx(0.0015)
    assert told["model server: model"] == 0.003


def test_counters_give_the_mean_of_what_came_between():
    before = {"dethrone_batch_wait_seconds_sum": 1.0, "dethrone_batch_wait_seconds_count": 100.0}
    after = {"dethrone_batch_wait_seconds_sum": 1.5, "dethrone_batch_wait_seconds_count": 200.0}
    assert counter_means(before, after) == {"queue_wait_mean_ms": 5.0}
    assert counter_means({}, {}) == {}
    assert counter_means(after, before) == {}, "it was started again in between"


def test_the_header_is_read_in_seconds():
    assert parse_timing("read;dur=1.500, total;dur=9.000, strange, x;dur=1;desc=y") == {"read": 0.0015, "total": 0.009}


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2), (0.75, 3), (0.76, 4), (0.99, 4), (0.01, 1)])
def test_a_quantile_is_a_value_that_was_seen(share, expected):
    assert quantile([4, 1, 3, 2], share) == expected


def test_the_report_says_what_the_gateway_adds_and_what_is_not_told():
    figures = report([Sample(0.010, TOLD)] * 3, [Sample(0.0085, {})] * 3) | {"model_server": {}}
    assert figures["gateway_adds_p50_ms"] == 1.5
    text = as_text({"project": "fashion", "num_requests": 3, **figures})
    assert "The gateway adds 1.50 ms to the median." in text
    assert "does not tell queue and model apart" in text
    alone = report([Sample(0.010, TOLD | MODEL)], []) | {"model_server": {"pass_mean_ms": 2.5}}
    assert (alone["direct"], alone["gateway_adds_p50_ms"], alone["inference_tells"]) == (None, None, True)
    text = as_text({"project": "fashion", "num_requests": 1, **alone})
    assert "cannot be asked directly" in text
    assert "the model's pass 2.50 ms on average" in text


class Server:
    """Answers predictions with a Server-Timing header, as gateway and as model server."""

    def __init__(self, *, status=200, timing="read;dur=0.1, inference;dur=0.2, total;dur=0.5"):
        self.seen = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                server.seen.append((self.path, self.headers, self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(status)
                self.send_header("Server-Timing", timing)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def do_GET(self):
                number = len(server.seen)
                lines = [
                    "# HELP dethrone_pass_seconds x",
                    f'dethrone_pass_seconds_sum{{worker="1"}} {0.001 * number}',
                    f'dethrone_pass_seconds_sum{{worker="2"}} {0.001 * number}',
                    f"dethrone_pass_seconds_count {float(number)}",
                    'dethrone_pass_seconds_bucket{le="1"} 3',
                    "strange nan",
                ]
                body = "\n".join(lines).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

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

    def measure(gateway_url, address, *, items=(), file=None, num_requests=20):
        headers = {"Authorization": "Bearer i"}
        settings = types.SimpleNamespace(home=tmp_path, gateway_url=gateway_url, inference_headers=headers)
        route = Route("fashion", 1, "c", None, "A", (RouteEntry("d", "A", address, 100),)) if address else None
        store = types.SimpleNamespace(get_range=lambda location: location)
        parts = types.SimpleNamespace(settings=settings, database=None, store=store)
        monkeypatch.setattr(latency, "ServingRepository", lambda _: types.SimpleNamespace(head_route=lambda _: route))
        monkeypatch.setattr(latency, "ItemRepository", lambda _: types.SimpleNamespace(iterate=lambda _: iter(items)))
        ticks = iter(range(10_000))
        return latency.measure(
            parts, "fashion", num_requests=num_requests, file=file, monotonic=lambda: next(ticks) / 1000
        )

    return measure


@dataclasses.dataclass
class StoredItem:
    location: bytes
    media_type: str = "image/png"


def test_items_of_the_project_are_asked_about_both_ways_in_turn(servers, measured):
    gateway, model = servers(), servers()
    figures = measured(gateway.url, model.url, items=[StoredItem(b"a"), StoredItem(b"b")])
    assert (figures["num_requests"], len(gateway.seen), len(model.seen)) == (20, 22, 22), "a tenth more warms up"
    path, headers, body = gateway.seen[0]
    assert (path, body) == ("/v1/projects/fashion/predict", b"a")
    assert (headers["Authorization"], headers["X-User-Key"]) == ("Bearer k", "dethrone-latency")
    assert model.seen[1][0] == "/predict"
    assert model.seen[1][1]["Authorization"] == "Bearer i"
    assert [body for _, _, body in gateway.seen[:4]] == [b"a", b"b", b"a", b"b"]
    assert figures["through_gateway"]["p50_ms"] == 1.0
    assert figures["model_server"] == {"pass_mean_ms": 2.0}
    json.dumps(figures)


def test_a_model_server_that_cannot_be_reached_is_left_out(servers, measured):
    gateway = servers()
    figures = measured(gateway.url, "http://127.0.0.1:9", file=Payload(b"x", "text/plain"))
    assert (figures["direct"], figures["num_requests"], figures["model_server"]) == (None, 20, {})
    assert measured(gateway.url, None, file=Payload(b"x", "text/plain"))["direct"] is None


def test_what_stops_it_says_what_to_do(servers, measured, tmp_path):
    with pytest.raises(ServiceUnavailable, match="must answer 200 \\(got 429"):
        measured(servers(status=429).url, None, file=Payload(b"x", "text/plain"))
    with pytest.raises(ServiceUnavailable, match="the gateway must answer \\(got ConnectError\\)"):
        measured("http://127.0.0.1:9", None, file=Payload(b"x", "text/plain"))
    with pytest.raises(ConfigError, match="must have an item to ask about"):
        measured("http://127.0.0.1:9", None)
    with pytest.raises(ConfigError, match="--file must exist"):
        latency.payload_of(tmp_path / "nothing", media_type="image/png")
