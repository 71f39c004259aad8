"""The whole way of a prediction: our gateway in front of our inference service, each on its core, with logging on.

The gateway stands on the load generator's core. Its log is shipped to a store that takes everything, in this process.
"""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pipeline_tasks.catalog import tables
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.contracts import Route, RouteEntry

CLASSES = [f"class {number}" for number in range(10)]
INFERENCE_CORE, GATEWAY_CORE = "0", "1"
READY_SECONDS = 90
PROJECT, TOKEN = "benchmark", "b" * 43


class Store(BaseHTTPRequestHandler):
    """An object store that says yes."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(b'HTTP/1.1 200 OK\r\nETag: "0"\r\nContent-Length: 0\r\n\r\n')

    def log_message(self, *_: object) -> None: ...


def main() -> None:
    port, kind = int(os.environ["BENCH_PORT"]), os.environ["BENCH_KIND"]
    home = Path(os.environ["BENTOML_HOME"]).parent / f"gateway-{time.time_ns()}"
    home.mkdir()
    store = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    threading.Thread(target=store.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{port + 1}"
    write_catalog(home, address, modality=kind)
    given = {
        "DETHRONE_HOME": str(home),
        "DETHRONE_S3_ENDPOINT": f"http://127.0.0.1:{store.server_address[1]}",
        "DETHRONE_S3_ACCESS_KEY": "benchmark",
        "DETHRONE_S3_SECRET_KEY": "benchmark",
    }
    entry = Path(__file__).resolve().parents[2] / "bento_services" / "serve.py"
    children = [serve(str(entry), f"dethrone_benchmark_{kind}:eager", port=port + 1, core=INFERENCE_CORE)]
    wait_ready(f"{address}/readyz", children[0])
    children.append(serve("-m", "bento_services.gateway.server", port=port, core=GATEWAY_CORE, **given))
    signal.signal(signal.SIGTERM, lambda *_: end(children))
    sys.exit(max(child.wait() for child in children))


def end(children: list[subprocess.Popen[bytes]]) -> None:
    """Ask each child to end."""
    for child in children:
        child.terminate()


def write_catalog(home: Path, address: str, *, modality: str) -> None:
    """Write a catalog with a key, and a route to the one deployment."""
    engine = create_engine(f"sqlite:///{home / 'catalog.db'}")
    tables.metadata.create_all(engine)
    serving, now = ServingRepository(Database(engine)), dt.datetime.now(dt.UTC)
    serving.issue_key("*", name="benchmark", scopes=["predict"], token=TOKEN, at=now)
    route = Route(PROJECT, 1, "c1", None, "v1", (RouteEntry("d1", "v1", address, 100),))
    facts: dict[str, Any] = {
        "action": "promote",
        "attempt": "r/ship/1",
        "verdict_id": "v",
        "actor": "gate",
        "reason": "won",
    }
    settings: dict[str, Any] = {"classes": CLASSES, "modality": modality, "requests_per_second": 1e6, "top_k": 10}
    serving.commit_route(route, **facts, serving=settings, at=now)


def serve(*target: str, port: int, core: str, **more: str) -> subprocess.Popen[bytes]:
    command = ["taskset", "-c", core, sys.executable, *target, "--host", "127.0.0.1", "--port", str(port)]
    return subprocess.Popen(command, env={**os.environ, **more})


def wait_ready(url: str, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.2)
    raise SystemExit("the inference service is not ready")


if __name__ == "__main__":
    main()
