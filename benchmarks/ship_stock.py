"""One built bento by both ways from here to a container's first right answer: our image, and `bentoml containerize`.

The stock way takes `python:3.11-slim`, which cannot be pulled here: Debian's own Python with pip stands in under that
name, with this machine's certificates and package settings. A CPU wheel of torch, where the machine has one, is served
to the build, because the package index's own has CUDA: gigabytes more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.server
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline_tasks.adapters.container_registry import Registry
from pipeline_tasks.adapters.inference_http import ask_server
from pipeline_tasks.deployment.bento_builder import build_bento
from pipeline_tasks.deployment.golden_requests import compare_golden
from pipeline_tasks.orchestration.container_targets import publish
from tests.docker.dock import Dock
from tests.docker.engine import Engine, RegistryServer
from tests.services import answers, wait_until

if TYPE_CHECKING:
    from pipeline_tasks.orchestration.resources import Resources

PYTHON = "python:3.11-slim"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BUILD_SECONDS = 1200
READY_SECONDS = 120
DOCKERFILE = """\
FROM {os_base}
RUN apt-get update && apt-get install -q -y --no-install-recommends python3-pip python-is-python3 \\
    && rm -rf /var/lib/apt/lists/* /usr/lib/python3*/EXTERNALLY-MANAGED
COPY certificates.crt /etc/ssl/machine.crt
ENV {settings}
"""


@dataclasses.dataclass(frozen=True)
class ShipTimes:
    """Seconds and bytes of one way of shipping a bento."""

    way: str
    image_seconds: float  # built and pushed
    start_seconds: float
    sent_bytes: int
    image_bytes: int

    def __str__(self) -> str:
        total = self.image_seconds + self.start_seconds
        times = f"{self.image_seconds:.1f} | {self.start_seconds:.1f} | {total:.1f}"
        return f"| {self.way} | {times} | {self.sent_bytes:,} | {self.image_bytes:,} |"


HEAD = (
    "| from a built bento | image built and pushed, s | start to first right answer, s | together, s | bytes sent "
    "| image bytes |\n|---|---|---|---|---|---|"
)


def compare(dock: Dock, engine: Engine, registry: RegistryServer) -> int:
    """Ship two new model versions both ways and print the table; return how many of ours sent too much."""
    too_much = 0
    print(HEAD)
    with stand_in(engine, repository=f"{registry.host}/stock"):
        for count, kind in ((1, "first"), (2, "next")):
            version = f"stock{count}"
            model, tag = dock.model(version), f"dethrone_fashion:stock{count}"
            folder = dock.home / "models" / version
            labels = {"model_version": model.version, "verdict": "benchmark"}
            build_bento(folder, tag=tag, labels=labels, bentoml_home=dock.parts.settings.bentoml_home)
            ask = functools.partial(right_answer, dock, version)
            mine = ours(dock, engine, registry, tag=tag, ask=ask)
            print(mine)
            print(containerize(dock, engine, registry, tag=tag, ask=ask, kind=kind))
            too_much += mine.sent_bytes > (folder / "model.safetensors").stat().st_size + 1024**2
    return too_much


def right_answer(dock: Dock, version: str, address: str) -> None:
    """Return when the server at this address has given the offline path's answer."""
    wait_until(lambda: answers(f"{address}/readyz"), timeout_seconds=READY_SECONDS, what=address)
    golden = dock.golden(version)[0]
    served = {
        golden.expected.item_id: ask_server(
            dock.parts.settings.inference_headers, address, golden.payload, golden.media_type
        )
    }
    comparison = compare_golden([golden.expected], served, model_version=version)
    if not comparison.passed:
        raise RuntimeError(f"{address} must answer as the offline path does (got {comparison.failures}).")


def ours(dock: Dock, engine: Engine, registry: RegistryServer, *, tag: str, ask: Callable[[str], None]) -> ShipTimes:
    """Build and push the image, and start it, by the target that the pipeline uses."""
    before, began = stored_bytes(registry), time.monotonic()
    image = publish(cast("Resources", dock.parts), "fashion", dock.project.config.serving.docker, tag)
    pushed = time.monotonic()
    handle = dock.target.start(deployment_id="stock-compared", bento_tag=tag, environment={})
    ask(handle.address)
    ended = time.monotonic()
    size = engine.client.images.get(image.reference).attrs["Size"]
    dock.target.stop("stock-compared")
    sent = stored_bytes(registry) - before
    return ShipTimes("ours, on the base image", pushed - began, ended - pushed, sent, size)


