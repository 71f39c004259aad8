"""An outage of everything but serving: Airflow, Label Studio and S3 are stopped for minutes, under load.

Needs a running stack on which `make demo` has ended (two champions that passed the gate):

    .venv/bin/python -m benchmarks.outage                 # ten minutes
    .venv/bin/python -m benchmarks.outage --minutes 0.5

In the middle `dethrone rollback` changes the champion, and once more when all is back. W&B and a registry are
no processes of the stack: it says how this installation is set. Counted: answers that are no 200; predictions that were
told and are not exactly once in the log in the bucket; the gateway's own accounts; entries of the ledger that are not
noted in the bucket after the next monitor; what `dethrone verify` finds. Exits 1 unless all is as it must be.
"""

from __future__ import annotations

import argparse
import datetime as dt
import io
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.swaps import PROJECT, Load, LoadAnswer, other_champion
from pipeline_tasks.backup.verify import verify_installation
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.demo.dataset import load_material
from pipeline_tasks.orchestration import entrypoints
from pipeline_tasks.orchestration.ledger_anchors import waiting_notes
from pipeline_tasks.orchestration.resources import Resources, build_resources
from pipeline_tasks.stack.layout import StackLayout, source_root
from pipeline_tasks.stack.supervisord import Supervisor

REASON = "benchmarks/outage.py"
DETHRONE = str(Path(sys.executable).with_name("dethrone"))
OUTCOMES = ("served", "logged", "dropped", "failed")
SHIPPED_SECONDS = 120.0


def main() -> int:
    """Stop, roll back, start, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.03, help="seconds of each client between two requests")
    chosen = parser.parse_args()
    parts = build_resources()
    supervisor = Supervisor(StackLayout(home=parts.settings.home.resolve(), root=source_root()).socket)
    images = [image for image, _label in load_material("small").rotated]
    before, began = accounts(parts), utc_now()
    with Load(parts, PROJECT, images, concurrency=chosen.concurrency, pause=chosen.pause) as load:
        time.sleep(5)
        names = stop(supervisor)
        print(f"stopped: {', '.join(names)}; W&B: {parts.settings.wandb_mode}; target: processes, no registry")
        time.sleep(chosen.minutes * 30)
        rollbacks = [roll_back(parts)]
        time.sleep(chosen.minutes * 30)
        waiting = parts.gateway.counters()["dethrone_spool_bytes"]
        start(supervisor, names)
        rollbacks.append(roll_back(parts))
        time.sleep(5)
    return report(parts, load.answers, began=began, before=before, rollbacks=rollbacks, waiting=waiting)


def stop(supervisor: Supervisor) -> list[str]:
    """Stop everything that does not serve and return it in the order of its start."""
    names = [name for name in supervisor.processes() if name in {"s3", "label-studio"} or name.startswith("airflow-")]
    for name in reversed(names):
        supervisor.stop(name)
    return sorted(names, key=lambda name: (name != "s3", name.startswith("airflow-"), name))


def start(supervisor: Supervisor, names: Sequence[str]) -> None:
    """Start it again, and wait until `dethrone up` finds everything healthy."""
    for name in names:
        supervisor.start(name)
    subprocess.run([DETHRONE, "up"], check=True, capture_output=True)


def roll_back(parts: Resources) -> float:
    """Go to the other one of the two newest champions as an operator does; return the command's seconds."""
    other = other_champion(parts, PROJECT)
    began = time.monotonic()
    command = ["rollback", PROJECT, "--to-version", other, "--reason", REASON]
    subprocess.run([DETHRONE, *command], check=True, capture_output=True)
    return time.monotonic() - began


def accounts(parts: Resources) -> dict[str, float]:
    """Return what the gateway has counted of predictions, and of records in the bucket."""
    counts = Counter(parts.gateway.counters())
    return {name: counts[f"dethrone_predictions_{name}_total"] for name in OUTCOMES}


def logged_ids(parts: Resources, told: Sequence[LoadAnswer], *, since: dt.date) -> Counter[str]:
    """Return how often each told prediction id is in the bucket's log, when it had time to get there."""
    wanted = {record.prediction_id for record in told}
    deadline = time.monotonic() + SHIPPED_SECONDS
    seen: Counter[str] = Counter()
    read: set[str] = set()
    while True:
        for info in parts.store.list(f"predictions/{PROJECT}/"):
            if info.key not in read and info.key.split("/")[2] >= since.isoformat():
                read.add(info.key)
                table = pq.read_table(io.BytesIO(parts.store.get(info.key)), columns=["kind", "prediction_id"])
                pairs = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
                seen.update(name for kind, name in pairs if kind == "prediction" and name in wanted)
        if len(seen) == len(wanted) or time.monotonic() > deadline:
            return seen
        time.sleep(1)


def report(
    parts: Resources,
    answers: Sequence[LoadAnswer],
    *,
    began: dt.datetime,
    before: dict[str, float],
    rollbacks: Sequence[float],
    waiting: float,
) -> int:
    """Print the figures; return 1 where a promise was broken."""
    told = [answer for answer in answers if answer.status == 200]
    failed = Counter(f"{answer.status} {answer.model_version}".strip() for answer in answers if answer.status != 200)
    grown = {name: int(count - before[name]) for name, count in accounts(parts).items()}
    balanced = grown["served"] == grown["logged"] + grown["dropped"] + grown["failed"] == len(told)
    seen = logged_ids(parts, told, since=utc_now().date() - dt.timedelta(days=1))
    lost, twice = len(told) - len(seen), sum(1 for count in seen.values() if count > 1)
    entrypoints.monitor(PROJECT, attempt=Attempt(f"outage__{utc_now():%Y%m%dT%H%M%S}", "monitor"), parts=parts)
    unnoted = waiting_notes(parts)
    violations = verify_installation().violations
    records = ServingRepository(parts.database).records(PROJECT)
    num_moves = sum(1 for record in records if record.reason == REASON and record.created_at >= began)
    p50, p99, longest = np.percentile([answer.seconds * 1e3 for answer in answers], [50, 99, 100])
    print(
        f"{dt.datetime.now(dt.UTC).date()}, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    print(f"{len(answers):,} requests, {sum(failed.values())} failed {dict(failed) or ''}")
    print(f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {longest:.0f} ms")
    counted = ", ".join(f"{name} {count:,}" for name, count in grown.items())
    print(f"gateway: {counted}; {waiting / 1e6:.1f} MB waited for S3")
    print(f"in the bucket: {len(seen):,} of {len(told):,} told ids, {lost} lost, {twice} twice")
    print(
        f"rollbacks (the whole command) {', '.join(f'{taken:.1f} s' for taken in rollbacks)}; not noted {unnoted or 0}"
    )
    print(f"verify: {violations or 'clean'}")
    wrong = failed or not balanced or lost or twice or unnoted or violations
    return 1 if wrong or num_moves != len(rollbacks) else 0


if __name__ == "__main__":
    sys.exit(main())
