"""Real processes for the service tests: the gateway, an inference bento, and stub inference servers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import torch

from pipeline_tasks.models.artifact import Origin, pack, save
from pipeline_tasks.models.registry import find_recipe
from tests.model_configs import config_of
from tests.service.stub_process import answer_to
from tests.services import answers, free_ports, wait_until

ROOT = Path(__file__).resolve().parents[2]
ENTRY = ROOT / "bento_services" / "serve.py"
GATEWAY = "bento_services.gateway.server"
CLASSES = ("bag", "boot", "coat")


def write_model(
    folder: Path,
    *,
    version: str,
    recipe: str = "image_cnn",
    seed: int = 0,
    classes: tuple[str, ...] = CLASSES,
    params: dict[str, object] | None = None,
) -> None:
    """Write the two files of an untrained model version."""
    torch.manual_seed(seed)
    recipe_code = find_recipe(recipe)
    params = recipe_code.recipe.resolve(params or {})
    config = config_of(recipe_code, recipe=recipe, params=params, classes=classes, version=version, seed=seed)
    origin = Origin(code_revision="c1", torch_version=torch.__version__, device="cpu")
    save(pack(recipe_code.recipe.build(params, len(classes)), config=config, origin=origin, metrics={}), folder)


class Served:
    """A serving process with a process group of its own, stopped by its process id."""

    def __init__(self, target: str, *, home: Path, environment: dict[str, str], cwd: Path) -> None:
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = home / f"serve-{self.port}.log"
        base = {"PATH": os.environ["PATH"], "HOME": str(home), "OMP_NUM_THREADS": "1", "TMPDIR": tempfile.gettempdir()}
        with self.log.open("wb") as log:
            entry = ["-m", GATEWAY] if target == GATEWAY else [str(ENTRY), target]
            self._process = subprocess.Popen(
                [sys.executable, *entry, "--host", "127.0.0.1", "--port", str(self.port)],
                env=base | {"BENTOML_DO_NOT_TRACK": "True"} | environment,
                cwd=cwd,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self, *, timeout_seconds: float = 150) -> None:
        wait_until(
            lambda: answers(f"{self.url}/readyz") or self._process.poll() is not None,
            timeout_seconds=timeout_seconds,
            what=self.url,
        )
        if self._process.poll() is not None:
            raise RuntimeError(f"the server ended early: {self.log.read_text()[-2000:]}")

    def wait_alive(self) -> None:
        """Wait until it answers, ready or not."""
        wait_until(lambda: answers(f"{self.url}/livez"), timeout_seconds=150, what=self.url)

    def processes(self) -> list[psutil.Process]:
        """Return the process that answers and what it has started."""
        return [self.worker(), *self.worker().children(recursive=True)]

    def worker(self) -> psutil.Process:
        """Return the process that answers."""
        return psutil.Process(self._process.pid)

    def stop(self) -> None:
        """SIGTERM, then wait; kill what is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL the whole group, as a machine would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=20)


@contextlib.contextmanager
def serving(target: str, *, home: Path, environment: dict[str, str], cwd: Path = ROOT, wait: bool = True):
    """Run a service until the block ends."""
    served = Served(target, home=home, environment=environment, cwd=cwd)
    try:
        if wait:
            served.wait_ready()
        yield served
    finally:
        served.stop()


def gateway_environment(home: Path, **more: str) -> dict[str, str]:
    """The gateway's environment in tests: a fast shipping interval, and a store that is not there."""
    return {
        "DETHRONE_HOME": str(home),
        "BENTOML_HOME": str(home / "bentoml"),
        "DETHRONE_LOG_SHIP_SECONDS": "0.3",
    } | more


class StubInference:
    """An inference service that answers what a test wants, in a thread of this process."""

    def __init__(self, *, version: str, delay_seconds: float = 0.0) -> None:
        self.version = version
        self.delay_seconds = delay_seconds
        self.status = 200
        self.body: bytes | None = None
        self.num_requests = 0
        self.last_body = b""
        self.last_headers: dict[str, str] = {}
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))  # others come while this one sleeps
                stub.last_body = data
                stub.last_headers = dict(self.headers)
                stub.num_requests += 1
                time.sleep(stub.delay_seconds)
                media_type = self.headers["Content-Type"]
                own = answer_to(data, media_type=media_type, version=stub.version)
                body = own if stub.body is None else stub.body
                head = f"HTTP/1.1 {stub.status} X\r\nContent-Length: {len(body)}\r\n\r\n"
                self.wfile.write(head.encode() + body)

            def log_message(self, *_: object) -> None: ...

        ThreadingHTTPServer.request_queue_size = 128
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
