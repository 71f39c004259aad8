"""Retraining from the recorded lineage: the same bits, or words on what is not the same any more."""

import dataclasses
import json

import pyarrow as pa
import pytest

from pipeline_tasks.audit.retrain import comparison_json, comparison_text, retrain
from pipeline_tasks.contracts import Attempt, SnapshotRef
from pipeline_tasks.errors import ConfigError, DataCorrupt, PermanentError
from pipeline_tasks.models import artifact
from pipeline_tasks.models.weights_file import ArtifactInvalid
from pipeline_tasks.training import reproduce, task
from pipeline_tasks.validation import manifest
from tests.unit.training.scene import CLASSES, NOW, Scene, fill, project_of

COMMIT = "c" * 40


class Lineage(Scene):
    """A scene whose snapshot is frozen as the snapshot stage freezes it."""

    def __init__(self, database, store, folder, **project) -> None:
        super().__init__(database, store, folder, **project)
        self.table = as_manifest(fill(store))
        self.snapshot_id = manifest.manifest_id(self.table)
        self.key = f"snapshots/stripes/{self.snapshot_id}/manifest.parquet"
        store.put(self.key, manifest.to_parquet(self.table))

    def freeze(self) -> SnapshotRef:
        from pipeline_tasks.catalog.datasets import DatasetRepository

        return DatasetRepository(self.database).add_snapshot(
            project="stripes",
            snapshot_id=self.snapshot_id,
            object_key=self.key,
            class_counts=dict.fromkeys(CLASSES, len(self.table) // 3),
            schema_version=1,
            run_id="run-1",
            now=NOW,
            fence=self.database.acquire("snapshot/stripes", Attempt("run-1", "snapshot"), now=NOW),
        )

    def train_frozen(self, *, params=None, **overrides):
        arguments = {
            "store": self.store,
            "tracker": self.tracker,
            "attempt": Attempt("run-1", "train"),
            "database": self.database,
            "now": NOW,
            "scratch": self.folder / "scratch",
            "lock_hash": "lock",
            "code_revision": COMMIT,
            "device": "cpu",
        }
        project = project_of(self.folder, params=params) if params else self.project
        return task.train(project, self.freeze(), self.table, **(arguments | overrides))

    def retrain(self, version, **overrides):
        arguments = {"lock_hash": "lock", "code_revision": COMMIT, "scratch": self.folder / "again"}
        return retrain("stripes", version, database=self.database, store=self.store, **(arguments | overrides))


def as_manifest(table: pa.Table) -> pa.Table:
    num_rows = len(table)
    constant = {
        "weight": 1.0,
        "media_type": "image/png",
        "decision_version": 1,
        "method": "single",
        "annotators": ["ada"],
        "source": "folder",
        "origin": "source",
        "arrived_at": NOW,
    }
    columns = table.to_pydict() | {name: [value] * num_rows for name, value in constant.items()}
    arrays = {name: pa.array(columns[name], manifest.SCHEMA.field(name).type) for name in manifest.SCHEMA.names}
    return pa.table(arrays, schema=manifest.SCHEMA).sort_by("item_id")


@pytest.fixture
def lineage(database, object_store, tmp_path) -> Lineage:
    return Lineage(database, object_store, tmp_path)


def rewrite(lineage: Lineage, ref, **origin) -> None:
    """Give a model version another recorded origin, in model.json and in the catalog."""
    key = f"{ref.object_key}/{artifact.MANIFEST_NAME}"
    stored = artifact.read_manifest(lineage.store.get(key))
    changed = dataclasses.replace(stored, origin=dataclasses.replace(stored.origin, **origin))
    lineage.store.put(key, changed.to_bytes())


def test_a_second_training_is_bit_equal_and_leaves_nothing_behind(lineage):
    ref = lineage.train_frozen()
    before = dict(lineage.store.objects)

    retrained = lineage.retrain(ref.version)

    assert retrained.agrees
    assert retrained.weights_equal
    assert retrained.tolerance == 0
    assert retrained.warnings == ()
    assert retrained.reproduced_digest == ref.digest
    assert {pair.difference for pair in retrained.metrics} == {0.0}
    assert dict(lineage.store.objects) == before
    assert len(lineage.models.history("stripes")) == 1
    assert list((lineage.folder / "again").iterdir()) == []


def test_what_the_project_says_today_does_not_matter(lineage, tmp_path):
    ref = lineage.train_frozen(seed=11, params={"width": 3})
    lineage.project = None
    assert lineage.retrain(ref.version).weights_equal


def test_a_tuned_model_is_reproduced_without_the_trials(database, object_store, tmp_path):
    lineage = Lineage(database, object_store, tmp_path, tune={"trials": 3, "epochs": 1})
    assert lineage.retrain(lineage.train_frozen().version).weights_equal


@pytest.mark.slow
def test_an_exported_model_is_reproduced_with_its_graph(database, object_store, tmp_path):
    lineage = Lineage(database, object_store, tmp_path, runtime="onnx-int8")
    ref = lineage.train_frozen()
    retrained = lineage.retrain(ref.version)
    assert retrained.weights_equal  # the weights file names the graph's digest
    assert retrained.agrees


def test_another_environment_is_named_and_judged_by_the_tolerance(lineage):
    ref = lineage.train_frozen()
    retrained = lineage.retrain(ref.version, lock_hash="other", code_revision="d" * 40)
    assert retrained.agrees
    assert retrained.weights_equal
    assert retrained.tolerance == 0.02
    assert list(retrained.warnings) == [
        "environment lock must be the recorded one for the same bits (recorded lock, got other).",
        "code revision must be the recorded one for the same bits (recorded cccccccccccc..., got dddddddddddd...).",
    ]


def test_an_uncommitted_checkout_promises_no_bits(lineage):
    ref = lineage.train_frozen(code_revision=f"{COMMIT}-dirty")
    retrained = lineage.retrain(ref.version, code_revision=f"{COMMIT}-dirty")
    assert [warning.split(" (")[0] for warning in retrained.warnings] == [
        "code revision must be a commit for the same bits"
    ]
    assert retrained.tolerance == 0.02


def test_a_model_that_was_trained_otherwise_differs(lineage, monkeypatch):
    """Weights that no training of the recorded facts gives, as a training that was not what it says leaves them."""
    honest = task.FitPlan
    monkeypatch.setattr(task, "FitPlan", lambda params, epochs, seed, *rest: honest(params, epochs, seed + 1, *rest))
    ref = lineage.train_frozen(params={"epochs": 1})
    retrained = lineage.retrain(ref.version)
    assert not retrained.agrees
    assert not retrained.weights_equal
    assert any(pair.difference > 0 for pair in retrained.metrics)
    assert comparison_text("stripes", ref.version, retrained).startswith("DIFFERS: model version")
    assert lineage.retrain(ref.version, tolerance=100.0).agrees


def test_metrics_beyond_the_tolerance_differ(lineage):
    ref = lineage.train_frozen()
    manifest_bytes, weights = (
        lineage.store.get(f"{ref.object_key}/{name}") for name in (artifact.MANIFEST_NAME, artifact.WEIGHTS_NAME)
    )
    stored = artifact.load_bytes(manifest_bytes, weights).manifest
    better = {**stored.metrics, "validation": {**stored.metrics["validation"], "accuracy": 0.5}}
    told = dataclasses.replace(stored, metrics=better)
    same = artifact.Artifact(manifest=stored, weights=weights)
    assert not reproduce.compare(told, same, warnings=["other torch"], tolerance=None).agrees
    assert reproduce.compare(stored, same, warnings=["other torch"], tolerance=None).agrees
    fewer = dataclasses.replace(stored, metrics={**stored.metrics, "num_train": 1})
    assert not reproduce.compare(fewer, same, warnings=[], tolerance=1.0).agrees


def test_each_fact_of_the_origin_is_compared(lineage):
    ref = lineage.train_frozen()
    stored = artifact.read_manifest(lineage.store.get(f"{ref.object_key}/{artifact.MANIFEST_NAME}"))
    now = reproduce.here(
        lock_hash="lock", code_revision=COMMIT, recipe_code=reproduce.recipe_as_recorded(stored.config)
    )
    assert reproduce.warnings_of(stored, now) == []
    for field in ("torch_version", "device", "precision", "cpu_capability"):
        other = dataclasses.replace(stored, origin=dataclasses.replace(stored.origin, **{field: "other"}))
        assert len(reproduce.warnings_of(other, now)) == 1, field
    threads = dataclasses.replace(stored, config=dataclasses.replace(stored.config, threads=4))
    assert reproduce.warnings_of(threads, now) == [
        "number of threads must be the recorded one for the same bits (recorded 4, got 1)."
    ]
    assert reproduce.warnings_of(stored, dataclasses.replace(now, recipe_digest="x")) != []
    old = dataclasses.replace(stored, origin=artifact.Origin(COMMIT, stored.origin.torch_version, "cpu"))
    assert reproduce.warnings_of(old, now) == []


def test_a_snapshot_with_a_changed_label_is_refused(lineage):
    ref = lineage.train_frozen()
    labels = lineage.table["label"].to_pylist()
    labels[0] = next(name for name in CLASSES if name != labels[0])
    position = manifest.SCHEMA.names.index("label")
    changed = lineage.table.set_column(position, "label", pa.array(labels))
    lineage.store.put(lineage.key, manifest.to_parquet(changed))
    with pytest.raises(DataCorrupt, match=rf"must hash to {lineage.snapshot_id}"):
        lineage.retrain(ref.version)


def test_a_snapshot_that_is_gone_is_named(lineage):
    ref = lineage.train_frozen()
    lineage.store.delete([lineage.key])
    with pytest.raises(DataCorrupt, match=r"manifest.parquet must exist in the object store"):
        lineage.retrain(ref.version)


def test_items_whose_bytes_changed_are_refused(lineage):
    ref = lineage.train_frozen()
    (pack,) = (key for key in lineage.store.objects if key.startswith("packs/"))
    lineage.store.corrupt(pack)
    with pytest.raises(DataCorrupt, match="must hold"):
        lineage.retrain(ref.version)


def test_an_artifact_that_is_gone_is_named(lineage):
    ref = lineage.train_frozen()
    lineage.store.delete([f"{ref.object_key}/{artifact.WEIGHTS_NAME}"])
    with pytest.raises(PermanentError, match=r"must hold model\.json and model\.safetensors") as caught:
        lineage.retrain(ref.version)
    assert caught.value.code == "LINEAGE_GONE"


def test_weights_that_changed_are_refused(lineage):
    ref = lineage.train_frozen()
    lineage.store.corrupt(f"{ref.object_key}/{artifact.WEIGHTS_NAME}")
    with pytest.raises(ArtifactInvalid, match="DIGEST"):
        lineage.retrain(ref.version)


def test_a_manifest_that_tells_another_story_than_the_catalog_is_refused(lineage):
    ref = lineage.train_frozen()
    rewrite(lineage, ref, code_revision="e" * 40)
    with pytest.raises(DataCorrupt, match=r"got other code_revision"):
        lineage.retrain(ref.version)


def test_an_unknown_version_and_a_negative_tolerance_are_refused(lineage):
    with pytest.raises(ConfigError, match=r"version must be a model version of stripes \(got nope\)"):
        lineage.retrain("nope")
    with pytest.raises(ConfigError, match=r"--tolerance must be 0 or more \(got -1\)"):
        lineage.retrain("nope", tolerance=-1)


def test_the_answer_is_json_and_text(lineage):
    ref = lineage.train_frozen(params={"epochs": 1})
    retrained = lineage.retrain(ref.version, lock_hash="other")
    told = json.loads(json.dumps(comparison_json("stripes", ref.version, retrained)))
    assert (told["agrees"], told["weights_equal"], told["tolerance"]) == (True, True, 0.02)
    assert told["metrics"][0] == {
        "name": "accuracy",
        "recorded": retrained.metrics[0].recorded,
        "reproduced": retrained.metrics[0].reproduced,
        "difference": 0.0,
    }
    text = comparison_text("stripes", ref.version, retrained).splitlines()
    assert text[0] == f"Agrees: model version {ref.version} of stripes, asked for within a tolerance of 0.02."
    assert text[-1].startswith("warning: environment lock must be the recorded one")
