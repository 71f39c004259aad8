"""Ingest of table rows with the items check in a fresh process: peak memory and time by the number of rows.

    python benchmarks/check_memory.py [--rows 1000000]

Target: under 1 GiB for 1,000,000 rows, and hardly more than for a fifth of them.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.folder_store import FolderStore

GIB = 1.0
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
PROJECT = """
name: rows
modality: tabular
sources:
  - {type: table, path: data, key_column: id, content_columns: [age, city, income], label_column: label}
labels: {classes: ["yes", "no"]}
recipe: {name: tabular_mlp, params: {numbers: [age, income]}}
serving: {top_k: 2}
"""


def write_rows(folder: Path, count: int) -> None:
    """Write so many rows, one in a thousand of which the recipe cannot read."""
    folder.mkdir(parents=True)
    with (folder / "rows.csv").open("w") as file:
        file.write("id,age,city,income,label\n")
        for index in range(count):
            age = "NA" if index % 1000 == 0 else 20 + index % 60
            file.write(f"{index},{age},city {index % 500},{index * 1.5},{'yes' if index % 3 else 'no'}\n")


def child(folder: Path) -> None:
    """Ingest the folder's rows, check them, and print seconds and peaks."""
    from pipeline_tasks.catalog import tables
    from pipeline_tasks.catalog.database import Database, create_engine
    from pipeline_tasks.catalog.datasets import DatasetRepository
    from pipeline_tasks.catalog.items import ItemRepository
    from pipeline_tasks.contracts import Attempt
    from pipeline_tasks.ingest import task as ingest
    from pipeline_tasks.project.loader import load_project
    from pipeline_tasks.validation import task as validation

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    project = load_project(folder)
    database = Database(create_engine(f"sqlite:///{folder / 'catalog.db'}"))
    tables.metadata.create_all(database.engine)
    store, started = FolderStore(folder / "store"), time.perf_counter()
    report = ingest.run(
        project,
        items=ItemRepository(database),
        store=store,
        attempt=Attempt("benchmark", "ingest"),
        split_key="key",
        environment={},
        batch_id="benchmark",
        now=NOW,
    )
    middle, ingest_mib = time.perf_counter(), peak_mib()
    check = validation.check_items(
        project,
        "benchmark",
        datasets=DatasetRepository(database),
        store=store,
        docs_dir=folder / "docs",
        run_id="benchmark",
        now=NOW,
    )
    figures = {
        "rows": report.num_new,
        "put_aside": check.num_quarantined,
        "ingest_seconds": round(middle - started, 1),
        "check_seconds": round(time.perf_counter() - middle, 1),
        "ingest_mib": ingest_mib,
        "check_mib": peak_mib(),
    }
    print(json.dumps(figures))


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measure(count: int) -> dict[str, float]:
    """Return the figures of a fresh process for so many rows."""
    with tempfile.TemporaryDirectory(prefix="dethrone-check-memory-") as temporary:
        folder = Path(temporary) / "rows"
        write_rows(folder / "data", count)
        (folder / "project.yaml").write_text(PROJECT)
        (folder / "labeling.xml").write_text(
            '<View><Table name="table" value="$row"/><Choices name="label" toName="table" required="true">'
            '<Choice value="yes"/><Choice value="no"/></Choices></View>'
        )
        command = [sys.executable, __file__, "--child", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure a fifth of the rows and all of them, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--child", type=Path)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return
    for count in (arguments.rows // 5, arguments.rows):
        print(json.dumps(figures := measure(count)), flush=True)
    reached = "met" if figures["check_mib"] < GIB * 1024 else "MISSED"
    print(f"under {GIB:g} GiB for {arguments.rows:,} rows: {reached}")


if __name__ == "__main__":
    main()
