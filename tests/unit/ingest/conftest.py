"""A project of each modality on disk, and one call that ingests it."""

from __future__ import annotations

import datetime as dt
import io
import re

import pytest
from PIL import Image

from pipeline_tasks.catalog.items import ItemRepository
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.ingest import task
from pipeline_tasks.project.loader import load_project
from pipeline_tasks.project.scaffold import init_project

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
PARAMS = "{numbers: [amount], categories: {country: [DE, FR, US]}}"
TEMPLATES = {"image": "image-classification", "text": "text-classification", "tabular": "tabular"}


def png(number: int, *, side: int = 28) -> bytes:
    """Return a small image that differs with the number."""
    image = Image.new("L", (side, side), 0)
    image.putpixel((0, 0), number % 256)
    image.putpixel((1, 0), number // 256)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def without_columns(folder) -> None:
    """Change the template for rows into a project of the time before `columns`: reading version 1."""
    path = folder / "project.yaml"
    text = re.sub(r"(?ms)^columns:.*?^sources:", "sources:", path.read_text())
    text = text.replace(
        "    label_column: label ", "    content_columns: [amount, country]\n    label_column: label ", 1
    )
    text = re.sub(r"(?m)^  name: tabular_mlp.*$", f"  name: tabular_mlp\n  params: {PARAMS}", text)
    path.write_text(text)


class World:
    """One project with its catalog and object store."""

    def __init__(self, folder, *, database, store) -> None:
        self.folder = folder
        self.incoming = folder / "incoming"
        self.items = ItemRepository(database)
        self.store = store
        self.attempts = 0
        self.environment: dict[str, str] = {}

    @property
    def project(self):
        return load_project(self.folder)

    def edit(self, old: str, new: str) -> None:
        path = self.folder / "project.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def write(self, key: str, data: bytes | str) -> None:
        path = self.incoming / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    def run(self, *, batch: str = "batch", now: dt.datetime = NOW, **options):
        self.attempts += 1
        return task.run(
            self.project,
            items=self.items,
            store=self.store,
            attempt=Attempt("run", "ingest", self.attempts),
            split_key="secret",
            environment=self.environment,
            batch_id=batch,
            now=now,
            **options,
        )

    def all(self):
        return {item.key: item for item in self.items.iterate(self.folder.name)}

    def refused(self):
        return {entry.key: entry.code for entry in self.items.quarantined(self.folder.name)}


@pytest.fixture
def world_of(tmp_path, database, object_store):
    """Return a function that makes the world of a modality."""

    def make(modality: str) -> World:
        folder = init_project(tmp_path / "projects", name=f"some_{modality}", template=TEMPLATES[modality])
        return World(folder, database=database, store=object_store)

    return make


@pytest.fixture
def images(world_of) -> World:
    return world_of("image")


@pytest.fixture
def texts(world_of) -> World:
    return world_of("text")


@pytest.fixture
def rows(world_of) -> World:
    """Return rows whose types are guessed: a project of the time before `columns`."""
    world = world_of("tabular")
    without_columns(world.folder)
    return world
