"""Promotions and rollbacks under load: champions change while requests keep coming; what do the callers see?

Needs a running stack (`dethrone up`):

    .venv/bin/python -m benchmarks.swaps                 # 10 promotions, 10 rollbacks, half of these with S3 stopped
    .venv/bin/python -m benchmarks.swaps --promotions 2 --requests 500

It makes a small project of its own in the stack's projects folder: a first champion and, before the load, a
contender for each promotion, trained and judged against it. Under the load each promotion is the tasks release and
ship (build, start, golden requests, route, drain, stop), each rollback goes back to the first champion, which is kept
ready. The project is taken out again at the end; its history stays in the catalog. Counted: answers that are no 200,
answers by a model that is no champion, predictions that were served and are not in the log. Exits 1 unless all three
are 0, and no rollback took longer than 10 s. Between two changes lie two seconds, in which the latency at rest is
measured.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import datetime as dt
import itertools
import os
import platform
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Self

import httpx
import numpy as np
import torch

from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.errors import ServiceUnavailable
from pipeline_tasks.orchestration import entrypoints
from pipeline_tasks.orchestration.project_removal import remove
from pipeline_tasks.orchestration.resources import Resources, build_resources
from pipeline_tasks.stack.layout import StackLayout, source_root
from pipeline_tasks.stack.supervisord import Supervisor
from tests.unit.training.scene import CLASSES, png, stripes

PROJECT = "fashion"
REST_SECONDS = 2.0
LONGEST_ROLLBACK_SECONDS = 10.0
NUM_IMAGES = 600
YAML = """\
version: 1
name: NAME
modality: image
sources: [{type: folder, name: incoming, path: incoming, label_pattern: '^labeled/(?P<label>[^/]+)/'}]
labels: {classes: [across, down, flat], imported_in_exam: true}
split: {exam_share: 0.4}
checks: {min_side_pixels: 8}
recipe: {name: image_cnn, params: {image_size: 12, width: 4, hidden: 16, batch_size: 8, learning_rate: 0.002, EPOCHS}}
gate: {limits: {latency_p99_ms: 100000}, exam: {min_items: 100}}
schedules: {ingest: null, annotate: null, collect: null, train: null, monitor: null}
"""
XML = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
    + "".join(f'<Choice value="{name}"/>' for name in CLASSES)
    + "</Choices></View>"
)
COUNTERS = ("dethrone_predictions_served_total", "dethrone_predictions_logged_total")


@dataclasses.dataclass(frozen=True, slots=True)
class LoadAnswer:
    """One request: when it began and how long it took in seconds, its status (0 = none), who answered, and its id."""

    began: float
    seconds: float
    status: int
    model_version: str
    prediction_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One promotion or rollback: when it began and ended."""

    kind: str
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class Load:
    """Keeps `concurrency` requests in flight from a thread of its own until it is stopped."""

    def __init__(
        self, parts: Resources, project: str, images: Sequence[bytes], *, concurrency: int, pause: float = 0.0
    ) -> None:
        key = (parts.settings.home / "secrets" / "gateway_api_key").read_text().strip()
        self._url = f"{parts.settings.gateway_url}/v1/projects/{project}/predict"
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/png"}
        self._images = itertools.cycle(images)
        self._concurrency, self._pause = concurrency, pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.answers: list[LoadAnswer] = []

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
            status, version, prediction_id = 0, "", ""
            try:
                answer = await client.post(self._url, content=next(self._images))
                status = answer.status_code
                if status == 200:
                    said = answer.json()
                    version, prediction_id = str(said["model_version"]), str(said["prediction_id"])
            except httpx.HTTPError as error:
                version = type(error).__name__
            self.answers.append(LoadAnswer(began, time.monotonic() - began, status, version, prediction_id))
            if self._pause:
                await asyncio.sleep(self._pause)


