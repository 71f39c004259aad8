"""Judging an exam of 100,000 images: peak memory above the loaded models, and cost beside the bare forward passes.

    python benchmarks/judge_streaming.py            100,000 exam items, 3 rounds (about 10 minutes on 2 cores)
    python benchmarks/judge_streaming.py --quick    a fiftieth of that, one round

Two versions of the stock recipe image_cnn answer generated PNGs of 28 x 28 pixels. The store is a folder of packs as
ingest writes them (16 MiB each), in which exam items lie among nine times as many bytes of other items; it costs no
network. Memory is VmHWM of a fresh process that judges once, less its resident memory when both models are loaded and
have answered one batch. Time is of one more process: in each round the same items go through, in turn, the bare forward
passes (`predict` of both models on decoded inputs in batches of 256: stacking, network, softmax, check), the same with
each model's decoding, `scoring.answer_items` (reading and hashing too), and `task.judge` end to end.

Targets: 1 GiB; 1.2 times the CPU seconds of the forward passes with decoding, which is each model's own pre-processing.
The ratio to the passes without decoding is printed too. Both processes have one torch thread; leaks are not looked for,
which has its own figures. Exits 1 if a target is missed (at full size).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import judge_streaming_exam as stored
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MAX_GIB, MAX_RATIO = 1.0, 1.2
WALL, CPU = 0, 1
NAMES = {
    "bare": "bare forward passes of both models, inputs decoded before",
    "decoding": "the same with each model's decoding",
    "answer_items": "answer_items: with reading and hashing too",
    "judge": "judge, end to end: with latencies, evidence, rule, report too",
}
Times = dict[str, list[tuple[float, float]]]


@dataclasses.dataclass(frozen=True)
class Scene:
    """The stored exam and both loaded models."""

    store: stored.CountingStore
    exam: Any
    refs: dict[str, Any]
    models: dict[str, Any]

    def judge(self, catalog: Path) -> str:
        """Judge once with a new catalog and return the answer."""
        from pipeline_tasks.catalog import tables
        from pipeline_tasks.catalog.database import Database, create_engine
        from pipeline_tasks.contracts import Attempt
        from pipeline_tasks.evaluation.task import GateContext, judge
        from pipeline_tasks.ingest.item_reader import PlaceReader

        catalog.unlink(missing_ok=True)
        engine = create_engine(f"sqlite:///{catalog}")
        tables.metadata.create_all(engine)
        shutil.rmtree(self.store.root / "verdicts", ignore_errors=True)
        context = GateContext(
            load=lambda ref: self.models[ref.version],
            read=PlaceReader(self.store),
            find_leaks=lambda _snapshot_id, _exams: [],
            find_items=lambda _item_ids: [],
            find_groups=lambda _ref: {},
            store=self.store,
            database=Database(engine),
            attempt=Attempt("run-1", "judge", 1),
            now=stored.NOW,
        )
        champion = self.refs["champion"]
        ref = judge(project(), self.refs["contender"], [self.exam], champion=champion, context=context)
        engine.dispose()
        return f"{ref.answer} ({ref.code})"


def project() -> Any:
    """Return the least project that judges these images."""
    from pipeline_tasks.project.schema import LoadedProject, Project

    config = Project.model_validate(
        {
            "name": stored.PROJECT,
            "modality": "image",
            "sources": [{"type": "folder", "path": "."}],
            "labels": {"classes": list(stored.CLASSES)},
            "recipe": {"name": "image_cnn"},
        }
    )
    return LoadedProject(config=config, folder=ROOT, labeling_xml="<View/>")


def load_scene(root: Path) -> Scene:
    """Load both models and let each answer one batch, so that the network's own buffers are there."""
    from pipeline_tasks.contracts import ExamRef, ModelRef
    from pipeline_tasks.evaluation import scoring

    fields = json.loads((root / "refs.json").read_text())
    refs = {name: ModelRef(**fields[name]) for name in ("contender", "champion")}
    store = stored.CountingStore(root)
    models = {ref.version: scoring.load_stored(store)(ref) for ref in refs.values()}
    blank = np.zeros((1, 28, 28), dtype=np.uint8)
    for model in models.values():
        model.predict([blank] * scoring.BATCH_SIZE)
    return Scene(store, ExamRef(**fields["exam"]), refs, models)


def memory(root: Path) -> dict[str, Any]:
    """Judge once in this fresh process and return memory before and at most, in MiB."""
    from pipeline_tasks.evaluation import task  # noqa: F401  (so that imports count as loaded)
    from pipeline_tasks.ingest import item_reader  # noqa: F401

    scene = load_scene(root)
    before = status("VmRSS")
    scene.store.num_reads = scene.store.read_bytes = 0
    answer = scene.judge(root / "catalog.db")
    return {
        "loaded_mib": before,
        "peak_mib": status("VmHWM"),
        "answer": answer,
        "reads": scene.store.num_reads,
        "read_mib": scene.store.read_bytes / 2**20,
    }


