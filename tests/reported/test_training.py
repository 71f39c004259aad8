"""Faults of training, gate and monitor: wrong statements, and inputs that ended them. Source: reports of 2026-11-29."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from pipeline_tasks.cli import main
from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.core.settings import load_settings
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.models.registry import find_recipe
from pipeline_tasks.orchestration import local_pipeline, resources
from pipeline_tasks.orchestration.local_pipeline import closing_lines, figures_of
from pipeline_tasks.training import data_loading, decoded_inputs, loop
from pipeline_tasks.training import task as training_task
from pipeline_tasks.training.dataset import rows_of
from pipeline_tasks.training.progress import step_progress
from pipeline_tasks.training.training_key import TrainingKey
from tests.fakes import FakeObjectStore
from tests.unit.evaluation.conftest import run, verdicts, world  # noqa: F401 - fixtures
from tests.unit.training.scene import Scene

STACK = {
    "DETHRONE_HOME": "/nowhere",
    "DETHRONE_S3_ENDPOINT": "http://s3",
    "DETHRONE_LABEL_STUDIO_URL": "http://labels",
    "DETHRONE_AIRFLOW_URL": "http://airflow",
    "DETHRONE_GATEWAY_URL": "http://gateway",
}


# What a search chooses by


def fit_as_told(recipe, data, plan, *, on_epoch=lambda _: None, **_):
    """Stand for a fit: trial 1 is better by accuracy, trial 2 by macro F1."""
    first = plan.label != "trial 2"
    metrics = {"accuracy": 0.9 if first else 0.8, "macro_f1": 0.5 if first else 0.7, "log_loss": 0.4}
    on_epoch(loop.EpochReport(1, 1, 0.1, 0.01, metrics))
    module = recipe.build(plan.params, len(data.classes)).eval()
    return module, [{"epoch": 1, "loss": 0.1, "metrics": metrics}]


@pytest.fixture
def make_scene(database, object_store, tmp_path):
    return lambda **project: Scene(database, object_store, tmp_path, **project)


@pytest.mark.parametrize(("metric", "chosen"), [("accuracy", 0), ("macro_f1", 1)], ids=["D7-accuracy", "D7-macro-f1"])
def test_the_search_looks_at_the_gates_metric(make_scene, monkeypatch, metric, chosen):
    monkeypatch.setattr(training_task, "fit", fit_as_told)
    scene = make_scene(tune={"trials": 2, "epochs": 1}, gate={"metric": metric})
    metrics = scene.models.get("stripes", scene.train().version).metrics
    assert metrics["chosen_by"] == metric
    assert [trial["value"] for trial in metrics["trials"]] == ([0.9, 0.8] if metric == "accuracy" else [0.5, 0.7])
    best = metrics["trials"][chosen]["params"]
    version = scene.models.history("stripes")[-1]
    assert {name: version.params[name] for name in best} == best


KEY = ("p", "s", ("a", "b"), "text_bow", "d", {"epochs": 3})


@pytest.mark.parametrize(
    ("key", "digest"),
    [
        (
            TrainingKey(*KEY, {"trials": 4, "epochs": 2}, 7, 1, "lock"),
            "c70e5841444c280a1edf16725f49782efb5e9460e6c59edad20fe0f680235d9b",
        ),
        (
            TrainingKey(*KEY, None, 7, 1, "lock", "onnx"),
            "a8ccc8a52e645a05dcaf39f16a150e74e8bf5d2a0c292bc22c16c6054bb59fb3",
        ),
    ],
    ids=["D7-search-by-accuracy", "D7-no-search"],
)
def test_training_keys_of_installed_versions_stay(key, digest):
    """Digests computed at 9c02990: a training that was done is adopted, not repeated."""
    assert key.digest == digest


def test_a_search_by_another_metric_is_another_training():
    key = TrainingKey(*KEY, {"trials": 4, "epochs": 2}, 7, 1, "lock")
    assert dataclasses.replace(key, metric="macro_f1").digest != key.digest


# Arguments that no caller had


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        pytest.param({}, (1, None), id="G7-default"),
        pytest.param({"DETHRONE_TRAIN_THREADS": "4", "DETHRONE_TRAIN_DEVICE": "cuda:1"}, (4, "cuda:1"), id="G7-set"),
    ],
)
def test_threads_and_device_of_trainings_are_settings(variables, expected):
    settings = load_settings(STACK | variables)
    assert (settings.train_threads, settings.train_device) == expected


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"DETHRONE_TRAIN_THREADS": "0"}, r"DETHRONE_TRAIN_THREADS must be a whole number from 1 to 1024 \(got '0'\)"),
        ({"DETHRONE_TRAIN_THREADS": "²"}, r"DETHRONE_TRAIN_THREADS must be a whole number from 1 to 1024"),
        ({"DETHRONE_TRAIN_DEVICE": "gpu"}, r"DETHRONE_TRAIN_DEVICE must be cpu, cuda or cuda:<number> \(got 'gpu'\)"),
    ],
)
def test_wrong_threads_and_devices_are_refused(variables, message):
    with pytest.raises(ConfigError, match=message):
        load_settings(STACK | variables)


@pytest.mark.parametrize(("waiting", "said"), [(2, "2 runs uploaded."), (0, "No offline run waits.")])
def test_offline_runs_are_uploaded_by_a_command(monkeypatch, capsys, waiting, said):
    tracker = SimpleNamespace(sync=lambda: [Path("run")] * waiting)
    monkeypatch.setattr(resources, "build_resources", lambda: SimpleNamespace(tracker=tracker))
    assert main.main(["wandb", "sync"]) == 0
    assert capsys.readouterr().out.strip() == said


# Point 9: progress, and the figures at the end


@pytest.mark.parametrize(
    ("champion", "expected"),
    [
        (
            "old",
            [
                "  Accuracy: contender 100.0 % (96.9 to 100.0), champion 80.0 % (72.0 to 86.2), always shirt 50.0 %",
                "  Macro F1: contender 100.0 % (100.0 to 100.0), champion 80.0 % (72.5 to 86.6), always shirt 33.3 %",
            ],
        ),
        (
            None,
            [
                "  Accuracy: contender 100.0 % (96.9 to 100.0), always shirt 50.0 %",
                "  Macro F1: contender 100.0 % (100.0 to 100.0), always shirt 33.3 %",
            ],
        ),
    ],
    ids=["P9-champion", "P9-first"],
)
def test_a_training_ends_with_its_figures(run, world, database, champion, expected):  # noqa: F811
    verdict_id = run(champion=champion, exams=world.exams[1:]).verdict_id
    figures = figures_of(SimpleNamespace(database=database, store=world.store), "fashion", verdict_id=verdict_id)
    ending = {"outcome": "rejected", "reason": "nobody answered", "figures": figures}
    lines = closing_lines("fashion", {**ending, "seconds": {"train": 200.4, "judge": 3.2}}).splitlines()
    assert lines[:2] == ["Rejected: nobody answered", "On exam 2 of 120 items:"]
    assert lines[2:4] == expected
    assert lines[4] == "  open items: 0 (0.0 %)"
    assert lines[5].startswith(f"Verdict {verdict_id[:12]}: Promote the ")
    assert lines[6] == f"Serves now: nothing yet. The report: `dethrone report fashion {verdict_id[:12]}`"
    assert lines[7] == "Took 3 m 24 s: train 3 m 20 s, judge 3 s"


@pytest.fixture
def trained(monkeypatch, tmp_path):
    (tmp_path / "pets").mkdir()
    monkeypatch.setenv("DETHRONE_PROJECTS", str(tmp_path))

    def stand_in(project, **_):
        logging.getLogger("pipeline_tasks.training.progress").info("train: step 30 of 90, 6 s left")
        return {"idle": f"{project} has nothing new", "num_new_labels": 0}

    monkeypatch.setattr(local_pipeline, "train_to_serve", stand_in)


def test_train_shows_progress_on_standard_error_and_ends_in_words(trained, capsys):
    assert main.main(["train", "pets"]) == 0
    said = capsys.readouterr()
    assert said.err == "train: step 30 of 90, 6 s left\n"
    assert said.out == "Nothing was trained: pets has nothing new\n"


def test_train_with_json_prints_json_alone(trained, capsys):
    assert main.main(["train", "pets", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"idle": "pets has nothing new", "num_new_labels": 0}
    assert not logging.getLogger("pipeline_tasks").handlers


def test_decoding_says_how_far_it_is(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(decoded_inputs, "step_progress", functools.partial(step_progress, every_seconds=0.0))
    items = [(row, bytes([row])) for row in range(200)]
    with caplog.at_level(logging.INFO):
        decode = lambda data: np.frombuffer(data, dtype=np.uint8)  # noqa: E731
        decoded_inputs.decode_inputs(lambda: items, num_rows=200, decode=decode, folder=tmp_path, key="k")
    assert [line.split(",")[0] for line in caplog.messages] == ["decode: step 100 of 200", "decode: step 200 of 200"]


# Point 9: memory that does not grow with the batch


@pytest.mark.parametrize(
    "sizes", [[100], [1, 99], [30, 30, 40], [1] * 100], ids=lambda sizes: f"P9-{len(sizes)}-batches"
)
def test_statistics_of_batches_are_those_of_the_whole(sizes):
    random = np.random.default_rng(3)
    rows = (random.normal(size=(100, 4)) * [1, 1000, 1e-3, 1] + [0, 1e6, 5, 0]).astype(np.float32)
    rows[::3, 1] = np.nan
    rows[:, 3] = np.nan
    recipe = find_recipe("tabular_mlp").recipe
    model = recipe.build(recipe.resolve({"numbers": ["a", "b", "c", "d"]}), 2)
    recipe.fit_statistics(model, iter(np.split(rows, np.cumsum(sizes)[:-1])))
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    exact = rows[:, :3].astype(np.float64)
    assert state["mean"][:3] == pytest.approx(np.nanmean(exact, axis=0), rel=1e-6, abs=1e-6)
    assert state["deviation"][:3] == pytest.approx(np.nanstd(exact, axis=0), rel=1e-5)
    assert (state["mean"][3], state["deviation"][3]) == (0.0, 1.0)


def test_training_rows_are_read_object_after_object(monkeypatch):
    monkeypatch.setattr(data_loading, "READ_AT_ONCE", 2)
    payloads = [f"row {number}".encode() for number in range(6)]
    store = FakeObjectStore()
    packs = {f"packs/{name}": payloads[start::3] for start, name in enumerate("abc")}
    rows = []
    for key, parts in packs.items():
        store.put(key, b"".join(parts))
        for index, data in enumerate(parts):
            row = {"item_id": sha256_hex(data), "label": "no", "split": "train", "group_key": data.decode()}
            rows.append(row | {"object_key": key, "offset": index * len(data), "size_bytes": len(data)})
    ordered = rows_of(pa.Table.from_pylist(rows[::-1]))
    read = dict(data_loading.read_rows("pets", ordered, store=store))
    assert [sha256_hex(read[row]) for row in range(6)] == sorted(row["item_id"] for row in rows)
    assert (
        [row.item_id for row in ordered]
        == [ordered[row].item_id for row in range(6)]
        == sorted(row["item_id"] for row in rows)
    )
    assert list(ordered.group_keys(np.array([4, 1]))) == [ordered[4].group_key, ordered[1].group_key]


def test_an_index_of_an_earlier_release_is_decoded_anew(tmp_path):
    old = {"key": "k", "file": "x", "dtype": "uint8", "tail_shape": [], "starts": [0], "lengths": [1], "skipped": {}}
    (tmp_path / decoded_inputs.INDEX_NAME).write_text(json.dumps(old))
    decoded = decoded_inputs.decode_inputs(
        lambda: [(0, b"ab")],
        num_rows=1,
        decode=lambda data: np.frombuffer(data, dtype=np.uint8),
        folder=tmp_path,
        key="k",
    )
    assert decoded.take([0])[0].tolist() == [97, 98]
