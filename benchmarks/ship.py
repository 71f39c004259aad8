"""From an approved verdict to serving traffic on Docker: how long, and how many bytes go to the registry?

Starts all it needs (engine and registry where none answer, gateway, catalog, a folder for S3) and leaves nothing:

    .venv/bin/python benchmarks/ship.py                        # 5 promotions, then 20 swaps under load
    .venv/bin/python benchmarks/ship.py --promotions 2 --swaps 0
    .venv/bin/python benchmarks/ship.py --promotions 2 --swaps 0 --stock   # beside `bentoml containerize`

A promotion is what the `release` and `ship` tasks do: bento, image, push, start by digest, golden requests, record,
route, gateway follows, the champion before last is drained and stopped. It is measured from the call to the first
answer of the new version through the gateway. A swap is a promotion or a rollback to the one before, which is kept
ready. Exits 1 when a request failed, or more than the model's size plus 1 MiB was sent.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ship_stock

from pipeline_tasks.adapters.base_image import build_base, push_base, recipe
from pipeline_tasks.adapters.container_registry import Registry
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.deployment import task as deployment_task
from pipeline_tasks.orchestration import container_targets as images_module
from tests.docker.dock import TOKEN, Dock, now
from tests.docker.engine import Engine, RegistryServer
from tests.service.conftest import png
from tests.service.test_gateway_served import Load

ROOT = Path(__file__).resolve().parents[1]
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "image/png"}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--promotions", type=int, default=5)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--stock", action="store_true", help="also both ways from a built bento, in one table")
    chosen = parser.parse_args()
    engine, registry = Engine(), RegistryServer()
    home = Path(tempfile.mkdtemp(prefix="dethrone-ship-"))
    dock = None
    try:
        dock = prepare(engine, registry, home)
        print(f"{dt.datetime.now(dt.UTC).date()}, {platform.machine()}, {os.cpu_count()} cores")
        with dock.real_gateway() as gateway:
            failed = promotions(dock, gateway.url, number=chosen.promotions)
            if chosen.swaps:
                failed += swaps(dock, gateway.url, number=chosen.swaps, num_requests=chosen.requests)
        if chosen.stock:
            failed += ship_stock.compare(dock, engine, registry)
        return 1 if failed else 0
    finally:
        for container in dock.containers(engine.client) if dock else ():
            container.remove(force=True, v=True)
        registry.stop()
        engine.stop()
        shutil.rmtree(home, ignore_errors=True)


def prepare(engine: Engine, registry: RegistryServer, home: Path) -> Dock:
    """Return an installation with a first champion; the base image is there before anything is timed."""
    began = time.monotonic()
    name, built = build_base(
        recipe(ROOT, variant="cpu"),
        os_base=engine.import_os(),
        engine=engine.client,
        environment=dict(os.environ),
        scratch=home / "base",
    )
    repository = f"{registry.host}/dethrone"
    push_base(engine.client, name, repository=repository, auth=None)
    print(f"base image {'built and ' if built else ''}pushed in {time.monotonic() - began:.0f} s")
    return Dock(home, repository=repository, environment=engine.environment)


def promotions(dock: Dock, url: str, *, number: int) -> int:
    """Promote new model versions one after the other; return how many sent too much."""
    vars(images_module)["Registry"] = CountedRegistry
    dock.promote("v0")
    seconds, sent, too_much = [], [], 0
    for count in range(1, number + 1):
        model = dock.model(f"v{count}")
        weights = (dock.home / "models" / model.version / "model.safetensors").stat().st_size
        before = CountedRegistry.total
        began = time.monotonic()
        release = dock.release(model, run=model.version)
        released = time.monotonic()
        dock.ship(release, run=model.version)
        answer = httpx.post(f"{url}/v1/projects/fashion/predict", content=png(), headers=HEADERS, trust_env=False)
        ended = time.monotonic()
        if answer.json()["model_version"] != model.version:
            raise RuntimeError(f"{model.version} must serve (got {answer.json()['model_version']})")
        seconds.append(ended - began)
        sent.append(CountedRegistry.total - before)
        too_much += sent[-1] > weights + 1024**2
        print(f"  {model.version}: release {released - began:.1f} s, ship {ended - released:.1f} s")
    print(f"verdict to traffic: median {statistics.median(seconds):.1f} s, worst {max(seconds):.1f} s ({number} times)")
    print(f"sent to the registry: {max(sent):,} bytes at most; the model has {weights:,}")
    return too_much


class CountedRegistry(Registry):
    """Adds up what every registry client of this process has sent."""

    total = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._mine = 0

    @property
    def bytes_sent(self) -> int:
        return self._mine

    @bytes_sent.setter
    def bytes_sent(self, value: int) -> None:
        CountedRegistry.total += value - getattr(self, "_mine", 0)
        self._mine = value


def swaps(dock: Dock, url: str, *, number: int, num_requests: int) -> int:
    """Alternate between promotions of new versions and rollbacks to the one before, under load."""
    spans: list[tuple[str, float, float]] = []
    with TimedLoad(url, num_clients=8) as load:
        time.sleep(2)
        for count in range(number):
            began = time.monotonic()
            if count % 2 == 0:
                dock.promote(f"s{count}")
                spans.append(("promotion", began, time.monotonic()))
            else:
                rollback(dock, run=f"back{count}")
                spans.append(("rollback", began, time.monotonic()))
            time.sleep(1)
        while sum(load.codes.values()) < num_requests:
            time.sleep(0.5)
    failed = sum(count for code, count in load.codes.items() if code != 200)
    print(f"{number} swaps, {sum(load.codes.values()):,} requests, {failed} failed {dict(load.codes)}")
    for kind in ("promotion", "rollback"):
        times = [end - start for name, start, end in spans if name == kind]
        print(f"  {kind}: median {statistics.median(times):.1f} s, worst {max(times):.1f} s")
    during = [s * 1e3 for at, s in load.timed if any(start <= at <= end for _, start, end in spans)]
    rest = [s * 1e3 for at, s in load.timed if not any(start <= at <= end for _, start, end in spans)]
    for name, times in (("at rest", rest), ("during a swap", during)):
        p50, p99 = np.percentile(times, [50, 99])
        print(f"  {name:14s} p50 {p50:5.1f} ms, p99 {p99:6.1f} ms ({len(times):,})")
    return failed


class TimedLoad(Load):
    """The load of the gateway's own tests, with the time of every request."""

    def __init__(self, url: str, *, num_clients: int) -> None:
        super().__init__(url, num_clients=num_clients)
        self.timed: list[tuple[float, float]] = []

    def _run(self) -> None:
        body = png()
        with httpx.Client(headers=HEADERS, trust_env=False, timeout=30) as client:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    code: int | str = client.post(self._url, content=body).status_code
                except httpx.HTTPError as error:
                    code = type(error).__name__
                self.codes[code] += 1
                self.timed.append((began, time.monotonic() - began))


def rollback(dock: Dock, *, run: str) -> None:
    """Return to the champion before."""
    attempt = Attempt(run, "rollback")
    deployment_task.rollback(
        dock.context(attempt),
        release_of=lambda entry: dock.release_of(entry.model_version),
        check=lambda *_: None,
        to_version=None,
        actor="benchmark",
        reason="benchmarks/ship.py",
        fence=dock.database.acquire("fashion/ship", attempt, now=now()),
    )


if __name__ == "__main__":
    sys.exit(main())