def status(name: str) -> float:
    """Return a field of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def timing(root: Path, rounds: int) -> Times:
    """Return (wall, CPU) seconds of each round of each way to answer the whole exam."""
    from pipeline_tasks.evaluation import scoring
    from pipeline_tasks.ingest.item_reader import PlaceReader

    scene, size = load_scene(root), scoring.BATCH_SIZE
    models, items = list(scene.models.values()), scoring.read_exam(scene.store, scene.exam).items
    payloads = [scene.store.get_range(item.location) for item in items]
    decoded = [[model.decode(data) for data in payloads] for model in models]

    def bare() -> None:
        for model, inputs in zip(models, decoded, strict=True):
            for start in range(0, len(inputs), size):
                model.predict(inputs[start : start + size])

    def decoding() -> None:
        for model in models:
            for start in range(0, len(payloads), size):
                model.predict([model.decode(data) for data in payloads[start : start + size]])

    ways: dict[str, Callable[[], object]] = {
        "bare": bare,
        "decoding": decoding,
        "answer_items": lambda: scoring.answer_items(items, read=PlaceReader(scene.store), models=models),
        "judge": lambda: scene.judge(root / "catalog.db"),
    }
    times: Times = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(timed(way))
    return times


def timed(way: Callable[[], object]) -> tuple[float, float]:
    """Return (wall, CPU) seconds of a call; CPU is user and system time of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    way()
    return time.perf_counter() - wall, time.process_time() - cpu


def child(root: Path, part: str, *, count: int, rounds: int) -> str:
    """Run a part in a fresh process with one torch thread and return the last line that it prints."""
    sizes = ["--items", str(count), "--rounds", str(rounds)]
    command = [sys.executable, __file__, "--root", str(root), "--part", part, *sizes]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    return done.stdout.splitlines()[-1]


def report(usage: dict[str, Any], times: Times, *, count: int) -> list[str]:
    """Print the tables and return the targets that were missed."""
    above = usage["peak_mib"] - usage["loaded_mib"]
    print(f"{count:,} exam items, answer {usage['answer']}; medians of {len(times['bare'])} rounds.\n")
    print("| memory of a fresh process | MiB |\n|---|---|")
    print(f"| both models loaded, one batch answered | {usage['loaded_mib']:,.0f} |")
    print(f"| at most, while judging | {usage['peak_mib']:,.0f} |")
    print(f"| above the loaded models (target {1024 * MAX_GIB:,.0f}) | {above:,.0f} |")
    print(f"\nThe store handed out {usage['read_mib']:,.0f} MiB in {usage['reads']:,} reads.\n")
    print("| | wall s | CPU s | CPU / bare | CPU / with decoding |\n|---|---|---|---|---|")
    for name, text in NAMES.items():
        seconds = [f"{np.median([round_times[kind] for round_times in times[name]]):.1f}" for kind in (WALL, CPU)]
        ratios = [f"{ratio(times, name, base):.2f}" for base in ("bare", "decoding")]
        print(f"| {text} | {' | '.join([*seconds, *ratios])} |")
    missed = [f"memory: {above:,.0f} MiB"] if above > 1024 * MAX_GIB else []
    cost = ratio(times, "judge", "decoding")
    return missed + ([f"cost: {cost:.2f} times"] if cost > MAX_RATIO else [])


def ratio(times: Times, name: str, base: str) -> float:
    """Return the median over the rounds of CPU seconds to those of another way in the same round."""
    return float(
        np.median([round_times[CPU] / other[CPU] for round_times, other in zip(times[name], times[base], strict=True)])
    )


def main() -> int:
    """Prepare, measure in two fresh processes, print; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=("prepare", "memory", "timing"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    count, rounds = (2_000, 1) if options.quick else (options.items, options.rounds)
    if options.part is not None:
        parts = {
            "prepare": lambda: stored.prepare(options.root, count),
            "memory": lambda: memory(options.root),
            "timing": lambda: timing(options.root, rounds),
        }
        print(json.dumps(parts[options.part]()))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        child(Path(folder), "prepare", count=count, rounds=rounds)
        usage, times = (
            json.loads(child(Path(folder), part, count=count, rounds=rounds)) for part in ("memory", "timing")
        )
    missed = report(usage, times, count=count)
    print("\n" + ("; ".join(f"MISSED {line}" for line in missed) or "Both targets are met."))
    return 1 if missed and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())
