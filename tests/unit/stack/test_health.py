import datetime as dt
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline_tasks.adapters import http_health
from pipeline_tasks.stack import health

HEARTBEAT = "2026-11-21T09:00:00+00:00"
DOCUMENT = {
    "metadatabase": {"status": "healthy"},
    "scheduler": {"status": "healthy", "latest_scheduler_heartbeat": HEARTBEAT},
    "triggerer": {"status": "unhealthy", "latest_triggerer_heartbeat": HEARTBEAT},
    "dag_processor": {"status": None, "latest_dag_processor_heartbeat": None},
}


@contextmanager
def server(answers):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = answers.get(self.path, (404, b""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    try:
        yield http_server.server_port
    finally:
        http_server.shutdown()
        http_server.server_close()


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("airflow-api-server", http_health.Health(True, "metadatabase healthy")),
        ("airflow-scheduler", http_health.Health(True, "scheduler healthy", dt.datetime.fromisoformat(HEARTBEAT))),
        ("airflow-triggerer", http_health.Health(False, "triggerer unhealthy", dt.datetime.fromisoformat(HEARTBEAT))),
        ("airflow-dag-processor", http_health.Health(False, "dag_processor None")),
    ],
)
def test_each_airflow_process_is_read_from_the_common_document(program, expected):
    assert health.airflow_part_health(program, DOCUMENT) == expected


def test_without_a_document_no_airflow_process_is_healthy():
    assert health.airflow_part_health("airflow-scheduler", "ConnectError") == http_health.Health(False, "ConnectError")


def test_probe_asks_airflow_once():
    with server({"/api/v2/monitor/health": (200, json.dumps(DOCUMENT).encode())}) as port:
        assert health.probe("airflow-scheduler", ports={"airflow": port}).ok


@pytest.mark.parametrize("body", [b"not json", b"[]"])
def test_an_answer_that_is_no_health_document_is_not_health(body):
    with server({"/api/v2/monitor/health": (200, body)}) as port:
        assert not health.probe("airflow-scheduler", ports={"airflow": port}).ok


def test_probe_asks_each_part_at_its_own_path():
    with server({"/healthz": (200, b""), "/health": (200, b""), "/readyz": (503, b"")}) as port:
        ports = {"s3": port, "label_studio": port, "gateway": port}
        assert health.probe("s3", ports=ports) == http_health.Health(
            True, f"HTTP 200 at http://127.0.0.1:{port}/healthz"
        )
        assert health.probe("label-studio", ports=ports).ok
        gateway = health.probe("gateway", ports=ports)
    assert gateway == http_health.Health(False, f"HTTP 503 at http://127.0.0.1:{port}/readyz")


def test_a_part_without_an_address_is_as_healthy_as_its_process():
    assert health.probe("watchdog", ports={}) == http_health.Health(True, "")


def test_nobody_there_is_unhealthy_and_says_where(free_port):
    answer = http_health.http_health(f"http://127.0.0.1:{free_port}/healthz")
    assert answer == http_health.Health(False, f"ConnectError at http://127.0.0.1:{free_port}/healthz")
