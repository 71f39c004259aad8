"""The train stage on a small synthetic project: what it publishes, adopts, refuses and resumes."""

from __future__ import annotations

import json
import math
import multiprocessing
import signal
import time

import numpy as np
import pytest
import sqlalchemy as sa

from pipeline_tasks.catalog import tables
from pipeline_tasks.catalog.database import create_engine
from pipeline_tasks.contracts import Attempt, sha256_hex
from pipeline_tasks.errors import ConfigError, GateClosed, PermanentError, StaleAttempt
from pipeline_tasks.ingest.item_reader import read_items
from pipeline_tasks.invariants.evidence import model_violations
from pipeline_tasks.models import artifact
from pipeline_tasks.training import data_loading, loop
from tests import crash
from tests.fakes import FolderObjectStore
from tests.fakes_tracking import FakeTracker
from tests.unit.training.scene import CLASSES, NOW, Scene, fill, open_database, png, project_of, stripes


def load(scene: Scene, ref) -> artifact.LoadedModel:
    manifest, weights = (
        scene.store.get(f"{ref.object_key}/{name}") for name in (artifact.MANIFEST_NAME, artifact.WEIGHTS_NAME)
    )
    return artifact.load_bytes(manifest, weights, expected_digest=ref.digest)


def test_a_training_publishes_a_model_that_answers_right(scene):
    ref = scene.train()

    model = load(scene, ref)
    inputs = [model.decode(png(stripes(label, seed=1000 + n))) for n in range(10) for label in CLASSES]
    answers = model.predict(inputs).argmax(axis=1)
    assert (answers == np.tile([0, 1, 2], 10)).mean() >= 0.9
    assert ref.object_key == f"models/stripes/{ref.version}"
    assert model.classes == CLASSES


def test_the_record_and_the_manifest_name_the_origin(scene):
    ref = scene.train()

    record = scene.models.get("stripes", ref.version)
    config = load(scene, ref).manifest.config
    assert record.ref == ref
    assert (record.training_key, record.lock_hash, record.seed) == (config.training_key, "lock", 3)
    assert (record.code_revision, record.run_id, record.recipe) == ("abc", "run-1", "image_cnn")
    assert ref.version == config.training_key[:16]
    assert config.snapshot_id == ref.snapshot_id
    assert config.params["dropout"] == 0.1
    with scene.database.read() as connection:
        rows = connection.execute(sa.select(tables.model_versions)).mappings().all()
    assert list(model_violations("stripes", rows, scene.store)) == []
    assert record.metrics["validation"]["num_items"] + record.metrics["num_train"] == 81
    assert set(record.metrics["validation"]["per_class"]) == set(CLASSES)


def test_exam_rows_are_never_read(scene, monkeypatch):
    exam_ids = {row["item_id"] for row in scene.manifest.to_pylist() if row["split"] == "exam"}
    read = []

    def spy(store, items):
        for item, data in read_items(store, items):
            read.append(item.item_id)
            yield item, data

    monkeypatch.setattr(data_loading, "read_items", spy)
    scene.train()
    assert len(set(read)) == 81
    assert not exam_ids & set(read)


def test_the_same_training_is_adopted_not_repeated(scene):
    tracker = scene.tracker = FakeTracker()
    first = scene.train()
    second = scene.train(run_id="run-2")

    assert second == first
    assert [run.run_id for run in tracker.runs] == [f"stripes-{first.version}"]
    assert len(scene.models.history("stripes")) == 1


@pytest.mark.parametrize(
    "change",
    [{"seed": 4}, {"lock_hash": "other"}, {"threads": 2}, {"params": {"width": 3}}],
    ids=["seed", "lock", "threads", "params"],
)
def test_another_training_key_is_another_version(scene, change):
    assert scene.train().version != scene.train(**change).version


def test_two_trainings_from_nothing_give_the_same_bytes(scene, tmp_path):
    first = scene.train()
    (tmp_path / "second").mkdir()
    engine = create_engine(f"sqlite:///{tmp_path / 'second.db'}")
    tables.metadata.create_all(engine)
    other = Scene(open_database(f"sqlite:///{tmp_path / 'second.db'}"), type(scene.store)(), tmp_path / "second")
    assert other.train() == first
    engine.dispose()


