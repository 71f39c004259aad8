"""Rows whose id is of key and content: manifests, the exam and what is left out for being equal to it."""

import dataclasses
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.contracts import Location, canonical_json, keyed_item_id, sha256_hex
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.evaluation import scoring
from pipeline_tasks.training.data_loading import read_rows, read_some
from pipeline_tasks.training.dataset import rows_of
from pipeline_tasks.validation import leakage, manifest
from pipeline_tasks.validation.task import build_snapshot, check_items, open_exam, plan_training, read_manifest
from tests.unit.validation.builders import CLASSES, NOW, Scene

POLICIES = ["exclude", "off"]


@pytest.fixture(params=POLICIES)
def scene(request, database, object_store, tmp_path) -> Scene:
    source = {"type": "table", "path": "rows", "key_column": "id", "content_columns": ["a"], "name": "folder"}
    gate = {"exam": {"min_items": 10, "near_duplicates": {"policy": request.param}}}
    checks = {"min_rows": 2}
    return Scene(database, object_store, tmp_path, modality="tabular", sources=[source], gate=gate, checks=checks)


def add(scene: Scene, key: str, value: float, *, split: str) -> str:
    data = canonical_json({"a": value})
    content = sha256_hex(data)
    item_id = keyed_item_id(key, content)
    scene.store.put(f"packs/{content}", data)
    row = {
        "project": "pets",
        "item_id": item_id,
        "content_id": content,
        "source": "folder",
        "key": key,
        "group_key": key,
        "media_type": "application/json",
        "object_key": f"packs/{content}",
        "offset": 0,
        "size_bytes": len(data),
        "split": split,
        "origin": "source",
        "source_label": None,
        "batch_id": "b1",
        "arrived_at": NOW,
    }
    scene.insert(t.items, row)
    scene.decide(item_id, CLASSES[int(key[1:]) % 2])
    return item_id


@pytest.fixture
def frozen(scene):
    """Return an exam of rows 0 to 9 and a snapshot of 0 to 19 and twice 20, whose first ten equal the exam's."""
    exam = [add(scene, f"e{number}", number, split="exam") for number in range(10)]
    trained = [add(scene, f"t{number}", number, split="train") for number in range(20)]
    trained += [add(scene, f"u{number}", 20, split="train") for number in range(2)]
    refs = open_exam(scene.project, **scene.freezing)
    return scene, exam, trained, refs


def test_a_training_row_that_equals_an_exam_row_is_left_out_by_name(frozen):
    scene, _exam, trained, refs = frozen
    snapshot = build_snapshot(scene.project, **scene.freezing)
    table = read_manifest(scene.store, snapshot)
    assert table["item_id"].to_pylist() == sorted(trained[10:]), "equal rows among those trained on stay, each"
    assert leakage.find_leaks(scene.project, snapshot, refs, store=scene.store) == []
    assert scene.datasets.set_aside("pets", "EQUAL_TO_EXAM") == set(trained[:10])
    options = {"datasets": scene.datasets, "store": scene.store}
    assert plan_training(scene.project, **options).num_new_labels == 0, "left out for good is not new for ever"


def test_the_gate_finds_equal_rows_under_other_keys(frozen):
    scene, exam, trained, refs = frozen
    table = manifest.build_manifest(scene.datasets.decided("pets", "train"))
    key = "snapshots/x"
    scene.store.put(key, manifest.to_parquet(table))
    snapshot = dataclasses.replace(build_snapshot(scene.project, **scene.freezing), snapshot_id="x", object_key=key)
    leaks = leakage.find_leaks(scene.project, snapshot, refs, store=scene.store)
    pairs = {(leak.item_id, leak.trained_item_id, leak.kind) for leak in leaks}
    assert pairs == {(item_id, other, "exact") for item_id, other in zip(exam, trained[:10], strict=True)}


def test_bytes_are_checked_by_their_content(frozen):
    scene, exam, trained, refs = frozen
    assert check_items(scene.project, "b1", **scene.arguments).severity == "ok"
    held = scoring.read_exam(scene.store, refs[0])
    payloads = scoring.read_checked(held.items, read=lambda places: [scene.store.get(at.object_key) for at in places])
    assert sorted(json.loads(payload)["a"] for payload in payloads) == list(range(10))
    assert [item.item_id for item in held.items] == sorted(exam)
    rows = rows_of(read_manifest(scene.store, build_snapshot(scene.project, **scene.freezing)))
    assert sorted(json.loads(data)["a"] for _, data in read_rows("pets", rows, store=scene.store)) == [
        *range(10, 20),
        20,
        20,
    ]
    other = dataclasses.replace(rows[0], location=Location(f"packs/{sha256_hex(canonical_json({'a': 1}))}", 0, 7))
    with pytest.raises(
        DataCorrupt, match=f"must hold the bytes of item {rows[0].item_id}, which hash to {rows[0].content_id}"
    ):
        list(read_some("pets", [other], store=scene.store))
    assert set(trained) > {row.item_id for row in rows}


def test_a_manifest_without_such_rows_is_what_it_was(scene):
    """Old snapshots and exams keep their ids and their bytes."""
    columns = scene.datasets.decided("pets", "train").column_names
    row = {"item_id": "i", "content_id": "i", "label": "cat", "split": "train", "group_key": "g", "object_key": "o"}
    row |= {"offset": 0, "size_bytes": 1, "media_type": "m", "version": 1, "method": "single", "annotators": ["a"]}
    row |= {"agreement": 1.0, "source": "s", "origin": "source", "key": "k", "arrived_at": NOW}
    plain = manifest.build_manifest(pa.table({name: [row[name]] for name in columns}))
    keyed = manifest.build_manifest(pa.table({name: [row[name]] for name in columns} | {"content_id": ["c"]}))
    stored = [pq.read_schema(io.BytesIO(manifest.to_parquet(table))) for table in (plain, keyed)]
    assert stored == [manifest.SCHEMA, manifest.KEYED_SCHEMA]
    assert manifest.manifest_id(plain) == "81905f323ab42504970872407338a8151e3c00b814577c1734205fdbe1ead396"
    assert len({manifest.manifest_id(plain), manifest.manifest_id(keyed)}) == 2
    assert len({manifest.exam_id(plain), manifest.exam_id(keyed)}) == 2
    for table in (plain, keyed):
        assert manifest.from_parquet(manifest.to_parquet(table), object_key="k").equals(table.unify_dictionaries())
