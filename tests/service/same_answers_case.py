"""Real items, models trained on them, and each way in which the project lets a model answer them."""

from __future__ import annotations

import ast
import base64
import dataclasses
import datetime as dt
import gzip
import io
import itertools
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.items import Chunk, ItemRepository
from pipeline_tasks.catalog.routes import ServingRepository
from pipeline_tasks.contracts import Attempt, Item, Location, ModelRef, Route, RouteEntry, SnapshotRef, sha256_hex
from pipeline_tasks.deployment.route_settings import route_config
from pipeline_tasks.evaluation.scoring import load_stored
from pipeline_tasks.guards.personal import DenyList
from pipeline_tasks.models.artifact import load_module
from pipeline_tasks.models.registry import find_recipe
from pipeline_tasks.orchestration.offline_predictions import predict_batch
from pipeline_tasks.project.schema import LoadedProject, Project
from pipeline_tasks.training import task
from pipeline_tasks.training.data_loading import LoadPlan, load_data
from pipeline_tasks.training.dataset import rows_of
from pipeline_tasks.training.loop import predict
from tests.fakes_tracking import FakeTracker

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
NUM_ITEMS = 1000
BATCH, PASS = 100, 8
TOKEN = "t" * 43
PHOTOS = Path(__file__).resolve().parents[2] / "projects" / "fashion" / "data"
TEXT_CLASSES = ("FunctionDef", "ClassDef")

Answers = dict[str, np.ndarray]


