"""The stored exam that judge_streaming.py judges: a folder of packs, two models, and labels for generated images."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.folder_store import FolderStore
from pipeline_tasks.contracts import Location

CLASSES = tuple(f"class-{index}" for index in range(10))
PROJECT, NOW = "bench", dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
PACK_BYTES = 16 * 1024 * 1024
OTHER_BYTES = 9
RIGHT_SHARE = 0.85
NOISE = 0.05
FIXED = {
    "split": "exam",
    "media_type": "image/png",
    "version": 1,
    "method": "consensus",
    "annotators": ["a", "b"],
    "source": "folder",
    "origin": "source",
    "arrived_at": NOW,
}


class CountingStore(FolderStore):
    """A store that counts the bytes it hands out."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.num_reads, self.read_bytes = 0, 0

    def get(self, key: str) -> bytes:
        return self._counted(super().get(key))

    def get_range(self, location: Location) -> bytes:
        return self._counted(super().get_range(location))

    def _counted(self, data: bytes) -> bytes:
        self.num_reads += 1
        self.read_bytes += len(data)
        return data


def pictures(count: int) -> Iterator[bytes]:
    """Yield different PNGs with some structure, so that they are as large and as slow to decode as real ones."""
    from PIL import Image

    random = np.random.default_rng(1)
    rows, columns = np.mgrid[0:28, 0:28]
    for number in range(count):
        a, b, c = random.random(3)
        waves = 127 + 80 * np.sin(rows * a + columns * b + 6 * c) + random.normal(0, 12, (28, 28))
        pixels = np.clip(waves, 0, 255).astype(np.uint8)
        pixels[0, :4] = list(number.to_bytes(4, "big"))
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        yield buffer.getvalue()


def write_packs(store: CountingStore, count: int) -> list[tuple[str, Any]]:
    """Write the exam's items among other bytes and return (item id, location), in the order of arrival."""
    random = np.random.default_rng(2)
    rows: list[tuple[str, Any]] = []
    pack, pending = bytearray(), list[Any]()

    def flush() -> None:
        digest = hashlib.sha256(pack).hexdigest()
        key = f"packs/{PROJECT}/{digest[:2]}/{digest}.pack"
        store.put(key, bytes(pack))
        rows.extend((item_id, Location(key, offset, size)) for item_id, offset, size in pending)
        pack.clear()
        pending.clear()

    for data in pictures(count):
        pending.append((hashlib.sha256(data).hexdigest(), len(pack), len(data)))
        pack += data + random.bytes(OTHER_BYTES * len(data))
        if len(pack) >= PACK_BYTES:
            flush()
    if pending:
        flush()
    return rows


def write_model(store: CountingStore, version: str, *, base: Any = None) -> tuple[Any, Any]:
    """Store a model of random weights (`base` and some noise, where given); return its reference and module."""
    import torch

    from pipeline_tasks.contracts import ModelRef, sha256_hex
    from pipeline_tasks.models.artifact import Origin, pack
    from pipeline_tasks.models.registry import find_recipe
    from tests.model_configs import config_of

    torch.manual_seed(len(version))
    entry = find_recipe("image_cnn")
    recipe, params = entry.recipe, entry.recipe.resolve({})
    module = recipe.build(params, len(CLASSES))
    if base is not None:
        noisy = {
            name: value + NOISE * value.std() * torch.randn_like(value)
            if value.dim() > 1 and value.numel() > 1
            else value
            for name, value in base.state_dict().items()
        }
        module.load_state_dict(noisy)
    config = config_of(entry, recipe="image_cnn", params=params, classes=CLASSES, project=PROJECT, version=version)
    artifact = pack(module, config=config, origin=Origin("c1", torch.__version__, "cpu"), metrics={})
    key = f"models/{PROJECT}/{version}"
    store.put(f"{key}/model.safetensors", artifact.weights)
    store.put(f"{key}/model.json", artifact.manifest.to_bytes())
    return ModelRef(PROJECT, version, key, sha256_hex(artifact.weights), "s1"), module


def write_exam(store: CountingStore, rows: list[tuple[str, Any]], *, champion: Any) -> Any:
    """Freeze an exam on which the champion is right on 85 % of the items."""
    from pipeline_tasks.contracts import ExamRef
    from pipeline_tasks.evaluation import scoring
    from pipeline_tasks.validation import manifest

    model, random, labels = scoring.load_stored(store)(champion), np.random.default_rng(3), []
    for start in range(0, len(rows), 512):
        batch = rows[start : start + 512]
        answers = model.predict([model.decode(store.get_range(location)) for _, location in batch]).argmax(axis=1)
        kept = random.random(len(batch)) < RIGHT_SHARE
        labels += [CLASSES[index] for index in np.where(kept, answers, random.integers(0, len(CLASSES), len(batch)))]
    columns: dict[str, list[Any]] = {name: [value] * len(rows) for name, value in FIXED.items()}
    columns |= {"item_id": [item_id for item_id, _ in rows], "label": labels}
    columns["group_key"] = columns["item_id"]
    for name in ("object_key", "offset", "size_bytes"):
        columns[name] = [getattr(location, name) for _, location in rows]
    table = manifest.build_manifest(pa.table(columns))
    exam_id = manifest.exam_id(table)
    key = f"exams/{PROJECT}/{exam_id}.parquet"
    store.put(key, manifest.to_parquet(table))
    return ExamRef(PROJECT, 1, exam_id, key, table.num_rows)


def prepare(root: Path, count: int) -> None:
    """Write items, models and the exam, and their references into refs.json."""
    store = CountingStore(root)
    rows = write_packs(store, count)
    champion, module = write_model(store, "champion")
    contender, _ = write_model(store, "contender", base=module)
    exam = write_exam(store, rows, champion=champion)
    refs = {"champion": champion, "contender": contender, "exam": exam}
    (root / "refs.json").write_text(json.dumps({name: dataclasses.asdict(ref) for name, ref in refs.items()}))
