"""Peak memory of the search for rows that an exam and a training set have in common, nearly or exactly.

    python benchmarks/leak_memory.py                     1,000,000 training rows of 32 numbers, 10,000 of the exam

Manifests and fingerprints are made up and lie on this disk; one exam row in twenty has a copy with noise. The search
runs in a process of its own, so that peak memory (VmHWM) is its own; `imports` is one that does nothing.
"""

from __future__ import annotations

import argparse
import datetime as dt
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.folder_store import FolderStore  # noqa: E402
from benchmarks.training_memory import PACK_ROWS, PROJECT, peak_mib, project  # noqa: E402
from pipeline_tasks.contracts import ExamRef, SnapshotRef  # noqa: E402
from pipeline_tasks.validation import fingerprints as fp  # noqa: E402
from pipeline_tasks.validation import leakage, manifest  # noqa: E402

COPY_EVERY, NOISE = 20, 1e-6
NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


def write(store: FolderStore, subject: str, values_nc: np.ndarray, *, random: np.random.Generator) -> None:
    """Write a manifest of so many rows, and their fingerprints."""
    count = len(values_nc)
    ids = pa.array(sorted(random.bytes(32).hex() for _ in range(count)))
    same = {"label": "no", "weight": 1.0, "split": "train", "media_type": "application/json", "decision_version": 1}
    same |= {"method": "imported", "source": "table", "origin": "source", "arrived_at": NOW}
    columns = {
        name: pa.repeat(pa.scalar(value, manifest.SCHEMA.field(name).type), count) for name, value in same.items()
    }
    columns |= {"item_id": ids, "group_key": ids, "annotators": pa.array([[]] * count, pa.list_(pa.string()))}
    rows_n = np.arange(count)
    columns |= {"object_key": pa.array([f"packs/{row // PACK_ROWS}" for row in rows_n.tolist()])}
    columns |= {"offset": pa.array(rows_n % PACK_ROWS * 200), "size_bytes": pa.array(np.full(count, 200))}
    store.put(subject, manifest.to_parquet(pa.table(columns).select(manifest.SCHEMA.names)))
    parts = [random.bytes(fp.ROW_HASH_BYTES) + row.tobytes() for row in values_nc.astype("<f4")]
    fingerprints = pa.table([ids, pa.array(parts, pa.binary())], schema=fp.SCHEMA)
    store.put(leakage.fingerprints_key(project(), subject), fp.to_parquet(fingerprints))


def fill(folder: Path, *, num_trained: int, num_exam: int) -> None:
    """Write both sides."""
    random, store = np.random.default_rng(1), FolderStore(folder)
    trained_nc, exam_nc = (random.normal(size=(count, fp.NUM_VALUES)) for count in (num_trained, num_exam))
    exam_nc[::COPY_EVERY] = trained_nc[: len(exam_nc[::COPY_EVERY])] * (1 + NOISE)
    write(store, "trained", trained_nc, random=random)
    write(store, "exam", exam_nc, random=random)


def search(folder: Path) -> str:
    """Search in this process and say what it took."""
    began = time.process_time()
    snapshot, exam = SnapshotRef(PROJECT, "trained", "trained", 0, 1), ExamRef(PROJECT, 1, "exam", "exam", 0)
    leaks = leakage.find_leaks(project(), snapshot, [exam], store=FolderStore(folder))
    return f"{len(leaks):,} exam rows found; {time.process_time() - began:.0f} s of CPU"


def main() -> None:
    """Write, search, and print the peaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--exam", type=int, default=10_000)
    parser.add_argument("--stage", choices=("fill", "imports", "search"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.stage == "fill":
        fill(chosen.folder, num_trained=chosen.rows, num_exam=chosen.exam)
    elif chosen.stage:
        said = search(chosen.folder) if chosen.stage == "search" else "nothing done"
        print(f"{chosen.stage}: {peak_mib():,.0f} MiB; {said}", flush=True)
    else:
        print(f"{chosen.rows:,} training rows, {chosen.exam:,} of the exam")
        with tempfile.TemporaryDirectory(prefix="leak-memory-") as name:
            for stage in ("fill", "imports", "search"):
                command = [sys.executable, *sys.argv, "--stage", stage, "--folder", name]
                subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
