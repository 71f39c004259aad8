"""The models and items of `benchmarks/serving.py`; as a program, the in-process limit of one.

python benchmarks/serving_models.py KIND FOLDER SECONDS     prints items per CPU second of a few windows, as JSON
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pipeline_tasks.contracts import Runtime
    from pipeline_tasks.models.artifact import ModelConfig, Origin

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
CLASSES = tuple(f"class {number}" for number in range(10))
NUM_ITEMS = 64
BATCH = 32
WINDOWS = 3
WORDS = ("train", "gate", "model", "label", "exam", "route", "swap", "drift", "queue", "batch", "release", "item")
IMAGE_PARAMS = {"image_size": 64, "channels": 3, "width": 32, "hidden": 376}


def tag_of(kind: str, runtime: Runtime) -> str:
    """Return the tag of a model's bento."""
    return f"dethrone_benchmark_{kind}:{runtime}"


def folder_of(scratch: Path, runtime: Runtime) -> Path:
    """Return where a model version's files lie; the eager one's folder is every peer's."""
    return scratch / ("model" if runtime == "eager" else f"model-{runtime}")


def build(kind: str, scratch: Path, *, runtimes: Iterable[Runtime]) -> None:
    """Write an untrained model version and its bento for each runtime, all of the same weights."""
    import torch

    from pipeline_tasks.models.artifact import Origin
    from pipeline_tasks.models.registry import find_recipe, recipe_from_source
    from tests.model_configs import config_of

    torch.manual_seed(0)
    torch.set_num_threads(1)
    if kind == "image":
        entry, params = find_recipe("image_cnn"), IMAGE_PARAMS
    else:
        source = Path(__file__).with_name(f"serving_{kind}_recipe.py").read_text()
        entry, params = recipe_from_source(source), {}
    recipe = entry.recipe
    params = recipe.resolve(params)
    config = config_of(
        entry,
        recipe="image_cnn" if kind == "image" else "recipe.py",
        params=params,
        classes=CLASSES,
        project="benchmark",
    )
    origin = Origin(code_revision="c1", torch_version=torch.__version__, device="cpu")
    module = recipe.build(params, len(CLASSES))
    sys.stdout.write(f"{kind}: {sum(value.numel() for value in module.parameters()):,} parameters\n")
    for runtime in sorted(runtimes):
        _build_one(kind, scratch, recipe, module, config=dataclasses.replace(config, runtime=runtime), origin=origin)


def _build_one(kind: str, scratch: Path, recipe: Any, module: Any, *, config: ModelConfig, origin: Origin) -> None:
    from pipeline_tasks.deployment.bento_builder import build_bento
    from pipeline_tasks.models.artifact import pack, save

    folder, exported, facts = folder_of(scratch, config.runtime), None, {}
    if config.runtime != "eager":
        from pipeline_tasks.training.onnx_export import export_module

        raw = raw_items(kind)
        inputs = [recipe.decode(item, preprocessing={}) for item in raw] if kind == "text" else pixels(raw)
        made = export_module(recipe, module, runtime=config.runtime, signature=config.signature, items=inputs)
        exported, facts = made.data, made.facts
    save(pack(module, config=config, origin=origin, metrics={"export": facts}, exported=exported), folder)
    tag = tag_of(kind, config.runtime)
    build_bento(folder, tag=tag, labels={}, bentoml_home=scratch / "bentoml")
    tuning = scratch / "bentoml" / "models" / tag.replace(":", "/") / "serving.json"
    sys.stdout.write(f"{tag}: {facts} {' '.join(tuning.read_text().split())}\n")


def raw_items(kind: str) -> list[bytes]:
    """Return the items as every server gets them: pixels, or UTF-8 text of 16 to 56 words."""
    generator = np.random.default_rng(0)
    if kind == "text":
        lengths = generator.integers(16, 57, NUM_ITEMS)
        return [
            " ".join(f"{WORDS[integer % 12]}{integer}" for integer in generator.integers(0, 5000, n)).encode()
            for n in lengths
        ]
    return [generator.integers(0, 256, (3, 64, 64), dtype=np.uint8).tobytes() for _ in range(NUM_ITEMS)]


def items(kind: str, scratch: Path, *, runtime: Runtime) -> tuple[list[bytes], list[list[float]]]:
    """Return the items and the offline path's answers, by the same runtime."""
    from pipeline_tasks.models.artifact import load

    model, raw = load(folder_of(scratch, runtime)), raw_items(kind)
    return raw, model.predict(decoded(model, kind, raw)).tolist()


def decoded(model: Any, kind: str, raw: list[bytes]) -> list[np.ndarray]:
    """Return the items as the model takes them."""
    if kind == "text":
        return [model.decode(item) for item in raw]
    return pixels(raw)


def pixels(raw: list[bytes]) -> list[np.ndarray]:
    """Return images as the model takes them."""
    return [np.frombuffer(item, np.uint8).reshape(3, 64, 64) for item in raw]


def measure_limit(kind: str, scratch: Path, *, seconds: float) -> list[float]:
    """Return the items per CPU second of a batch of 32 that is ready in memory, in a few windows."""
    import torch

    from pipeline_tasks.models.artifact import load

    torch.set_num_threads(1)
    model: Any = load(scratch / "model")
    batches = np.array_split(model.recipe.collate(decoded(model, kind, raw_items(kind))), NUM_ITEMS // BATCH)
    for batch in batches:
        model.recipe.predict_batch(model.module, batch)
    rates = []
    for _ in range(WINDOWS):
        began, cpu, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - began < seconds / WINDOWS:
            for batch in batches:
                model.recipe.predict_batch(model.module, batch)
                count += len(batch)
        rates.append(count / (time.process_time() - cpu))
    return rates


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure_limit(sys.argv[1], Path(sys.argv[2]), seconds=float(sys.argv[3]))) + "\n")
