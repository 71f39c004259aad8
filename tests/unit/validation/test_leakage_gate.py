"""The leaks that the gate looks for before it judges: exact and near, of every epoch."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline_tasks.contracts import ExamRef
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.validation import leakage, manifest
from pipeline_tasks.validation.task import build_snapshot, open_exam, read_manifest
from tests.unit.validation.builders import png
from tests.unit.validation.test_leakage import SIDE, exam_of, labeled, nearly, photos, with_policy, written_anew


@pytest.fixture
def exam(scene):
    return exam_of(scene)


def gated(scene, snapshot, **options):
    return leakage.find_leaks(scene.project, snapshot, scene.datasets.exams("pets"), store=scene.store, **options)


def test_the_gate_finds_exact_and_near_leaks_of_every_epoch(scene, exam):
    """The snapshot is older than the exam items that it leaks: nothing could leave them out of it."""
    trained = [labeled(scene, nearly(200)), labeled(scene, nearly(100))]
    with_policy(scene, "off")
    snapshot = build_snapshot(scene.project, **scene.freezing)
    with_policy(scene, "exclude")
    late = photos(scene, range(200, 210), split="exam")
    open_exam(scene.project, **scene.freezing)
    leaks = {leak.item_id: leak for leak in gated(scene, snapshot)}
    assert set(leaks) == {exam[100], late[0]}
    assert (leaks[late[0]].kind, leaks[late[0]].trained_item_id) == ("near", trained[0])
    assert 0.99 < leaks[late[0]].similarity <= 1


def test_the_gate_finds_an_item_that_is_in_both(scene, exam):
    snapshot = build_snapshot(scene.project, **scene.freezing)
    shared = read_manifest(scene.store, snapshot)["item_id"].to_pylist()[0]
    table = read_manifest(scene.store, snapshot)
    scene.store.put("exams/pets/leaky.parquet", manifest.to_parquet(table.slice(0, 1)))
    leaky = ExamRef("pets", 9, "leaky", "exams/pets/leaky.parquet", 1)
    for policy in ("exclude", "stop", "off"):
        with_policy(scene, policy)
        (leak,) = leakage.find_leaks(scene.project, snapshot, [leaky], store=scene.store)
        assert (leak.item_id, leak.trained_item_id, leak.kind) == (shared, shared, "exact")


def test_the_gate_looks_for_identical_items_only_with_off(scene, exam):
    labeled(scene, nearly(100))
    with_policy(scene, "off")
    snapshot = build_snapshot(scene.project, **scene.freezing)
    assert gated(scene, snapshot) == []
    with_policy(scene, "stop")
    assert [leak.item_id for leak in gated(scene, snapshot)] == [exam[100]]


def test_the_gate_names_the_likest_training_item(scene, exam):
    pixels = np.asarray(Image.open(io.BytesIO(png(100, side=SIDE))))
    noise = np.random.default_rng(0).integers(-4, 5, pixels.shape)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels.astype(int) + noise, 0, 255).astype(np.uint8)).save(buffer, format="PNG")
    labeled(scene, buffer.getvalue())
    best = labeled(scene, written_anew(png(100, side=SIDE)))
    with_policy(scene, "off")
    snapshot = build_snapshot(scene.project, **scene.freezing)
    with_policy(scene, "exclude")
    (leak,) = gated(scene, snapshot)
    assert (leak.trained_item_id, leak.similarity) == (best, 1.0)


# What is missing or changed


def test_changed_bytes_are_no_item(scene, exam):
    snapshot = build_snapshot(scene.project, **scene.freezing)
    item_id = labeled(scene, png(77, side=SIDE))
    scene.store.corrupt(f"items/pets/{item_id[:2]}/{item_id}")
    with pytest.raises(DataCorrupt, match=item_id):
        build_snapshot(scene.project, **scene.freezing)
    assert scene.datasets.head_snapshot("pets") == snapshot


def test_missing_bytes_are_named(scene, exam):
    item_id = labeled(scene, png(77, side=SIDE))
    key = f"items/pets/{item_id[:2]}/{item_id}"
    scene.store.delete([key])
    with pytest.raises(DataCorrupt, match=f"{key}.* must exist"):
        build_snapshot(scene.project, **scene.freezing)


def test_a_missing_exam_is_no_clean_bill(scene, exam):
    (epoch,) = scene.datasets.exams("pets")
    scene.store.delete([epoch.object_key])
    with pytest.raises(DataCorrupt, match=f"{epoch.object_key} must exist"):
        build_snapshot(scene.project, **scene.freezing)
