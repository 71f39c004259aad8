"""A project of each modality with any catalog, for the reported cases of sources."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline_tasks.ingest.item_reader import read_items
from pipeline_tasks.project.scaffold import init_project
from tests.fakes import FakeObjectStore
from tests.unit.ingest.conftest import TEMPLATES, World

DATA = Path(__file__).with_name("data")
SQL = """  - type: sql
    name: shop
    url_variable: SHOP_URL
    query: {query}
    watermark_column: at
    key_column: id
    content_columns: [amount, country]
    label_column: label
"""


def make_world(folder: Path, modality: str, database) -> World:
    """Return a new project that reads its folder `incoming`, and lets any share of it be bad."""
    path = init_project(folder / "projects", name=f"some_{modality}", template=TEMPLATES[modality])
    world = World(path, database=database, store=FakeObjectStore())
    checks = "checks:\n  max_quarantine_share: 1\n  max_item_bytes: 100000\n"
    has_checks = "\nchecks:\n" in (path / "project.yaml").read_text()
    world.edit("checks:\n" if has_checks else "split:", checks if has_checks else f"{checks}split:")
    return world


def add_case(world: World, name: str, *, as_name: str | None = None) -> None:
    """Put a reported file into the project's folder."""
    shutil.copy(DATA / name, world.incoming / (as_name or name))


def contents(world: World) -> dict[str, bytes]:
    """Return the bytes of each item by its key."""
    return {item.key: data for item, data in read_items(world.store, world.all().values())}


def reasons(world: World) -> list[tuple[str, str, str]]:
    """Return key, code and reason of what was refused."""
    entries = world.items.quarantined(world.folder.name)
    return sorted((entry.key, entry.code, entry.reason) for entry in entries)
