"""Near duplicates of exam items: left out of snapshots, found at the gate, fingerprints computed once."""

import io

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.errors import GateClosed
from pipeline_tasks.ingest import item_reader
from pipeline_tasks.validation import fingerprints as fp
from pipeline_tasks.validation import leakage
from pipeline_tasks.validation.task import build_snapshot, open_exam, plan_training, read_manifest
from tests.unit.validation.builders import CLASSES, Scene, loaded_project, png

SIDE = 16


def written_anew(data: bytes) -> bytes:
    """Return the same pixels in another file."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, format="PNG", compress_level=0)
    assert buffer.getvalue() != data
    return buffer.getvalue()


def nearly(seed: int) -> bytes:
    """Return a photo that differs from `png(seed)` in brightness."""
    pixels = np.asarray(Image.open(io.BytesIO(png(seed, side=SIDE)))).astype(int)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels // 2 + 40, 0, 255).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def labeled(scene, data: bytes, *, label="cat", split="train", **where) -> str:
    item_id = scene.add_item(data, split=split, **where)
    scene.decide(item_id, label)
    return item_id


def photos(scene, seeds, *, split="train") -> list[str]:
    return [
        labeled(scene, png(seed, side=SIDE), label=CLASSES[index % 2], split=split) for index, seed in enumerate(seeds)
    ]


def with_policy(scene, policy: str, **settings) -> None:
    gate = {"exam": {"min_items": 10, "near_duplicates": {"policy": policy, **settings}}}
    scene.project = loaded_project(scene.folder / "pets", gate=gate)


def snapshot_items(scene, **options) -> list[str]:
    return read_manifest(scene.store, build_snapshot(scene.project, **scene.freezing, **options))["item_id"].to_pylist()


def set_aside(scene) -> list:
    with scene.database.read() as connection:
        rows = connection.execute(sa.select(t.quarantine).where(t.quarantine.c.stage == "dataset")).mappings()
        return [dict(row) for row in rows]


def dataset_check(scene):
    return next(check for check in scene.datasets.checks("pets") if check.stage == "dataset")


@pytest.fixture
def exam(scene):
    return exam_of(scene)


def exam_of(scene) -> dict[int, str]:
    """Open an exam of the photos 100 to 109, and six training photos of other things."""
    ids = photos(scene, range(100, 110), split="exam")
    open_exam(scene.project, **scene.freezing)
    photos(scene, range(6))
    return dict(zip(range(100, 110), ids, strict=True))


def test_a_near_duplicate_of_an_exam_item_is_left_out_and_told_of(scene, exam):
    first = labeled(scene, written_anew(png(100, side=SIDE)), key="anew.png")
    second = labeled(scene, nearly(103), label="dog")
    kept = snapshot_items(scene)
    assert len(kept) == 6
    assert not {first, second} & set(kept)
    rows = {row["digest"]: row for row in set_aside(scene)}
    assert set(rows) == {first, second}
    assert (rows[first]["code"], rows[first]["key"]) == ("NEAR_DUPLICATE_OF_EXAM", "anew.png")
    assert rows[first]["reason"] == (
        f"near duplicate of exam item {exam[100][:12]} (similarity 1.0000); left out of the training set"
    )
    assert exam[103][:12] in rows[second]["reason"]
    check = dataset_check(scene)
    assert (check.success, check.statistics["severity"]) == (True, "warn")
    (failure,) = check.failures
    assert (failure["rule"], failure["policy"], failure["num_failed"]) == ("NEAR_DUPLICATE_OF_EXAM", "warn", 2)
    assert set(failure["failing_ids"]) == {first, second}
    assert failure["observed"].startswith("2 of 8: ")
    assert f"{first[:12]} is like exam item {exam[100][:12]} (similarity 1.0000)" in failure["observed"]
    assert "left out of the snapshot" in failure["expected"]
    assert check.statistics["num_near_duplicates"] == 2
    pairs = {pair["trained_item_id"]: pair["item_id"] for pair in check.statistics["near_duplicates"]}
    assert pairs == {first: exam[100], second: exam[103]}
    assert first[:12] in scene.store.get(check.report_key).decode()


def test_without_near_duplicates_nothing_is_left_out_or_told(scene, exam):
    assert len(snapshot_items(scene)) == 6
    check = dataset_check(scene)
    assert (check.failures, check.statistics["severity"], check.statistics["num_near_duplicates"]) == ([], "ok", 0)
    assert set_aside(scene) == []


def test_items_of_an_older_epoch_count_too(scene, exam):
    photos(scene, range(200, 210), split="exam")
    assert open_exam(scene.project, **scene.freezing)[0].epoch == 2
    photos(scene, range(300, 310), split="exam")
    assert open_exam(scene.project, **scene.freezing)[0].epoch == 3
    copy = labeled(scene, written_anew(png(105, side=SIDE)))
    assert copy not in snapshot_items(scene)


def test_with_stop_the_run_ends(scene, exam):
    with_policy(scene, "stop")
    copy = labeled(scene, written_anew(png(100, side=SIDE)))
    with pytest.raises(GateClosed, match=f"1 of 7: {copy[:12]} is like exam item {exam[100][:12]}") as caught:
        build_snapshot(scene.project, **scene.freezing)
    assert caught.value.code == "NEAR_DUPLICATE_OF_EXAM"
    assert scene.datasets.head_snapshot("pets") is None
    assert set_aside(scene) == []
    assert "the run stops" in dataset_check(scene).failures[0]["expected"]


def test_with_off_nothing_is_compared(scene, exam):
    with_policy(scene, "off")
    copy = labeled(scene, written_anew(png(100, side=SIDE)))
    assert copy in snapshot_items(scene)
    assert not [key for key in scene.store.objects if key.startswith("fingerprints/")]
    assert dataset_check(scene).failures == []


def test_the_threshold_of_the_project_is_used(scene, exam):
    pixels = np.asarray(Image.open(io.BytesIO(png(100, side=SIDE)))).astype(int)
    noise = np.random.default_rng(1).integers(-25, 26, pixels.shape)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(buffer, format="PNG")
    similar = labeled(scene, buffer.getvalue())
    assert similar in snapshot_items(scene)
    with_policy(scene, "exclude", image_similarity=0.95)
    assert similar not in snapshot_items(scene)


def test_left_out_items_do_not_count_as_new(scene, exam):
    build_snapshot(scene.project, **scene.freezing)
    labeled(scene, written_anew(png(100, side=SIDE)))
    arguments = {"datasets": scene.datasets, "store": scene.store}
    assert plan_training(scene.project, **arguments).num_new_labels == 1
    build_snapshot(scene.project, **scene.freezing)
    assert plan_training(scene.project, **arguments).num_new_labels == 0
    with_policy(scene, "off")
    assert plan_training(scene.project, **arguments).num_new_labels == 1


def test_a_further_copy_is_told_of_though_the_snapshot_is_the_same(scene, exam):
    labeled(scene, written_anew(png(100, side=SIDE)))
    snapshot = build_snapshot(scene.project, **scene.freezing)
    later = labeled(scene, nearly(101))
    assert build_snapshot(scene.project, **scene.freezing) == snapshot
    assert later in {row["digest"] for row in set_aside(scene)}
    checks = [check for check in scene.datasets.checks("pets") if check.stage == "dataset"]
    assert sorted(check.statistics["num_near_duplicates"] for check in checks) == [1, 2]


def test_what_cannot_be_compared_is_counted(scene, exam):
    labeled(scene, b"no image at all")
    assert len(snapshot_items(scene)) == 7
    assert dataset_check(scene).statistics["num_not_compared"] == 1


def test_many_copies_are_named_up_to_ten(scene, exam):
    for seed in range(100, 110):
        labeled(scene, written_anew(png(seed, side=SIDE)))
    labeled(scene, nearly(100))
    build_snapshot(scene.project, **scene.freezing)
    observed = dataset_check(scene).failures[0]["observed"]
    assert observed.startswith("11 of 17: ")
    assert observed.endswith(" and 1 more")
    assert observed.count("is like") == 10
    assert len(set_aside(scene)) == 11


@pytest.mark.parametrize("modality", ["text", "tabular"])
def test_other_modalities_are_compared_too(database, object_store, tmp_path, modality):
    recipe = {"text": {"name": "text_bow"}, "tabular": {"name": "tabular_mlp", "params": {"numbers": ["a"]}}}[modality]
    scene = Scene(database, object_store, tmp_path, modality=modality, recipe=recipe)

    def data(index: int) -> bytes:
        return (f'{{"a": {index}.25}}' if modality == "tabular" else f"text {index} of some length").encode()

    media = "application/json" if modality == "tabular" else "text/plain"
    for index in range(16):
        split = "exam" if index >= 6 else "train"
        labeled(scene, data(index), label=CLASSES[index % 2], split=split, media_type=media)
    open_exam(scene.project, **scene.freezing)
    copy = labeled(
        scene, b'{"a": 7.250001}' if modality == "tabular" else b"TEXT 7 of   some length!", media_type=media
    )
    kept = snapshot_items(scene)
    assert len(kept) == 6
    assert copy not in kept


# Fingerprints are computed once


@pytest.fixture
def computed(monkeypatch):
    """The items whose fingerprints are computed."""
    seen = []
    original = fp.fingerprint

    def spy(data, **options):
        seen.append(data)
        return original(data, **options)

    monkeypatch.setattr(fp, "fingerprint", spy)
    return seen


def test_fingerprints_are_computed_once_per_item(scene, exam, computed):
    first = build_snapshot(scene.project, **scene.freezing)
    assert len(computed) == 16
    keys = sorted(key for key in scene.store.objects if key.startswith("fingerprints/"))
    (epoch,) = scene.datasets.exams("pets")
    assert keys == sorted(
        f"fingerprints/pets/image-2/{owner_id}.parquet" for owner_id in (first.snapshot_id, epoch.exam_id)
    )
    computed.clear()
    photos(scene, range(50, 53))
    second = build_snapshot(scene.project, **scene.freezing)
    assert len(computed) == 3
    computed.clear()
    assert leakage.find_leaks(scene.project, second, [epoch], store=scene.store) == []
    assert computed == []


def test_the_file_of_a_snapshot_holds_its_items(scene, exam):
    copy = labeled(scene, written_anew(png(100, side=SIDE)))
    snapshot = build_snapshot(scene.project, **scene.freezing)
    key = leakage.fingerprints_key(scene.project, snapshot.snapshot_id)
    stored = by_id(fp.from_parquet(scene.store.get(key), object_key=key, modality="image"))
    assert list(stored) == read_manifest(scene.store, snapshot)["item_id"].to_pylist()
    assert copy not in stored


def test_the_champions_fingerprints_are_taken_over_too(scene, exam, computed):
    base = build_snapshot(scene.project, **scene.freezing)
    scene.serve(base.snapshot_id)
    photos(scene, range(50, 54))
    build_snapshot(scene.project, **scene.freezing, window="newest")  # the head now holds four other items
    computed.clear()
    build_snapshot(scene.project, **scene.freezing)
    assert computed == []


def by_id(stored) -> dict[str, bytes | None]:
    return dict(zip(*stored.to_pydict().values(), strict=True))


def part_keys(scene) -> list[str]:
    return [key for key in scene.store.objects if "/parts/" in key]


def test_a_retry_goes_on_where_the_last_attempt_ended(scene, exam, computed, monkeypatch):
    monkeypatch.setattr(leakage, "PART_ITEMS", 2)
    original = fp.fingerprint

    def dies_at_the_fifth(data, **options):
        value = original(data, **options)
        if len(computed) == 5:
            raise TimeoutError("the task's time is over")
        return value

    with monkeypatch.context() as first_attempt:
        first_attempt.setattr(fp, "fingerprint", dies_at_the_fifth)
        first_attempt.setattr(item_reader, "READERS", 1)
        with pytest.raises(TimeoutError):
            build_snapshot(scene.project, **scene.freezing)
    assert len(part_keys(scene)) == 2
    computed.clear()
    snapshot = build_snapshot(scene.project, **scene.freezing)
    assert len(computed) == 2 + 10  # two of the six training photos, and the exam's
    assert part_keys(scene) == []
    key = leakage.fingerprints_key(scene.project, snapshot.snapshot_id)
    stored = by_id(fp.from_parquet(scene.store.get(key), object_key=key, modality="image"))
    assert stored == {item_id: original_of(scene, item_id) for item_id in snapshot_ids(scene, snapshot)}


def snapshot_ids(scene, snapshot) -> list[str]:
    return read_manifest(scene.store, snapshot)["item_id"].to_pylist()


def original_of(scene, item_id: str) -> bytes | None:
    return fp.image_fingerprint(scene.store.get(f"items/pets/{item_id[:2]}/{item_id}"), max_pixels=10**6)


def test_a_closed_gate_costs_no_fingerprint_twice(scene, exam, computed):
    with_policy(scene, "stop")
    labeled(scene, nearly(100))
    for expected in (7 + 10, 0):
        computed.clear()
        with pytest.raises(GateClosed, match="is like exam item"):
            build_snapshot(scene.project, **scene.freezing)
        assert len(computed) == expected
    assert len(part_keys(scene)) == 1


def test_the_same_items_are_the_same_part(scene, exam):
    """Two attempts at once write one object; their parts say nothing else."""
    values = {"b": b"\1" * fp.WIDTHS["image"], "a": None}
    for some in values, dict(reversed(values.items())):
        leakage._keep_part(scene.project, "training", some, store=scene.store)
    assert len(part_keys(scene)) == 1
    (kept,) = leakage._parts(scene.project, "training", store=scene.store)
    assert by_id(kept) == values
    assert leakage._parts(scene.project, "train", store=scene.store) == []


def test_a_part_that_is_gone_meanwhile_is_computed_anew(scene, exam, computed, monkeypatch):
    with_policy(scene, "stop")
    copy = labeled(scene, nearly(100))
    with pytest.raises(GateClosed):
        build_snapshot(scene.project, **scene.freezing)
    computed.clear()
    listed = scene.store.list
    monkeypatch.setattr(scene.store, "list", lambda prefix: _deleted_after(scene, list(listed(prefix))))
    with_policy(scene, "exclude")
    assert copy not in snapshot_items(scene)
    assert len(computed) == 7


def _deleted_after(scene, infos):
    scene.store.delete([info.key for info in infos if "/parts/" in info.key])
    return infos


def test_other_digits_are_other_fingerprints(scene):
    project = loaded_project(scene.folder / "pets", modality="tabular", recipe={"name": "tabular_mlp"})
    assert leakage.fingerprints_key(project, "s").startswith("fingerprints/pets/tabular-3-4/")
