"""Peak memory of a training on many table rows, stage by stage: plan, snapshot, train, judge.

    python benchmarks/training_memory.py            100,000 and 1,000,000 labelled rows (an hour on two busy cores)
    python benchmarks/training_memory.py --quick    10,000 and 100,000

Each stage runs in a process of its own, so that peak memory (VmHWM) is its own; `imports` is a process that loads what
the stages need and does nothing. Items lie in packs of 16 MiB on this disk, the catalog is SQLite.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.folder_store import FolderStore  # noqa: E402

STAGES = ("imports", "plan", "snapshot", "train", "judge")
PARTS = ("read", "leaks")  # with --stage and --folder: the reading of train, and the longest part of judge
PROJECT = "rows"
PACK_ROWS = 8_192  # as ingest writes them
EXAM_SHARE = 0.01
NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


def project() -> Any:
    """Return a table project with ten numbers and one category."""
    from pipeline_tasks.project.schema import LoadedProject, Project

    numbers = [f"n{index}" for index in range(10)]
    document = {
        "name": PROJECT,
        "modality": "tabular",
        "sources": [{"type": "table", "path": ".", "key_column": "id", "content_columns": [*numbers, "kind"]}],
        "labels": {"classes": ["no", "yes"], "imported_in_exam": True},
        "recipe": {
            "name": "tabular_mlp",
            "params": {"numbers": numbers, "categories": {"kind": ["a", "b", "c"]}, "epochs": 1, "batch_size": 1024},
        },
    }
    return LoadedProject(config=Project.model_validate(document), folder=ROOT, labeling_xml="<View/>")


def fill(folder: Path, count: int) -> None:
    """Write `count` labelled rows into packs and the catalog."""
    import numpy as np

    from pipeline_tasks.catalog import tables as t
    from pipeline_tasks.contracts import canonical_json, sha256_hex

    database, store = parts(folder)
    t.metadata.create_all(database.engine)
    random = np.random.default_rng(1)
    item: dict[str, Any] = {"project": PROJECT, "source": "table", "media_type": "application/json", "origin": "source"}
    item |= {"source_label": None, "batch_id": "b", "arrived_at": NOW}
    decision: dict[str, Any] = {
        "project": PROJECT,
        "version": 1,
        "status": "decided",
        "method": "imported",
        "annotation_ids": [],
    }
    decision |= {"annotators": [], "agreement": None, "schema_version": 1, "decided_at": NOW}
    for start in range(0, count, PACK_ROWS):
        values = random.normal(size=(min(PACK_ROWS, count - start), 10)).round(5)
        pack, items, decisions = bytearray(), [], []
        digest = sha256_hex(str(start).encode())
        name = f"packs/{PROJECT}/{digest[:2]}/{digest}.pack"
        for index, row in enumerate(values):
            number = start + index
            fields = {f"n{at}": float(value) for at, value in enumerate(row)} | {"kind": "abc"[number % 3]}
            data = canonical_json(fields)
            item_id = sha256_hex(data)
            split = "exam" if number % round(1 / EXAM_SHARE) == 0 else "train"
            place = {"object_key": name, "offset": len(pack), "size_bytes": len(data)}
            items.append(
                {**item, **place, "item_id": item_id, "key": str(number), "group_key": item_id, "split": split}
            )
            label = "yes" if row[0] + row[1] > 0 else "no"
            decisions.append({**decision, "item_id": item_id, "label": label})
            pack += data
        store.put(name, bytes(pack))
        with database.write() as connection:
            connection.execute(t.items.insert(), items)
            connection.execute(t.label_decisions.insert(), decisions)


def parts(folder: Path) -> tuple[Any, FolderStore]:
    """Return catalog and store of a folder."""
    from pipeline_tasks.catalog.database import Database, create_engine

    return Database(create_engine(f"sqlite:///{folder / 'catalog.db'}")), FolderStore(folder / "store")


def run(stage: str, folder: Path) -> None:
    """Run one stage in this process."""
    from pipeline_tasks.adapters.wandb_tracker import WandbTracker
    from pipeline_tasks.catalog.datasets import DatasetRepository
    from pipeline_tasks.catalog.model_versions import ModelRepository
    from pipeline_tasks.contracts import Attempt, SnapshotRef
    from pipeline_tasks.evaluation import scoring
    from pipeline_tasks.evaluation import task as evaluation
    from pipeline_tasks.ingest.item_reader import PlaceReader
    from pipeline_tasks.training import dataset
    from pipeline_tasks.training import task as training
    from pipeline_tasks.validation import leakage
    from pipeline_tasks.validation import task as validation

    database, store = parts(folder)
    datasets, models, loaded = DatasetRepository(database), ModelRepository(database), project()
    shared: dict[str, Any] = {
        "store": store,
        "database": database,
        "attempt": Attempt("run", stage),
        "now": NOW,
    }

    def snapshot() -> SnapshotRef:
        ref = datasets.head_snapshot(PROJECT)
        if ref is None:
            raise LookupError("--stage snapshot comes first")
        return ref

    if stage == "plan":
        validation.plan_training(loaded, datasets=datasets, store=store)
    elif stage == "snapshot":
        frozen: dict[str, Any] = {"datasets": datasets, "docs_dir": folder / "docs", "run_id": "run", **shared}
        validation.open_exam(loaded, **frozen)
        validation.build_snapshot(loaded, **frozen)
    elif stage == "train":
        manifest = validation.read_manifest(store, snapshot())
        facts: dict[str, Any] = {"scratch": folder / "scratch", "lock_hash": "l", "code_revision": "c", "device": "cpu"}
        tracker = WandbTracker(directory=folder / "wandb", mode="disabled")
        training.train(loaded, snapshot(), manifest, tracker=tracker, **shared, **facts)
    elif stage == "read":
        dataset.rows_of(validation.read_manifest(store, snapshot()))
    elif stage == "leaks":
        leakage.find_leaks(loaded, snapshot(), datasets.exams(PROJECT), store=store)
    elif stage == "judge":
        (model,) = models.history(PROJECT)
        ref = datasets.snapshot(PROJECT, model.ref.snapshot_id)
        context = evaluation.GateContext(
            load=scoring.load_stored(store),
            read=PlaceReader(store),
            find_leaks=lambda _, refs: leakage.find_leaks(loaded, ref, refs, store=store),
            find_items=lambda _: [],
            find_groups=lambda _ref: {},
            **shared,
        )
        evaluation.judge(loaded, model.ref, datasets.exams(PROJECT), champion=None, context=context)


def peak_mib() -> float:
    """Return this process's peak resident memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status must name VmHWM.")


def measure(count: int) -> None:
    """Print the peak of each stage for so many rows."""
    with tempfile.TemporaryDirectory(prefix="training-memory-") as name:
        fill(Path(name), count)
        for stage in STAGES:
            command = [sys.executable, __file__, "--stage", stage, "--folder", name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            figures = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{count:>9,} rows  {stage:<9} {figures['peak_mib']:>7.0f} MiB  {figures['seconds']:>6.1f} s",
                flush=True,
            )


def main() -> None:
    """Measure both sizes, or run one stage as a child."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", type=int, action="append", help="instead: these numbers of rows")
    parser.add_argument("--stage", choices=(*STAGES, *PARTS))
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.stage:
        began = time.monotonic()
        run(arguments.stage, arguments.folder)
        print(json.dumps({"peak_mib": peak_mib(), "seconds": time.monotonic() - began}))
        return
    for count in arguments.rows or ((10_000, 100_000) if arguments.quick else (100_000, 1_000_000)):
        measure(count)


if __name__ == "__main__":
    main()
