"""Peak memory of ingest at 100,000 and at 1,000,000 rows: it must not grow with them.

    python benchmarks/ingest_memory.py                  labeled rows of CSV, each ingest in a process of its own
    python benchmarks/ingest_memory.py --rows 50000 500000

Three runs at each size: everything new, nothing new (the file was touched), and every label corrected. Objects go to
files and the catalog is SQLite, so that the figure is ingest's own. Target: at most 1 GiB at 1,000,000 rows.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SIZES = (100_000, 1_000_000)
RUNS = ("new", "known", "corrected")


def write_rows(path: Path, *, count: int, labels: tuple[str, str]) -> None:
    """Write `count` different rows, labeled in turn."""
    with path.open("w") as handle:
        handle.write("id,amount,country,label\n")
        handle.writelines(
            f"r{n},{n * 7 % 9973 / 10},{('DE', 'FR', 'US')[n % 3]}{n},{labels[n % 2]}\n" for n in range(count)
        )


def child(folder: Path, batch: str) -> None:
    """Run one ingest in this process and print its peak memory and what it did as JSON."""
    from benchmarks.folder_store import FolderStore
    from pipeline_tasks.catalog import migrate
    from pipeline_tasks.catalog.database import Database, create_engine
    from pipeline_tasks.catalog.items import ItemRepository
    from pipeline_tasks.contracts import Attempt
    from pipeline_tasks.ingest.task import run
    from pipeline_tasks.project.loader import load_project

    url = f"sqlite:///{folder / 'catalog.db'}"
    migrate.upgrade(url)
    started = time.perf_counter()
    report = run(
        load_project(folder / "rows"),
        items=ItemRepository(Database(create_engine(url))),
        store=FolderStore(folder / "objects"),
        attempt=Attempt(batch, "ingest"),
        split_key="benchmark",
        environment={},
        batch_id=batch,
        now=dt.datetime.now(dt.UTC),
    )
    status = Path("/proc/self/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
    counts = {"new": report.num_new, "known": report.num_known, "corrected": report.num_labels_corrected}
    print(json.dumps({"peak_mib": round(peak), "seconds": round(time.perf_counter() - started, 1), **counts}))


def measure(count: int) -> dict[str, dict[str, float]]:
    """Return the figures of the three runs at one size."""
    from pipeline_tasks.project.scaffold import init_project

    folder = Path(tempfile.mkdtemp(prefix="bench_ingest_memory_"))
    try:
        init_project(folder, name="rows", template="tabular")
        table = folder / "rows" / "incoming" / "rows.csv"
        figures = {}
        for number, run in enumerate(RUNS):
            write_rows(table, count=count, labels=("yes", "no") if run != "corrected" else ("no", "yes"))
            os.utime(table, (number, number))
            command = [sys.executable, __file__, "--child", str(folder), "--batch", run]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
            figures[run] = json.loads(out.stdout.splitlines()[-1])
            print(f"{count:>9,} rows, {run:<9} {json.dumps(figures[run])}", file=sys.stderr, flush=True)
        return figures
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES, help="the sizes (default: 100,000 and 1,000,000)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--batch", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.batch)
        return
    figures = {count: measure(count) for count in arguments.rows}
    print("| rows | peak MiB, all new | peak MiB, nothing new | peak MiB, every label corrected |")
    print("| --- | --- | --- | --- |")
    for count, runs in figures.items():
        print(
            f"| {count:,} | " + " | ".join(f"{runs[run]['peak_mib']} ({runs[run]['seconds']} s)" for run in RUNS) + " |"
        )


if __name__ == "__main__":
    main()
