"""Swaps under load: champions change there and back while requests keep coming; what do the callers see?

Needs a running stack on which `make demo` has ended (two champions that passed the gate):

    .venv/bin/python benchmarks/swaps.py                 # 20 swaps, at least 20,000 requests, 8 at a time
    .venv/bin/python benchmarks/swaps.py --swaps 2 --requests 500
    .venv/bin/python benchmarks/swaps.py --without-s3    # the object store is stopped for every second swap

Each swap is a whole rollback (adopt or start, golden requests, route, drain, stop) to the other one of the two newest
champions. Counted: answers that are no 200, answers by a model that neither served before nor after,
and predictions that were served and are not in the log. Exits 1 unless all three are 0, and no swap
took longer than 10 s. The server keeps two seconds
between swaps, in which the latency at rest is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import datetime as dt
import itertools
import os
import platform
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Self

import httpx
import numpy as np

from pipeline_tasks.assembly import Parts, build_parts
from pipeline_tasks.catalog.serving import ServingRepository
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.demo.material import load_material
from pipeline_tasks.stack.layout import StackLayout, source_root
from pipeline_tasks.stack.supervisord import Supervisor
from pipeline_tasks.wiring.rolling_back import roll_back

PROJECT = "fashion"
REST_SECONDS = 2.0
LONGEST_SWAP_SECONDS = 10.0
COUNTERS = ("dethrone_predictions_served_total", "dethrone_predictions_logged_total")


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One request: when it began and how long it took in seconds, its status (0 = none), who answered."""

    began: float
    seconds: float
    status: int
    model_version: str


class Load:
    """Keeps `concurrency` requests in flight from a thread of its own until it is stopped."""

    def __init__(self, parts: Parts, images: Sequence[bytes], *, concurrency: int) -> None:
        key = (parts.settings.home / "secrets" / "gateway_api_key").read_text().strip()
        self._url = f"{parts.settings.gateway_url}/v1/projects/{PROJECT}/predict"
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/png"}
        self._images = itertools.cycle(images)
        self._concurrency = concurrency
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.answers: list[Answer] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=self._concurrency)
        async with httpx.AsyncClient(headers=self._headers, limits=limits, timeout=30, trust_env=False) as client:
            await asyncio.gather(*(self._ask_on(client) for _ in range(self._concurrency)))

    async def _ask_on(self, client: httpx.AsyncClient) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            status, version = 0, ""
            try:
                answer = await client.post(self._url, content=next(self._images))
                status = answer.status_code
                version = str(answer.json().get("model_version", "")) if status == 200 else ""
            except httpx.HTTPError as error:
                version = type(error).__name__
            self.answers.append(Answer(began, time.monotonic() - began, status, version))


def main() -> int:
    """Swap under load and print what the callers saw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--requests", type=int, default=20_000, help="go on at rest until there are so many")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--without-s3", action="store_true", help="stop the object store for every second swap")
    chosen = parser.parse_args()
    parts = build_parts()
    s3 = Supervisor(StackLayout(home=parts.settings.home.resolve(), root=source_root()).socket)
    images = [image for image, _label in load_material("small").rotated]
    before = counters(parts)
    swaps: list[tuple[float, float]] = []
    with Load(parts, images, concurrency=chosen.concurrency) as load:
        time.sleep(REST_SECONDS)
        for number in range(chosen.swaps):
            is_away = chosen.without_s3 and number % 2 == 1
            if is_away:
                s3.stop("s3")
            swaps.append(swap(parts, number))
            if is_away:
                s3.start("s3")
            time.sleep(REST_SECONDS)
        while len(load.answers) < chosen.requests:
            time.sleep(0.5)
    after = counters(parts)
    return report(parts, load.answers, swaps=swaps, grown=[after[name] - before[name] for name in COUNTERS])


def counters(parts: Parts) -> dict[str, float]:
    """Return the gateway's counters; 0 for what it has not counted yet."""
    return Counter(parts.gateway.counters())


def swap(parts: Parts, number: int) -> tuple[float, float]:
    """Go to the other one of the two newest champions; return when it began and ended."""
    history = [route.champion_version for route in ServingRepository(parts.database).history(PROJECT)]
    other = next(version for version in reversed(history) if version != history[-1])
    began = time.monotonic()
    attempt = Attempt(f"swaps__{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}-{number}", "rollback")
    roll_back(parts, PROJECT, attempt=attempt, to_version=other, reason="benchmarks/swaps.py", actor="benchmark")
    return began, time.monotonic()


def report(
    parts: Parts, answers: Sequence[Answer], *, swaps: Sequence[tuple[float, float]], grown: Sequence[float]
) -> int:
    """Print the figures; return 1 where a promise was broken."""
    champions = {route.champion_version for route in ServingRepository(parts.database).history(PROJECT)}
    failed = Counter(f"{one.status} {one.model_version}".strip() for one in answers if one.status != 200)
    strangers = [one for one in answers if one.status == 200 and one.model_version not in champions]
    during = [one.seconds * 1e3 for one in answers if any(start <= one.began <= end for start, end in swaps)]
    rest = [one.seconds * 1e3 for one in answers if not any(start <= one.began <= end for start, end in swaps)]
    served, logged = grown
    slow = [end - start for start, end in swaps if end - start > LONGEST_SWAP_SECONDS]
    print(
        f"{dt.datetime.now(dt.UTC).date()}, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    median = np.median([end - start for start, end in swaps])
    print(f"{len(swaps)} swaps, {median:.1f} s each (median), {len(slow)} longer than {LONGEST_SWAP_SECONDS:.0f} s")
    print(f"{len(answers):,} requests, {sum(failed.values())} failed {dict(failed) or ''}")
    print(f"answered by {dict(Counter(one.model_version for one in answers if one.status == 200))}")
    print(f"answers by a model that is no champion: {len(strangers)}")
    print(f"served {served:,.0f}, logged {logged:,.0f}")
    for name, times in (("at rest", rest), ("during a swap", during)):
        p50, p99 = np.percentile(times, [50, 99])
        print(f"{name:14s} p50 {p50:5.1f} ms, p99 {p99:6.1f} ms ({len(times):,})")
    return 1 if failed or strangers or slow or served != logged or served < len(answers) else 0


if __name__ == "__main__":
    sys.exit(main())
