"""kill -9 of the champion's server under load: what do the callers see, and what stands in the log?

Needs nothing but this checkout: two model versions are built, served and supervised as the stack does it, in a folder
of their own, behind a real gateway; the second is the champion, the first is kept ready.

    .venv/bin/python -m benchmarks.kills                                # 20 kills, 20,000 requests at 100 a second
    .venv/bin/python -m benchmarks.kills --kills 3 --requests 2000
    .venv/bin/python -m benchmarks.kills --no-standby                   # as with a first champion: requests wait

Counted: answers that are no 200, prediction ids that are not exactly once in the log, answers whose model version is
not the logged one. Exits 1 unless all three are 0.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import datetime as dt
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bento_services.gateway.prediction_log.records import read_records
from pipeline_tasks.catalog import tables
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.contracts import Route, RouteEntry
from pipeline_tasks.deployment.bento_builder import build_bento
from pipeline_tasks.deployment.route_plan import standby_settings
from pipeline_tasks.stack import lifecycle, programs, supervisord
from pipeline_tasks.stack.layout import StackLayout, source_root
from pipeline_tasks.stack.process_target import ProcessTarget
from tests.service.conftest import png
from tests.service.servers import CLASSES, GATEWAY, gateway_environment, serving, write_model

PROJECT, TOKEN = "fashion", "k" * 43
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SETTINGS: dict[str, Any] = {
    "classes": list(CLASSES),
    "modality": "image",
    "requests_per_second": 1e6,
    "preprocess": {"max_pixels": 1_000_000},
}
READY_SECONDS = 180.0


@dataclasses.dataclass(frozen=True, slots=True)
class KilledAnswer:
    """One caller's answer: status (0 = no answer), seconds, prediction id and model version."""

    status: int
    seconds: float
    prediction_id: str = ""
    model_version: str = ""


def main() -> int:
    """Serve, kill, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second, sent whether or not others wait")
    parser.add_argument("--no-standby", action="store_true", help="without a predecessor that is kept ready")
    chosen = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="kills-")).resolve()
    try:
        target = start_target(home)
        try:
            serve_versions(home, target, standby=not chosen.no_standby)
            with serving(GATEWAY, home=home, environment=gateway_environment(home)) as gateway:
                answers, num_kills = asyncio.run(run(gateway.url, home, chosen))
        finally:
            lifecycle.down(home)
        return report(answers, num_kills=num_kills, logged=logged(home))
    finally:
        shutil.rmtree(home, ignore_errors=True)


def start_target(home: Path) -> ProcessTarget:
    """Start a supervisor in the folder and return where it serves releases."""
    layout = StackLayout(home=home, root=source_root())
    lifecycle.make_folders(layout)
    lifecycle.write_programs(layout, ())
    bin_dir = Path(sys.executable).parent
    base = programs.base_environment(os.environ, layout=layout, projects_dir=home / "projects", bin_dir=bin_dir)
    supervisord.start_daemon(layout, python=bin_dir / "python", environment=base)
    return ProcessTarget(home)


def serve_versions(home: Path, target: ProcessTarget, *, standby: bool) -> None:
    """Build and start two versions and give the second one the route, after the first."""
    engine = create_engine(f"sqlite:///{home / 'catalog.db'}")
    tables.metadata.create_all(engine)
    serving_ = ServingRepository(Database(engine))
    serving_.issue_key("*", name="benchmark", scopes=["predict"], token=TOKEN, at=NOW)
    head: Route | None = None
    for number, version in enumerate(("v1", "v2"), start=1):
        write_model(home / version, version=version, seed=number)
        tag = f"dethrone_{PROJECT}:{version}"
        build_bento(home / version, tag=tag, labels={}, bentoml_home=home / "bentoml")
        handle = target.start(deployment_id=f"{PROJECT}-{version}", bento_tag=tag, environment={})
        target.wait_ready(handle.deployment_id, timeout_seconds=READY_SECONDS)
        entry = RouteEntry(handle.deployment_id, version, handle.address, 100)
        settings = standby_settings(head, SETTINGS, before=SETTINGS, keep_previous=standby)
        route = Route(PROJECT, number, f"c{number}", head.commit_id if head else None, version, (entry,))
        facts: dict[str, Any] = {
            "action": "promote",
            "attempt": "r/ship/1",
            "verdict_id": "v",
            "actor": "gate",
            "reason": "won",
        }
        head = serving_.commit_route(route, **facts, serving=settings, at=NOW)


async def run(url: str, home: Path, chosen: argparse.Namespace) -> tuple[list[KilledAnswer], int]:
    """Send requests at the rate and kill the champion's server at even intervals."""
    answers: list[KilledAnswer] = []
    num_kills, started = 0, time.monotonic()
    pause = chosen.requests / chosen.rate / (chosen.kills + 1)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "image/png"}
    bodies = [png(seed) for seed in range(50)]
    async with httpx.AsyncClient(headers=headers, limits=limits, timeout=30, trust_env=False) as client:

        async def ask(number: int) -> None:
            began = time.monotonic()
            try:
                answer = await client.post(f"{url}/v1/projects/{PROJECT}/predict", content=bodies[number % 50])
                said = answer.json() if answer.status_code == 200 else {}
                ids = str(said.get("prediction_id", "")), str(said.get("model_version", ""))
                answers.append(KilledAnswer(answer.status_code, time.monotonic() - began, *ids))
            except httpx.HTTPError as error:
                answers.append(KilledAnswer(0, time.monotonic() - began, model_version=type(error).__name__))

        async with asyncio.TaskGroup() as group:
            for number in range(chosen.requests):
                due = started + number / chosen.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(ask(number))
                if num_kills < chosen.kills and time.monotonic() - started > pause * (num_kills + 1):
                    num_kills += kill(home)
    print(f"{len(answers) / (time.monotonic() - started):.0f} requests a second")
    return answers, num_kills


def kill(home: Path) -> bool:
    """Kill the champion's server, if it is there to be killed."""
    layout = StackLayout(home=home, root=source_root())
    pid = supervisord.Supervisor(layout.socket).processes()[f"inference-{PROJECT}-v2"].pid
    if pid:
        os.kill(pid, signal.SIGKILL)
    return bool(pid)


def logged(home: Path) -> list[tuple[str, str]]:
    """Return prediction id and model version of each answer in the log; nothing ships it here."""
    records = (record for path in sorted((home / "spool").iterdir()) for record, _ in read_records(path.read_bytes()))
    return [(str(record.prediction_id), str(record.model_version)) for record in records if record.status == 200]


def report(answers: list[KilledAnswer], *, num_kills: int, logged: list[tuple[str, str]]) -> int:
    """Print the figures; return 1 where a promise was broken."""
    failed = Counter(f"{answer.status} {answer.model_version}".strip() for answer in answers if answer.status != 200)
    told = Counter((answer.prediction_id, answer.model_version) for answer in answers if answer.status == 200)
    wrong = (told - Counter(logged)).total() + (Counter(logged) - told).total()
    twice = sum(1 for count in Counter(name for name, _ in logged).values() if count > 1)
    p50, p99, worst = np.percentile([answer.seconds * 1e3 for answer in answers], [50, 99, 100])
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{num_kills} kills, {len(answers):,} requests, {sum(failed.values())} failed {dict(failed) or ''}")
    print(f"answered by {dict(Counter(answer.model_version for answer in answers if answer.status == 200))}")
    print(f"logged {len(logged):,}, ids logged twice {twice}, answers that differ from the log {wrong}")
    print(f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {worst:.0f} ms")
    return 1 if failed or wrong or twice else 0


if __name__ == "__main__":
    sys.exit(main())