def containerize(
    dock: Dock, engine: Engine, registry: RegistryServer, *, tag: str, ask: Callable[[str], None], kind: str
) -> ShipTimes:
    """Do the same with `bentoml containerize`, `docker push` and `docker run` by digest."""
    version = tag.partition(":")[2]
    repository = f"{registry.host}/stock"
    home = {"BENTOML_HOME": str(dock.parts.settings.bentoml_home), "BENTOML_DO_NOT_TRACK": "True"}
    bentoml = [str(Path(sys.executable).parent / "bentoml"), "containerize", tag, "--backend", "docker"]
    began = time.monotonic()
    cold = ["--opt", "no-cache"] if kind == "first" else []
    run([*bentoml, "--image-tag", f"{repository}:{version}", "--opt", "network=host", *cold], engine, **home)
    before = stored_bytes(registry)
    run(["docker", "push", "--quiet", f"{repository}:{version}"], engine)
    pushed = time.monotonic()
    manifest = Registry(repository).manifest(version)
    if manifest is None:
        raise RuntimeError(f"the registry must hold {repository}:{version} (got nothing).")
    container = engine.client.containers.run(
        f"{repository}@{manifest.digest}", detach=True, ports={"3000/tcp": ("127.0.0.1", None)}
    )
    try:
        container.reload()
        ask(f"http://127.0.0.1:{container.ports['3000/tcp'][0]['HostPort']}")
    except Exception:
        print(container.logs().decode(errors="replace")[-3000:], file=sys.stderr)
        raise
    finally:
        ended = time.monotonic()
        container.remove(force=True, v=True)
    size = engine.client.images.get(f"{repository}:{version}").attrs["Size"]
    sent = stored_bytes(registry) - before
    return ShipTimes(f"bentoml containerize, {kind} release", pushed - began, ended - pushed, sent, size)


def stored_bytes(registry: RegistryServer) -> int:
    """Return what the registry's blobs hold: each is sent once, as it is."""
    return sum(path.stat().st_size for path in (registry.folder / "data").rglob("data") if path.is_file())


@contextlib.contextmanager
def stand_in(engine: Engine, *, repository: str) -> Iterator[None]:
    """Give the engine, and the registry, something under the name that the generated Dockerfile starts from."""
    with served_wheels() as wheels, tempfile.TemporaryDirectory(prefix="dethrone-python-") as folder:
        settings = {"SSL_CERT_FILE": "/etc/ssl/machine.crt", "PIP_CERT": "/etc/ssl/machine.crt", **wheels}
        settings |= {name: os.environ[name] for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX") if name in os.environ}
        text = " ".join(f"{name}={value}" for name, value in settings.items())
        Path(folder, "certificates.crt").write_bytes(CERTIFICATES.read_bytes())
        Path(folder, "Dockerfile").write_text(DOCKERFILE.format(os_base=engine.import_os(), settings=text))
        run(["docker", "build", "--network", "host", "--tag", PYTHON, folder], engine)
        run(["docker", "tag", PYTHON, f"{repository}:python"], engine)
        run(["docker", "push", "--quiet", f"{repository}:python"], engine)
        yield


@contextlib.contextmanager
def served_wheels() -> Iterator[dict[str, str]]:
    """Serve the folder of PIP_FIND_LINKS, where there is one, and yield the settings that lead a build to it."""
    folder = Path(os.environ.get("PIP_FIND_LINKS", "/nowhere"))
    if not folder.is_dir():
        yield {}
        return
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}/"
            yield {"UV_FIND_LINKS": url, "PIP_FIND_LINKS": url}
        finally:
            server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Says nothing."""

    def log_message(self, *_: Any) -> None:
        return


def run(command: list[str], engine: Engine, **environment: str) -> None:
    """Run a command against the engine, with the builder that every engine has."""
    done = subprocess.run(
        command,
        env={**os.environ, **engine.environment, "DOCKER_BUILDKIT": "0", **environment},
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stdout + done.stderr)[-3000:]
        raise RuntimeError(f"{' '.join(command[:3])} must succeed (got {done.returncode}):\n{said}")