def test_the_tracker_gets_one_point_per_epoch_and_the_end(scene):
    scene.tracker = FakeTracker()
    ref = scene.train()

    (run,) = scene.tracker.runs
    steps = math.ceil(scene.models.get("stripes", ref.version).metrics["num_train"] / 8)
    assert [step for step, _ in run.logged] == [steps, 2 * steps, 3 * steps]
    assert [values["epoch"] for _, values in run.logged] == [1, 2, 3]
    assert run.summaries[0]["weights_digest"] == ref.digest
    assert run.exit_codes == [0]
    assert scene.models.get("stripes", ref.version).tracker == {"mode": "fake", "run_id": run.run_id}


def test_scratch_is_empty_after_a_training(scene):
    scene.train()
    assert list((scene.folder / "scratch").iterdir()) == []


def test_a_learning_rate_that_explodes_closes_the_gate(scene):
    scene.tracker = FakeTracker()
    with pytest.raises(GateClosed, match=r"must stay finite \(got .* in epoch 1\)") as caught:
        scene.train(params={"learning_rate": 1000.0, "weight_decay": 10.0, "optimizer": "sgd"})
    assert caught.value.code == "NON_FINITE"
    assert scene.tracker.runs[0].exit_codes == [1]
    assert not [key for key in scene.store.objects if key.startswith("models/")]
    assert scene.models.history("stripes") == []


def test_out_of_memory_says_what_to_change(scene, monkeypatch):
    def full(*_args, **_kwargs):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(loop, "_train_step", full)
    with pytest.raises(PermanentError, match=r"batch_size must fit into the memory of cpu \(got 8") as caught:
        scene.train()
    assert caught.value.code == "OUT_OF_MEMORY"


