"""A kill at every crash point of ingest, in a process of its own; the next run loses nothing and doubles nothing."""

import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pipeline_tasks.catalog import tables
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.items import ItemRepository
from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.project.scaffold import init_project
from tests.unit.ingest.conftest import png

CHILD = Path(__file__).with_name("crash_child.py")
SOURCES = Path(__file__).resolve().parents[3] / "pipeline_tasks" / "ingest"
POINTS = sorted(
    {name for path in SOURCES.rglob("*.py") for name in re.findall(r'crash_point\("([^"]+)"\)', path.read_text())}
)
NUM_GOOD, NUM_BAD = 34, 4


def test_there_are_three_points_for_each_effect():
    assert POINTS == [
        "ingest.cursor.before",
        "ingest.cursor.recorded",
        "ingest.put.after",
        "ingest.put.before",
        "ingest.put.recorded",
        "ingest.quarantine.after",
        "ingest.quarantine.before",
        "ingest.quarantine.recorded",
    ]


@pytest.fixture
def world(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'catalog.db'}")
    tables.metadata.create_all(engine)
    init_project(tmp_path, name="pics", template="image-classification")
    incoming = tmp_path / "pics" / "incoming"
    for number in range(NUM_GOOD):
        (incoming / f"{number:03}.png").write_bytes(png(number))
    for number in range(NUM_BAD):
        (incoming / f"bad{number}.png").write_bytes(f"bad {number}".encode())
    (incoming / "double.png").write_bytes(png(0))
    yield tmp_path
    engine.dispose()


def ingest(folder, *, point=""):
    trace = folder / f"trace-{point}"
    trace.unlink(missing_ok=True)
    command = [sys.executable, str(CHILD), str(folder), point, str(trace)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, trace.read_text().split() if trace.exists() else []


def state(folder):
    """Return everything that a run leaves: items with their bytes, refusals, objects, cursor."""
    items = ItemRepository(Database(create_engine(f"sqlite:///{folder / 'catalog.db'}")))
    objects = {
        path.relative_to(folder / "objects").as_posix(): path.read_bytes()
        for path in (folder / "objects").rglob("*")
        if path.is_file()
    }
    kept = list(items.iterate("pics"))
    for item in kept:
        place = item.location
        data = objects[place.object_key][place.offset : place.offset + place.size_bytes]
        assert sha256_hex(data) == item.item_id
    refused = [(entry.key, entry.code, entry.object_key) for entry in items.quarantined("pics")]
    return sorted(item.item_id for item in kept), sorted(refused), objects, items.cursor("pics", "source/incoming")


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_each_point_and_another_run_end_as_one_run_does(world, point):
    code, trace = ingest(world, point=point)
    assert code == -signal.SIGKILL, "the point was passed, so the process must be dead"
    assert trace[-1] == point or point in trace
    ingest(world)
    ids, refused, objects, cursor = state(world)
    assert ids == sorted(sha256_hex(png(number)) for number in range(NUM_GOOD))
    assert Counter(code for _, code, _ in refused) == {"NOT_AN_IMAGE": NUM_BAD}
    assert cursor is not None
    assert len({sha256_hex(data) for data in objects.values()}) == len(objects), "no bytes are stored under two names"
    _, second = ingest(world)
    assert second == [], "a run with nothing new has no effect"


def test_an_undisturbed_run_passes_every_point(world):
    code, trace = ingest(world)
    assert code == 0
    assert set(trace) == set(POINTS)


def test_ten_kills_in_a_row_still_end_well(world):
    for point in (*POINTS, "ingest.put.after", "ingest.put.recorded"):
        ingest(world, point=point)
    ingest(world)
    ids, refused, _, _ = state(world)
    assert (len(ids), len(refused)) == (NUM_GOOD, NUM_BAD)
