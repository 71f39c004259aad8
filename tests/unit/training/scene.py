"""A small image project whose classes are told apart by the direction of stripes, with a snapshot in a store."""

from __future__ import annotations

import datetime as dt
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.model_versions import ModelRepository
from pipeline_tasks.contracts import Attempt, SnapshotRef, content_id, sha256_hex
from pipeline_tasks.project.schema import LoadedProject, Project
from pipeline_tasks.training import task
from tests.fakes_tracking import FakeTracker

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
CLASSES = ("across", "down", "flat")
SIDE = 12
PARAMS = {
    "image_size": SIDE,
    "width": 4,
    "hidden": 16,
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 0.02,
    "dropout": 0.1,
}


def stripes(label: str, *, seed: int) -> np.ndarray:
    """Return a noisy image_hw of the class."""
    generator = np.random.default_rng([seed, CLASSES.index(label)])
    wave = 80 * np.sin(np.arange(SIDE) * 2 + generator.uniform(0, 6))
    pattern = {"across": wave[:, None], "down": wave[None, :], "flat": np.zeros((1, 1))}[label]
    return np.clip(128 + pattern + generator.normal(0, 20, (SIDE, SIDE)), 0, 255).astype(np.uint8)


def png(image_hw: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_hw).save(buffer, "PNG")
    return buffer.getvalue()


def project_of(folder: Path, *, params=None, runtime="eager", gate=None, **recipe) -> LoadedProject:
    """Return the project; keyword arguments are keys of project.yaml's recipe."""
    document = {
        "name": "stripes",
        "modality": "image",
        "sources": [{"type": "folder", "path": "data"}],
        "labels": {"classes": list(CLASSES)},
        "recipe": {"name": "image_cnn", "params": PARAMS | (params or {}), "seed": 3, **recipe},
        "serving": {"runtime": runtime},
        "gate": gate or {},
    }
    return LoadedProject(config=Project.model_validate(document), folder=folder, labeling_xml="<View/>")


def fill(store, *, num_rows: int = 90, payloads: list[bytes] | None = None) -> pa.Table:
    """Put items into one pack and return the manifest; one row in ten is of the exam."""
    labels = [CLASSES[row % 3] for row in range(num_rows)]
    data = payloads or [png(stripes(label, seed=row)) for row, label in enumerate(labels)]
    pack = b"".join(data)
    key = f"packs/stripes/{sha256_hex(pack)[:2]}/{sha256_hex(pack)}.pack"
    store.put(key, pack)
    offsets = np.cumsum([0, *map(len, data)])
    return pa.table(
        {
            "item_id": [sha256_hex(payload) for payload in data],
            "label": labels[: len(data)],
            "split": ["exam" if row % 10 == 9 else "train" for row in range(len(data))],
            "group_key": [f"group {row}" for row in range(len(data))],
            "object_key": [key] * len(data),
            "offset": offsets[:-1],
            "size_bytes": [len(payload) for payload in data],
        }
    )


def snapshot_of(manifest: pa.Table) -> SnapshotRef:
    snapshot_id = content_id(manifest.to_pydict())
    return SnapshotRef("stripes", snapshot_id, f"snapshots/stripes/{snapshot_id}/manifest.parquet", len(manifest), 1)


class Scene:
    """The arguments of a call of the train stage, with defaults."""

    def __init__(self, database: Database, store, folder: Path, **project) -> None:
        self.database = database
        self.store = store
        self.folder = folder
        self.options = project
        self.project = project_of(folder, **project)
        self.manifest = fill(store)
        self.models = ModelRepository(database)
        self.tracker = FakeTracker()

    def train(self, *, number: int = 1, run_id: str = "run-1", params=None, **overrides):
        project = project_of(
            self.folder, **{**self.options, "params": {**self.options.get("params", {}), **(params or {})}}
        )
        arguments = {
            "store": self.store,
            "tracker": self.tracker,
            "attempt": Attempt(run_id, "train", number),
            "database": self.database,
            "now": NOW,
            "scratch": self.folder / "scratch",
            "lock_hash": "lock",
            "code_revision": "abc",
            "threads": 1,
            "device": "cpu",
        }
        return task.train(
            project if params else self.project, snapshot_of(self.manifest), self.manifest, **(arguments | overrides)
        )


def open_database(url: str) -> Database:
    """Open a catalog in this process; a connection must not cross a fork."""
    return Database(create_engine(url))
