"""One trained model under each `serving.runtime`: accuracy, size, and the time of a pass.

    python benchmarks/runtimes.py            the demo's photos: 6,000 to train with, 3,000 as the exam (1 minute)

The weights are trained once; each runtime's files are made and loaded as training and gate do it. Times are CPU time
of one thread, the runtimes in alternating order, medians of five rounds.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline_tasks.contracts import Runtime
from pipeline_tasks.models.artifact import LoadedModel, load, save
from pipeline_tasks.models.registry import find_recipe
from pipeline_tasks.project.loader import load_project
from pipeline_tasks.training.dataset import InnerSplit
from pipeline_tasks.training.decoded_inputs import decode_inputs
from pipeline_tasks.training.loop import FitPlan, TrainingData, fit
from pipeline_tasks.training.task import origin_of, pack_for_runtime
from tests.model_configs import config_of

ROOT = Path(__file__).resolve().parents[1]
NUM_TRAIN, NUM_VALIDATION = 6000, 600
RUNTIMES: tuple[Runtime, ...] = ("eager", "amp", "onnx", "onnx-int8")
SIZES = (1, 8, 32)
ROUNDS = 5
SECONDS = 0.2


def photos() -> tuple[list[bytes], np.ndarray]:
    """Return the demo's photos as PNG, and their classes."""
    folder = ROOT / "projects" / "fashion" / "data"
    images, labels = (
        np.frombuffer(gzip.decompress((folder / f"{name}.gz").read_bytes()), np.uint8)
        for name in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    return [png(pixels) for pixels in images[16:].reshape(-1, 28, 28)], labels[8:].astype(np.int64)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def main() -> int:
    project = load_project(ROOT / "projects" / "fashion").config
    entry = find_recipe(project.recipe.name)
    params = entry.recipe.resolve(project.recipe.params)
    payloads, targets = photos()
    with tempfile.TemporaryDirectory(prefix="dethrone-runtimes-") as scratch:
        folder = Path(scratch)
        inputs = decode_inputs(
            lambda: enumerate(payloads),
            num_rows=len(payloads),
            decode=lambda data: entry.recipe.decode(data, preprocessing=entry.recipe.preprocessing(params)),
            folder=folder,
            key="photos",
        )
        rows = np.arange(NUM_TRAIN)
        split = InnerSplit(train=rows[:-NUM_VALIDATION], validation=rows[-NUM_VALIDATION:])
        classes = tuple(project.labels.classes)
        data = TrainingData(inputs, targets, np.ones(len(payloads), np.float32), split, classes)
        module, _ = fit(entry.recipe, data, FitPlan(params, params["epochs"], project.recipe.seed, 1, "cpu"))
        config = config_of(entry, recipe=project.recipe.name, params=params, classes=classes, project=project.name)
        models: dict[str, LoadedModel] = {}
        for runtime in RUNTIMES:
            made = pack_for_runtime(
                entry.recipe,
                module,
                data,
                config=dataclasses.replace(config, runtime=runtime),
                origin=origin_of(code_revision="c1", device="cpu"),
                metrics={},
            )
            save(made, folder / runtime)
            models[runtime] = load(folder / runtime)
        exam = list(range(NUM_TRAIN, len(payloads)))
        say(report(models, inputs.take(exam), targets[exam], folder=folder))
    return 0


def report(models: dict[str, LoadedModel], items: list[np.ndarray], targets: np.ndarray, *, folder: Path) -> str:
    """Return a Markdown table: a line per runtime."""
    answers = {name: answer(model, items) for name, model in models.items()}
    times = measure(models, items)
    lines = [
        f"{len(items):,} exam items",
        "",
        "| runtime | accuracy | other answers than eager | largest difference | files, MB | "
        + " | ".join(f"us an item, pass of {size}" for size in SIZES)
        + " |",
        "|---" * (5 + len(SIZES)) + "|",
    ]
    for name, answer_nc in answers.items():
        accuracy = float((answer_nc.argmax(axis=1) == targets).mean())
        others = int((answer_nc.argmax(axis=1) != answers["eager"].argmax(axis=1)).sum())
        difference = float(np.abs(answer_nc - answers["eager"]).max())
        size = sum(path.stat().st_size for path in (folder / name).iterdir()) / 1e6
        cells = " | ".join(f"{times[name, count]:.0f}" for count in SIZES)
        lines.append(f"| `{name}` | {accuracy:.4f} | {others} | {difference:.1g} | {size:.2f} | {cells} |")
    return "\n".join(lines)


def answer(model: LoadedModel, items: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([model.predict(items[start : start + 256]) for start in range(0, len(items), 256)])


def measure(models: dict[str, LoadedModel], items: list[np.ndarray]) -> dict[tuple[str, int], float]:
    """Return the CPU microseconds of an item by runtime and size of the pass."""
    import torch

    torch.set_num_threads(1)
    times: dict[tuple[str, int], list[float]] = {(name, size): [] for name in models for size in SIZES}
    for number in range(ROUNDS):
        for name in models if number % 2 == 0 else reversed(models):
            for size in SIZES:
                times[name, size].append(microseconds(models[name], items[:size]))
    return {key: statistics.median(values) for key, values in times.items()}


def microseconds(model: LoadedModel, items: list[np.ndarray]) -> float:
    model.predict(items)
    began, count = time.process_time(), 0
    while time.process_time() - began < SECONDS:
        model.predict(items)
        count += len(items)
    return 1e6 * (time.process_time() - began) / count


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
