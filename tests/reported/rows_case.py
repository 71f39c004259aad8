"""A project of rows with declared columns, for the reported cases of tables."""

from __future__ import annotations

import json
import shutil

from pipeline_tasks.ingest.item_reader import read_items
from tests.reported.sources_case import DATA
from tests.unit.ingest.conftest import World

COLUMNS = "[{name: amount, type: number}, {name: country, type: category, values: [DE, FR]}]"


def declare(world: World, columns: str = COLUMNS, *, group: str = "") -> None:
    """Write the project's columns, and a group column of its source."""
    path = world.folder / "project.yaml"
    text = path.read_text()
    start, end = text.index("columns:"), text.index("sources:")
    text = f"{text[:start]}columns: {columns}\nchecks: {{max_quarantine_share: 1.0}}\n{text[end:]}"
    path.write_text(text.replace("    label_column: label ", f"{group}    label_column: label ", 1))


def ingest(world: World, *names: str) -> None:
    for name in names:
        shutil.copy(DATA / name, world.incoming / name)
    world.run()


def contents(world: World) -> dict[str, dict]:
    return {item.key: json.loads(data) for item, data in read_items(world.store, world.all().values())}


def reasons(world: World) -> list[str]:
    return [entry.reason for entry in world.items.quarantined("some_rows")]