def test_another_runtime_error_stays_what_it_is(scene, monkeypatch):
    def broken(*_args, **_kwargs):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(loop, "_train_step", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        scene.train()


def test_few_undecodable_items_are_left_out_and_counted(scene):
    payloads = [png(stripes(CLASSES[row % 3], seed=row)) for row in range(150)]
    payloads[4] = b"not an image"
    scene.manifest = fill(scene.store, num_rows=150, payloads=payloads)
    ref = scene.train()
    metrics = scene.models.get("stripes", ref.version).metrics
    assert metrics["num_skipped"] == 1
    assert metrics["num_train"] + metrics["validation"]["num_items"] == 134


def test_many_undecodable_items_close_the_gate(scene):
    payloads = [png(stripes(CLASSES[row % 3], seed=row)) for row in range(60)]
    payloads[4:8] = [b"no %d" % n for n in range(4)]
    scene.manifest = fill(scene.store, num_rows=60, payloads=payloads)
    with pytest.raises(GateClosed, match=r"99% .* \(got 4 of 54 that do not: NOT_AN_IMAGE\)") as caught:
        scene.train()
    assert caught.value.code == "UNDECODABLE"


def test_an_unknown_label_closes_the_gate(scene):
    index = scene.manifest.column_names.index("label")
    scene.manifest = scene.manifest.set_column(index, "label", [["stripe"] * len(scene.manifest)])
    with pytest.raises(GateClosed, match="got also stripe") as caught:
        scene.train()
    assert caught.value.code == "UNKNOWN_LABEL"


def test_a_recipe_of_another_modality_is_refused(scene):
    scene.project = project_of(scene.folder, name="text_bow", params={})
    with pytest.raises(ConfigError, match="must be a recipe for image"):
        scene.train()


def test_a_stale_attempt_publishes_nothing(scene, monkeypatch):
    """A newer attempt takes the lease while this one trains: a zombie that wakes up late."""
    original = loop._run_epoch

    def taken_over(learner, *, epoch, progress):
        if epoch == 2:
            scene.database.acquire(lease[0], Attempt("run-1", "train", 2), now=NOW)
        return original(learner, epoch=epoch, progress=progress)

    lease = []
    acquire = scene.database.acquire
    monkeypatch.setattr(
        scene.database, "acquire", lambda name, *a, **k: (lease.append(name), acquire(name, *a, **k))[1]
    )
    monkeypatch.setattr(loop, "_run_epoch", taken_over)
    with pytest.raises(StaleAttempt, match="run-1/train/2 holds it"):
        scene.train()
    assert not [key for key in scene.store.objects if key.startswith("models/")]
    assert scene.models.history("stripes") == []


def test_tuning_never_ends_below_the_defaults_and_is_recorded(scene, tmp_path):
    scene.tracker = FakeTracker()
    scene.project = project_of(tmp_path, tune={"trials": 3, "epochs": 1})
    ref = scene.train()

    metrics = scene.models.get("stripes", ref.version).metrics
    trials = metrics["trials"]
    best = max((trial for trial in trials if trial["value"] is not None), key=lambda trial: trial["value"])
    assert [trial["number"] for trial in trials] == [0, 1, 2]
    assert trials[0]["params"]["dropout"] == 0.1
    assert scene.models.get("stripes", ref.version).params["learning_rate"] == best["params"]["learning_rate"]
    assert best["value"] >= trials[0]["value"]
    version = f"stripes-{ref.version}"
    assert [run.run_id for run in scene.tracker.runs] == [*(f"{version}-trial-{n}" for n in range(3)), version]
    assert [run.job_type for run in scene.tracker.runs] == ["tune"] * 3 + ["train"]


# Two attempts and crashes.


class World:
    """A scene on disk that outlives the process which trains in it."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder / 'catalog.db'}"
        folder.mkdir(parents=True)
        database = open_database(self.url)
        tables.metadata.create_all(database.engine)
        database.engine.dispose()

    def scene(self) -> Scene:
        return Scene(open_database(self.url), FolderObjectStore(self.folder / "store"), self.folder)


def train_in(world: World) -> None:
    scene = world.scene()
    scene.train()
    scene.database.engine.dispose()


def published(world: World):
    scene = world.scene()
    (record,) = scene.models.history("stripes")
    weights = scene.store.get(f"{record.ref.object_key}/{artifact.WEIGHTS_NAME}")
    assert sha256_hex(weights) == record.ref.digest
    load(scene, record.ref)
    models = [key for key in scene.store.objects if key.startswith("models/")]
    assert len(models) == 2
    scene.database.engine.dispose()
    return record.ref


@pytest.fixture
def undisturbed(tmp_path):
    world = World(tmp_path / "undisturbed")
    crash.run_in_child(train_in, world)
    return published(world)


def test_a_kill_at_any_crash_point_ends_with_the_same_model(tmp_path, undisturbed):
    points = crash.points_passed(train_in, World(tmp_path / "points"))
    assert points == [
        "train.checkpoint.before",
        "train.checkpoint.after",
        "train.checkpoint.recorded",
        "train.put.before",
        "train.weights.after",
        "train.put.after",
        "train.put.recorded",
    ]
    numbers = iter(range(100))
    crash.crash_everywhere(
        points,
        world=lambda: World(tmp_path / f"world-{next(numbers)}"),
        run=train_in,
        check=lambda world: check_same(world, undisturbed),
    )


def check_same(world: World, expected) -> None:
    assert published(world) == expected


def slow_train_in(world: World) -> None:
    """Train with a pause per epoch, so that a kill from outside meets the second one."""
    original = loop._run_epoch

    def slowly(learner, *, epoch, progress):
        report = original(learner, epoch=epoch, progress=progress)
        if epoch == 1:
            (world.folder / "in-second-epoch").touch()
            time.sleep(60)
        return report

    loop._run_epoch = slowly
    train_in(world)


def test_kill_minus_nine_in_an_epoch_resumes_bit_identical(tmp_path, undisturbed):
    world = World(tmp_path / "killed")
    child = multiprocessing.get_context("fork").Process(target=slow_train_in, args=(world,))
    child.start()
    deadline = time.monotonic() + 60
    while not (world.folder / "in-second-epoch").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    pointer = json.loads(next(world.folder.glob("scratch/*/checkpoints/checkpoint.json")).read_text())
    assert len(pointer["history"]) == 1

    crash.run_in_child(train_in, world)
    assert published(world) == undisturbed
