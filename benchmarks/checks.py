"""Data checks on 1,000,000 label rows: time and peak memory in a fresh process, beside plain pandas for the same rules.

    python benchmarks/checks.py [--rows 1000000] [--bad-share 0.01]

Targets: under 60 s and under 2 GiB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

SECONDS, GIB = 60.0, 2.0
CLASSES = [f"class-{index}" for index in range(10)]


def build(rows: int, bad_share: float):
    """Return the labels and the dataset table of this many items; a share of the labels is of no known class."""
    import numpy as np
    import pandas as pd

    draw = np.random.default_rng(0)
    ids = [f"{index:064x}" for index in range(rows)]
    label = np.array(CLASSES, dtype=object)[draw.integers(0, len(CLASSES), rows)]
    label[draw.random(rows) < bad_share] = "no class"
    labels = pd.DataFrame({"item_id": ids, "label": label, "method": "single", "num_annotators": 1, "agreement": 1.0})
    good = labels[labels["label"] != "no class"]
    dataset = pd.DataFrame(
        {
            "item_id": good["item_id"],
            "label": good["label"],
            "group_key": good["item_id"],
            "weight": 1.0,
            "split": "train",
        }
    )
    return labels, dataset


def check(rows: int, bad_share: float) -> dict[str, float]:
    """Run both suites and return seconds, rows put aside and peak memory."""
    started = time.perf_counter()
    labels, dataset = build(rows, bad_share)
    built = time.perf_counter()
    import great_expectations  # noqa: F401

    from data_checks.chunks import run_suite
    from data_checks.suites import dataset_suite, labels_suite
    from pipeline_tasks.validation import check_tables

    imported = time.perf_counter()
    first = run_suite(labels, labels_suite(_project()), subject="benchmark")
    middle = time.perf_counter()
    counts = check_tables.count_classes(dataset["label"].tolist(), CLASSES)
    extra = {
        "classes": check_tables.classes_frame(counts),
        "facts": check_tables.facts_frame(leaked_items=0, leaked_groups=0, label_drift=0.0, near_duplicates=0),
    }
    second = run_suite(dataset, dataset_suite(_project()), subject="benchmark", extra=extra)
    ended = time.perf_counter()
    if not (first.success and second.success):
        raise SystemExit(f"the benchmark's rows must pass (got {first.listed()} {second.listed()})")
    return {
        "build_s": built - started,
        "import_s": imported - built,
        "labels_s": middle - imported,
        "dataset_s": ended - middle,
        "put_aside": float(len(first.quarantined)),
        "peak_gib": _peak_gib(),
    }


def plain(rows: int, bad_share: float) -> dict[str, float]:
    """Evaluate the row rules of both suites by hand: the floor that a validator adds to."""
    labels, dataset = build(rows, bad_share)
    started = time.perf_counter()
    bad = set(labels.loc[~labels["label"].isin(CLASSES), "item_id"])
    good = (
        labels["label"].notna().all()
        and (labels["num_annotators"] >= 1).all()
        and labels["agreement"].between(0, 1).all()
        and not labels["item_id"].duplicated().any()
        and not dataset["item_id"].duplicated().any()
        and dataset["label"].isin(CLASSES).all()
        and dataset["split"].isin(["train"]).all()
        and dataset["weight"].between(0, 1000).all()
        and dataset["label"].value_counts().min() >= 2
    )
    if not good:
        raise SystemExit("the benchmark's rows must pass")
    return {"plain_s": time.perf_counter() - started, "put_aside": float(len(bad)), "peak_gib": _peak_gib()}


def _project():
    from pipeline_tasks.project.schema import Project

    return Project.model_validate(
        {
            "name": "bench",
            "modality": "image",
            "sources": [{"type": "folder", "path": "x"}],
            "labels": {"classes": CLASSES},
            "recipe": {"name": "image_cnn"},
        }
    )


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def fresh(kind: str, rows: int, bad_share: float) -> dict[str, float]:
    """Run one kind in a process of its own, so that its memory is its own."""
    command = [sys.executable, __file__, "--kind", kind, "--rows", str(rows), "--bad-share", str(bad_share)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the comparison and fail if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--bad-share", type=float, default=0.01)
    parser.add_argument("--kind", choices=["check", "plain"])
    options = parser.parse_args()
    if options.kind:
        sys.path.insert(0, str(Path(__file__).parent.parent))
        print(json.dumps({"check": check, "plain": plain}[options.kind](options.rows, options.bad_share)))
        return
    figures = fresh("check", options.rows, options.bad_share)
    floor = fresh("plain", options.rows, options.bad_share)
    checking = figures["labels_s"] + figures["dataset_s"]
    total = checking + figures["import_s"]
    print(f"{options.rows:,} label rows, {options.bad_share:.1%} bad, labels suite + dataset suite")
    print(f"  with import      {total:6.1f} s   {options.rows / total:>11,.0f} rows/s")
    print(f"  without import   {checking:6.1f} s   {options.rows / checking:>11,.0f} rows/s")
    print(f"    labels suite   {figures['labels_s']:6.1f} s   {figures['put_aside']:,.0f} rows put aside")
    print(f"    dataset suite  {figures['dataset_s']:6.1f} s")
    print(f"  plain pandas     {floor['plain_s']:6.1f} s   the same row rules by hand")
    print(f"  peak memory      {figures['peak_gib']:6.2f} GiB (of which building the tables: {floor['peak_gib']:.2f})")
    if total > SECONDS or figures["peak_gib"] > GIB:
        raise SystemExit(f"the targets are {SECONDS:.0f} s and {GIB:.0f} GiB")


if __name__ == "__main__":
    main()
