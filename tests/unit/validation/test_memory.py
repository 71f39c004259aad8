"""Stages hold no Python objects for each row of a batch, and a bounded number of bytes in Arrow's tables.

The peaks of two sizes are compared, so what a process needs anyway does not count. An id alone is 113 bytes as a string
of Python's.
"""

import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace

import pyarrow as pa
import pytest

from data_checks import runner
from pipeline_tasks.catalog import datasets as catalog
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.contracts import canonical_json, sha256_hex
from pipeline_tasks.models.registry import recipe_for
from pipeline_tasks.training import data_loading, dataset
from pipeline_tasks.validation import check_tables, fingerprints, items, leakage, manifest
from pipeline_tasks.validation.task import build_snapshot, check_items, open_exam, plan_training, read_manifest
from tests.fakes import FakeObjectStore
from tests.unit.validation.builders import NOW, Scene

ROWS_AT_ONCE, SMALL, LARGE = 250, 1_000, 3_000
AT_ONCE = {
    catalog: ("ROWS_AT_ONCE",),
    fingerprints: ("ROWS_OF_A_GROUP",),
    check_tables: ("ROWS_AT_ONCE",),
    items: ("CHUNK_ROWS",),
    leakage: ("READ_AT_ONCE", "PART_ITEMS"),
    manifest: ("ROWS_AT_ONCE", "ROWS_OF_A_GROUP"),
    dataset: ("ROWS_AT_ONCE",),
    data_loading: ("READ_AT_ONCE",),
}
POOLS: list[pa.MemoryPool] = []  # what was allocated from a pool must not outlive it
# Bytes for each further row: of Python and numpy (with the files that are made and, here, kept), and of Arrow.
LIMITS = {
    "check": (100, 120),
    "plan": (100, 100),
    "snapshot": (380, 300),  # of it some 250 bytes are the files, in groups of few rows
    "plan again": (150, 250),
    "train": (100, 400),
    "find leaks": (300, 400),  # of it 160 are the fingerprints, which are held once
}


def fill(scene: Scene, count: int) -> None:
    """Add labeled rows, a tenth of them for the exam, in packs of as many as are read at once."""
    item = {"project": "pets", "source": "folder", "media_type": "application/json", "origin": "source"}
    item |= {"source_label": None, "batch_id": "b1", "arrived_at": NOW}
    decision = {"project": "pets", "version": 1, "status": "decided", "method": "single", "annotation_ids": []}
    decision |= {"annotators": [], "agreement": None, "schema_version": 1, "decided_at": NOW}
    for start in range(0, count, ROWS_AT_ONCE):
        pack, places, decisions, key = b"", [], [], f"packs/pets/{start}"
        for number in range(start, start + ROWS_AT_ONCE):
            data = canonical_json({"a": number})
            ids = {"item_id": sha256_hex(data), "group_key": sha256_hex(data), "key": str(number)}
            place = {"object_key": key, "offset": len(pack), "size_bytes": len(data)}
            places.append(item | ids | place | {"split": "exam" if number % 10 == 0 else "train"})
            decisions.append(decision | {"item_id": ids["item_id"], "label": ("cat", "dog")[number % 3 == 0]})
            pack += data
        scene.store.put(key, pack)
        scene.insert(t.items, places)
        scene.insert(t.label_decisions, decisions)


def validate(frame, rules) -> dict:
    """Answer as Great Expectations would, which is too slow under tracemalloc; it must be shown a chunk at a time."""
    assert frame.size <= 20 * ROWS_AT_ONCE
    return {rule.name: SimpleNamespace(exception_info={}, success=True, result={}) for rule in rules}


def peak(stage: Callable[[], object]) -> tuple[int, int]:
    """Return the most bytes that a stage holds in Python and numpy, and in Arrow."""
    pool = pa.proxy_memory_pool(pa.system_memory_pool())
    POOLS.append(pool)
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        stage()
        return tracemalloc.get_traced_memory()[1], pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


def peaks(folder, count: int) -> dict[str, tuple[int, int]]:
    """Return the peaks of every stage on so many rows."""
    database = Database(create_engine(f"sqlite:///{folder / 'catalog.db'}"))
    t.metadata.create_all(database.engine)
    source = {"type": "table", "path": "x", "key_column": "id", "content_columns": ["a"], "name": "folder"}
    scene = Scene(database, FakeObjectStore(), folder, modality="tabular", sources=[source])
    fill(scene, count)
    open_exam(scene.project, **scene.freezing)
    options = {"datasets": scene.datasets, "store": scene.store}

    def train() -> None:
        config, ref = scene.project.config, scene.datasets.head_snapshot("pets")
        entry = recipe_for("tabular", config.recipe.name, folder=scene.folder)
        params = entry.recipe.resolve(config.recipe.params)
        plan = data_loading.LoadPlan(
            "pets", ref.snapshot_id, entry, params, tuple(config.labels.classes), folder / "inputs"
        )
        data_loading.load_data(plan, dataset.rows_of(read_manifest(scene.store, ref)), store=scene.store)

    def find_leaks() -> None:
        ref, exams = scene.datasets.head_snapshot("pets"), scene.datasets.exams("pets")
        leakage.find_leaks(scene.project, ref, exams, store=scene.store)

    return {
        "check": peak(lambda: check_items(scene.project, "b1", **scene.arguments)),
        "plan": peak(lambda: plan_training(scene.project, **options)),
        "snapshot": peak(lambda: build_snapshot(scene.project, **scene.freezing)),
        "plan again": peak(lambda: plan_training(scene.project, **options)),
        "train": peak(train),
        "find leaks": peak(find_leaks),
    }


@pytest.fixture(scope="module")
def slopes(tmp_path_factory) -> dict[str, tuple[float, float]]:
    """Bytes for each further row by stage; the first run is for what is loaded or cached once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_validate", validate)
        for module, names in AT_ONCE.items():
            for name in names:
                patch.setattr(module, name, ROWS_AT_ONCE)
        _, small, large = (peaks(tmp_path_factory.mktemp("memory"), count) for count in (SMALL, SMALL, LARGE))
    further = LARGE - SMALL
    return {name: tuple((b - a) / further for a, b in zip(small[name], large[name], strict=True)) for name in small}


@pytest.mark.parametrize("stage", LIMITS)
def test_a_stage_holds_no_more_than_columns(slopes, stage):
    python, arrow = slopes[stage]
    assert python < LIMITS[stage][0], f"{python:.0f} bytes of Python for each row"
    assert arrow < LIMITS[stage][1], f"{arrow:.0f} bytes of Arrow for each row"