def main() -> int:
    """Promote and roll back under load and print what the callers saw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--promotions", type=int, default=10, help="and as many rollbacks")
    parser.add_argument("--project", default="swaps", help="its name; the catalog must not know it yet")
    parser.add_argument("--requests", type=int, default=20_000, help="go on at rest until there are so many")
    parser.add_argument("--concurrency", type=int, default=8)
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # two wait for each other as soon as somebody else wants a core
    parts = build_resources()
    s3 = Supervisor(StackLayout(home=parts.settings.home.resolve(), root=source_root()).socket)
    changes: list[Change] = []
    try:
        first = make_champion(parts, chosen.project)
        verdicts = [contender(parts, chosen.project, seed=seed) for seed in range(1, chosen.promotions + 1)]
        before = counters(parts)
        images = [png(stripes(CLASSES[seed % 3], seed=seed)) for seed in range(200)]
        with Load(parts, chosen.project, images, concurrency=chosen.concurrency) as load:
            time.sleep(REST_SECONDS)
            for number, verdict_id in enumerate(verdicts):
                changes.append(promote(parts, chosen.project, verdict_id))
                time.sleep(REST_SECONDS)
                is_away = number % 2 == 1
                if is_away:
                    s3.stop("s3")
                changes.append(return_to(parts, chosen.project, first, is_away=is_away))
                if is_away:
                    s3.start("s3")
                    wait_for_s3(parts)
                time.sleep(REST_SECONDS)
            while len(load.answers) < chosen.requests:
                time.sleep(0.5)
        after = counters(parts)
        grown = [after[name] - before[name] for name in COUNTERS]
        return report(parts, chosen.project, load.answers, changes=changes, grown=grown)
    finally:
        aside = remove(parts, chosen.project, now=utc_now()).folder
        shutil.rmtree(aside or "", ignore_errors=True)


def make_champion(parts: Resources, project: str) -> str:
    """Make the project, train a weak first model, promote it and return its version."""
    folder = parts.settings.projects_dir / project
    (folder / "incoming").mkdir(parents=True)
    (folder / "labeling.xml").write_text(XML)
    (folder / "project.yaml").write_text(YAML.replace("NAME", project).replace("EPOCHS", "epochs: 1"))
    for seed in range(NUM_IMAGES):
        label = CLASSES[seed % 3]
        path = folder / "incoming" / "labeled" / label / f"{seed:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(stripes(label, seed=1000 + seed)))
    for stage in ("ingest", "annotate"):
        getattr(entrypoints, stage)(project, attempt=attempt_of(stage), parts=parts)
    promote(parts, project, contender(parts, project, seed=0))
    (folder / "project.yaml").write_text(YAML.replace("NAME", project).replace("EPOCHS", "epochs: 8"))
    return ServingRepository(parts.database).history(project)[-1].champion_version


def attempt_of(stage: str) -> Attempt:
    """Return a try of a run of its own."""
    return Attempt(f"swaps__{utc_now():%Y%m%dT%H%M%S%f}", stage)


def contender(parts: Resources, project: str, *, seed: int) -> str:
    """Train a contender, have it judged against the champion, and return the verdict, which must promote it."""
    frozen = entrypoints.snapshot(project, attempt=attempt_of("snapshot"), parts=parts)
    given = {"snapshot_id": frozen["snapshot_id"], "seed": seed}
    model = entrypoints.train(project, attempt=attempt_of("train"), parts=parts, **given)
    given = {"version": model["version"], "epochs": frozen["epochs"]}
    verdict = entrypoints.judge(project, attempt=attempt_of("judge"), parts=parts, **given)
    if verdict["answer"] != "promote":
        raise SystemExit(f"the contender of seed {seed} must be promoted (got {verdict['reasons']}).")
    return str(verdict["verdict_id"])


def promote(parts: Resources, project: str, verdict_id: str) -> Change:
    """Release and ship what a verdict promotes."""
    began = time.monotonic()
    built = entrypoints.release(project, attempt=attempt_of("release"), parts=parts, verdict_id=verdict_id)
    entrypoints.ship(project, attempt=attempt_of("ship"), parts=parts, release_id=built["release_id"])
    return Change("promotion", began, time.monotonic())


def return_to(parts: Resources, project: str, version: str, *, is_away: bool) -> Change:
    """Roll back to the first champion."""
    began = time.monotonic()
    why = {"reason": "benchmarks/swaps.py", "actor": "benchmark"}
    entrypoints.rollback(project, attempt=attempt_of("rollback"), parts=parts, to_version=version, **why)
    return Change("rollback without S3" if is_away else "rollback", began, time.monotonic())


def wait_for_s3(parts: Resources) -> None:
    """Return when the store answers again: the next promotion needs it."""
    while True:
        try:
            parts.brisk_store.exists("self-test/none")
        except ServiceUnavailable:
            time.sleep(0.5)
        else:
            return


def counters(parts: Resources) -> Counter[str]:
    """Return the gateway's counters; 0 for what it has not counted yet."""
    return Counter(parts.gateway.counters())


def other_champion(parts: Resources, project: str) -> str:
    """Return the newest champion that does not serve now."""
    history = [route.champion_version for route in ServingRepository(parts.database).history(project)]
    return next(version for version in reversed(history) if version != history[-1])


def report(
    parts: Resources, project: str, answers: Sequence[LoadAnswer], *, changes: Sequence[Change], grown: Sequence[float]
) -> int:
    """Print the figures; return 1 where a promise was broken."""
    champions = {route.champion_version for route in ServingRepository(parts.database).history(project)}
    failed = Counter(f"{answer.status} {answer.model_version}".strip() for answer in answers if answer.status != 200)
    strangers = [answer for answer in answers if answer.status == 200 and answer.model_version not in champions]
    served, logged = grown
    slow = [change for change in changes if change.kind != "promotion" and change.seconds > LONGEST_ROLLBACK_SECONDS]
    print(
        f"{dt.datetime.now(dt.UTC).date()}, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    for kind in dict.fromkeys(change.kind for change in changes):
        times = [change.seconds for change in changes if change.kind == kind]
        print(f"{len(times)} x {kind}: {np.median(times):.1f} s (median), longest {max(times):.1f} s")
    print(f"{len(answers):,} requests, {sum(failed.values())} failed {dict(failed) or ''}")
    print(f"answered by {len({answer.model_version for answer in answers})} champions, {len(strangers)} by others")
    print(f"served {served:,.0f}, logged {logged:,.0f}")
    during = {answer for answer in answers if any(change.began <= answer.began <= change.ended for change in changes)}
    for name, times in (
        ("at rest", [answer.seconds * 1e3 for answer in answers if answer not in during]),
        ("during a change", [answer.seconds * 1e3 for answer in during]),
    ):
        p50, p99 = np.percentile(times, [50, 99])
        print(f"{name:16s} p50 {p50:5.1f} ms, p99 {p99:6.1f} ms ({len(times):,})")
    return 1 if failed or strangers or slow or served != logged or served < len(answers) else 0


if __name__ == "__main__":
    sys.exit(main())
