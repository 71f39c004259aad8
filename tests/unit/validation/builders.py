"""A small project with items and labels in a catalog, written row by row."""

import datetime as dt
import io
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.datasets import DatasetRepository
from pipeline_tasks.contracts import Attempt, sha256_hex
from pipeline_tasks.project.schema import LoadedProject, Project

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
CLASSES = ("cat", "dog")
RECIPES = {
    "image": {"name": "image_cnn"},
    "text": {"name": "text_bow"},
    "tabular": {"name": "tabular_mlp", "params": {"numbers": ["a"]}},
}


def loaded_project(folder: Path, *, modality="image", **overrides) -> LoadedProject:
    """Return a valid project; keyword arguments are sections of project.yaml."""
    document = {
        "name": "pets",
        "modality": modality,
        "sources": [{"type": "folder", "path": "data"}],
        "labels": {"classes": list(CLASSES)},
        "recipe": RECIPES[modality],
        "checks": {"min_rows": 4, "min_per_class": 1},
        "gate": {"exam": {"min_items": 10}},
    }
    folder.mkdir(parents=True, exist_ok=True)
    config = Project.model_validate(document | overrides)
    return LoadedProject(config=config, folder=folder, labeling_xml="<View/>")


def png(seed: int, *, side: int = 4) -> bytes:
    """Return a small grey image that differs by seed."""
    pixels_hw = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels_hw).save(buffer, format="PNG")
    return buffer.getvalue()


class Scene:
    """A catalog and an object store being filled by a test."""

    def __init__(self, database, store, folder: Path, **overrides) -> None:
        self.database = database
        self.store = store
        self.folder = folder
        self.project = loaded_project(folder / "pets", **overrides)
        self.datasets = DatasetRepository(database)

    def add_item(
        self, data: bytes, *, split="train", batch_id="b1", group=None, media_type="image/png", key=None
    ) -> str:
        item_id = sha256_hex(data)
        object_key = f"items/pets/{item_id[:2]}/{item_id}"
        self.store.put(object_key, data)
        row = {
            "project": "pets",
            "item_id": item_id,
            "source": "folder",
            "key": key or f"{item_id[:8]}.png",
            "group_key": group or item_id,
            "media_type": media_type,
            "object_key": object_key,
            "offset": 0,
            "size_bytes": len(data),
            "split": split,
            "origin": "source",
            "source_label": None,
            "batch_id": batch_id,
            "arrived_at": NOW,
        }
        self.insert(t.items, row)
        return item_id

    def decide(
        self, item_id: str, label: str | None, *, version=1, status="decided", method="single", annotators=("ann",)
    ) -> None:
        row = {
            "project": "pets",
            "item_id": item_id,
            "version": version,
            "status": status,
            "label": label,
            "method": method,
            "annotation_ids": [],
            "annotators": list(annotators),
            "agreement": 1.0,
            "schema_version": 1,
            "decided_at": NOW,
        }
        self.insert(t.label_decisions, row)

    def add_labeled(self, count: int, *, split="train", start=0, label=None) -> list[str]:
        """Add items with labels that alternate between the classes."""
        ids = [self.add_item(png(start + index), split=split) for index in range(count)]
        for index, item_id in enumerate(ids):
            self.decide(item_id, label or CLASSES[index % 2])
        return ids

    def insert(self, table, row) -> None:
        with self.database.write() as connection:
            connection.execute(table.insert(), row)

    def serve(self, snapshot_id: str, *, generation=1, version="m1") -> None:
        """Make a model of this snapshot the champion."""
        model = {
            "project": "pets",
            "version": version,
            "training_key": version,
            "recipe": "image_cnn",
            "params": {},
            "snapshot_id": snapshot_id,
            "object_key": "-",
            "digest": "-",
            "metrics": {},
            "seed": 0,
            "lock_hash": "-",
            "code_revision": "-",
            "tracker": {},
            "run_id": "r",
            "created_at": NOW,
        }
        route = {
            "project": "pets",
            "generation": generation,
            "commit_id": f"c{generation}",
            "parent_commit_id": None,
            "attempt": "a",
            "action": "promote",
            "champion_version": version,
            "verdict_id": f"v-{version}",
            "body": {},
            "actor": "test",
            "reason": "",
            "created_at": NOW,
        }
        self.insert(t.model_versions, model)
        self.insert(t.routes, route)

    @property
    def arguments(self) -> dict:
        return {
            "datasets": self.datasets,
            "store": self.store,
            "docs_dir": self.folder / "data-docs",
            "run_id": "run-1",
            "now": NOW,
        }

    @property
    def freezing(self) -> dict:
        return self.arguments | {"database": self.database, "attempt": Attempt("run-1", "snapshot")}