def photos() -> Iterator[tuple[bytes, str]]:
    """Yield the demo's photos as PNG, each with its class."""
    images, labels = (
        np.frombuffer(gzip.decompress((PHOTOS / f"{name}.gz").read_bytes()), np.uint8)
        for name in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    for pixels, label in zip(images[16:].reshape(-1, 28, 28), labels[8:], strict=True):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        yield buffer.getvalue(), str(label)


def texts() -> Iterator[tuple[bytes, str]]:
    """Yield what the standard library's authors wrote of their functions and classes, in the order of the files."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.ClassDef) else None
            if text and len(text) > 40:
                yield text.encode(), type(node).__name__


KINDS = {
    "image": (photos, "image/png", tuple("0123456789"), "image_cnn", {"epochs": 2}),
    "text": (texts, "text/plain", TEXT_CLASSES, "text_bow", {"epochs": 2, "buckets": 4096, "hidden": 0}),
}


def real_items(kind: str) -> list[tuple[bytes, str]]:
    """Return 1,000 different items with their labels."""
    unique = {sha256_hex(data): (data, label) for data, label in itertools.islice(KINDS[kind][0](), 3 * NUM_ITEMS)}
    return list(unique.values())[:NUM_ITEMS]


@dataclasses.dataclass
class Case:
    """One project with 1,000 items and a model version that was trained on them."""

    kind: str
    runtime: str
    database: Database
    store: object
    folder: Path

    def __post_init__(self) -> None:
        _, self.media_type, self.classes, recipe, params = KINDS[self.kind]
        self.name = f"{self.kind}_{self.runtime}".replace("-", "_")
        config = {
            "name": self.name,
            "modality": self.kind,
            "sources": [{"type": "folder", "path": "."}],
            "labels": {"classes": list(self.classes)},
            "recipe": {"name": recipe, "params": params},
            "serving": {"runtime": self.runtime, "top_k": len(self.classes), "requests_per_second": 1e6},
        }
        self.project = LoadedProject(config=Project.model_validate(config), folder=self.folder, labeling_xml="<View/>")
        self.items = real_items(self.kind)
        self.table = self._ingest()
        self.model = self._train()

    def _attempt(self) -> Attempt:
        return Attempt("run", self.name)

    def _ingest(self) -> pa.Table:
        """Put the items into one pack, the catalog and a manifest."""
        pack = b"".join(data for data, _ in self.items)
        key = f"packs/{self.name}/{sha256_hex(pack)[:2]}/{sha256_hex(pack)}.pack"
        self.store.put(key, pack)
        starts = np.cumsum([0, *(len(data) for data, _ in self.items)])
        columns = [
            {
                "item_id": sha256_hex(data),
                "label": label,
                "split": "train",
                "group_key": sha256_hex(data),
                "object_key": key,
                "offset": int(start),
                "size_bytes": len(data),
            }
            for (data, label), start in zip(self.items, starts[:-1], strict=True)
        ]
        rows = [
            Item(
                project=self.name,
                item_id=row["item_id"],
                source="folder",
                key=row["item_id"],
                group_key=row["group_key"],
                media_type=self.media_type,
                location=Location(key, row["offset"], row["size_bytes"]),
                arrived_at=NOW,
                split="train",
            )
            for row in columns
        ]
        fence = self.database.acquire(f"ingest/{self.name}", self._attempt(), now=NOW)
        ItemRepository(self.database).record(fence, Chunk(self.name, "folder", "b1", rows))
        return pa.Table.from_pylist(columns)

    def _train(self) -> ModelRef:
        return task.train(
            self.project,
            SnapshotRef(self.name, "s1", "snapshots/s1", NUM_ITEMS, 1),
            self.table,
            store=self.store,
            tracker=FakeTracker(),
            attempt=self._attempt(),
            database=self.database,
            now=NOW,
            scratch=self.folder / self.name,
            lock_hash="lock",
            code_revision="c",
            device="cpu",
        )

    def as_in_training(self) -> Answers:
        """Decode with the training's loader, and answer with the torch module as validation does."""
        loaded = load_stored(self.store)(self.model)
        config, rows = loaded.manifest.config, rows_of(self.table)
        recipe_code = find_recipe(config.recipe)
        plan = LoadPlan(self.name, "s1", recipe_code, config.params, config.classes, self.folder / f"again-{self.name}")
        inputs = load_data(plan, rows, store=self.store).inputs
        weights = self.store.get(f"{self.model.object_key}/model.safetensors")
        module = load_module(loaded.manifest, weights).eval()
        found_nc = predict(recipe_code.recipe, module, inputs, np.arange(len(rows)))
        return dict(zip([row.item_id for row in rows], found_nc, strict=True))

    def as_in_the_gate(self) -> Answers:
        """Answer with the stored model version in small passes, as the golden answers of a release are made."""
        model, rows = load_stored(self.store)(self.model), {}
        for start in range(0, len(self.items), PASS):
            some = [data for data, _ in self.items[start : start + PASS]]
            answers_nc = model.predict([model.decode(data) for data in some])
            rows |= dict(zip(map(sha256_hex, some), answers_nc, strict=True))
        return rows

    def ship(self, address: str) -> None:
        """Make the model version the champion, behind an inference server at the address."""
        entry = RouteEntry(f"d-{self.name}", self.model.version, address, 100)
        route = Route(self.name, 1, f"c-{self.name}", None, self.model.version, (entry,))
        facts = {"action": "promote", "attempt": "r/ship/1", "verdict_id": "v", "actor": "gate", "reason": "won"}
        ServingRepository(self.database).commit_route(route, **facts, serving=route_config(self.project), at=NOW)

    def as_batch_prediction(self) -> Answers:
        """Answer by the task of the batch_predict DAG."""
        settings = SimpleNamespace(scratch_dir=self.folder / "scratch")
        project = SimpleNamespace(config=SimpleNamespace(deny_list=DenyList()))
        parts = SimpleNamespace(
            database=self.database, store=self.store, settings=settings, project=lambda _name: project
        )
        report = predict_batch(parts, self.name, attempt=self._attempt(), batch_id=None)
        rows = pq.read_table(io.BytesIO(self.store.get(report["object_key"]))).to_pylist()
        return {row["item_id"]: np.array(row["probabilities"]) for row in rows}

    def as_served(self, gateway: str) -> Answers:
        """Ask the gateway for batches over HTTP; every class comes back with its probability."""
        rows: Answers = {}
        with httpx.Client(headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False, timeout=60) as client:
            for start in range(0, len(self.items), BATCH):
                some = [data for data, _ in self.items[start : start + BATCH]]
                document = {"items": [self._as_json(data) for data in some]}
                answer = client.post(f"{gateway}/v1/projects/{self.name}/predict:batch", json=document)
                answer.raise_for_status()
                rows |= {sha256_hex(data): self._row(row) for data, row in zip(some, results(answer), strict=True)}
        return rows

    def _as_json(self, data: bytes) -> dict[str, str]:
        return {"text": data.decode()} if self.kind == "text" else {"base64": base64.b64encode(data).decode()}

    def _row(self, prediction: dict) -> np.ndarray:
        top = {candidate["label"]: candidate["confidence"] for candidate in prediction["top"]}
        return np.array([top[label] for label in self.classes])


def results(answer: httpx.Response) -> list[dict]:
    rows = answer.json()["results"]
    assert [row["error"] for row in rows if row["error"]] == []
    return [row["prediction"] for row in rows]


def largest_difference(expected: Answers, other: Answers, *, ids: Sequence[str]) -> float:
    """Return the largest difference of any probability of the items."""
    return max(float(np.abs(expected[item_id] - other[item_id]).max()) for item_id in ids)
