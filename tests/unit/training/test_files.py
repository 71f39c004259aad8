"""Files of a training in scratch and in the store: decoded inputs, checkpoints, the published objects."""

from __future__ import annotations

import io
import logging

import numpy as np
import pytest
import torch
from rich.console import Console

from pipeline_tasks.contracts import Attempt
from pipeline_tasks.core.atomic_files import replace_file
from pipeline_tasks.models import artifact as model_files
from pipeline_tasks.training.checkpoint import POINTER_NAME, Checkpoints, restore
from pipeline_tasks.training.decoded_inputs import decode_inputs
from pipeline_tasks.training.progress import step_progress
from pipeline_tasks.training.proof import Proof
from pipeline_tasks.training.publish import store_artifact
from tests.unit.models.test_artifact import build
from tests.unit.models.test_exported import graph
from tests.unit.training.scene import NOW


def decode(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8).astype(np.int32).reshape(-1, 2)


def test_inputs_of_any_length_come_back_in_any_order(tmp_path):
    items = {0: b"\1\2", 1: b"\3\4\5\6", 2: b""}
    inputs = decode_inputs(
        lambda: [(2, b""), (1, items[1]), (0, items[0])], num_rows=3, decode=decode, folder=tmp_path, key="k"
    )
    assert [array.tolist() for array in inputs.take([1, 0, 2])] == [[[3, 4], [5, 6]], [[1, 2]], []]
    assert len(inputs) == 3


def test_inputs_are_decoded_once_per_key(tmp_path):
    calls = []

    def items():
        calls.append(1)
        return [(0, b"\1\2")]

    for key in ("k", "k", "other"):
        decode_inputs(items, num_rows=1, decode=decode, folder=tmp_path, key=key)
    assert len(calls) == 2


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.json"
    replace_file(path, b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"


def step(module, optimizer) -> None:
    optimizer.zero_grad()
    module(torch.ones(1, 1, 4, 4)).sum().backward()
    optimizer.step()


def learner(kind=torch.optim.AdamW, **options):
    torch.manual_seed(0)
    module = torch.nn.Conv2d(1, 2, 3).to(memory_format=torch.channels_last)
    return module, kind(module.parameters(), lr=0.1, **options)


@pytest.mark.parametrize("optimizer", [{}, {"kind": torch.optim.SGD}, {"kind": torch.optim.SGD, "momentum": 0.9}])
def test_a_restored_learner_takes_the_same_next_step(tmp_path, optimizer):
    module, first = learner(**optimizer)
    step(module, first)
    checkpoints = Checkpoints(tmp_path, key="k")
    checkpoints.save(module, first, history=[{"epoch": 1}])
    other_module, other = learner(**optimizer)
    resumed = checkpoints.load()
    restore(resumed, other_module, other)
    for each in ((module, first), (other_module, other)):
        step(*each)
    assert resumed.history == [{"epoch": 1}]
    assert torch.equal(module.weight, other_module.weight)


def test_only_the_newest_checkpoint_is_kept(tmp_path):
    module, optimizer = learner()
    checkpoints = Checkpoints(tmp_path, key="k")
    for epochs in (1, 2):
        step(module, optimizer)
        checkpoints.save(module, optimizer, history=[{}] * epochs)
    assert len(list(tmp_path.glob("epoch-*"))) == 1
    assert len(checkpoints.load().history) == 2


def spoil_weights(folder):
    path = next(folder.glob("epoch-*"))
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("spoil", "key"),
    [
        (lambda folder: next(folder.glob("epoch-*")).unlink(), "k"),
        (lambda folder: (folder / POINTER_NAME).write_text("{"), "k"),
        (lambda folder: (folder / POINTER_NAME).write_text("{}"), "k"),
        (spoil_weights, "k"),
        (lambda _folder: None, "another training"),
    ],
    ids=["weights gone", "pointer cut", "pointer empty", "weights cut", "other key"],
)
def test_a_checkpoint_that_is_not_whole_is_not_used(tmp_path, spoil, key):
    module, optimizer = learner()
    Checkpoints(tmp_path, key="k").save(module, optimizer, history=[{}])
    spoil(tmp_path)
    assert Checkpoints(tmp_path, key=key).load() is None


def publish(packed, *, store, database, number=1):
    fence = database.acquire("train/pets/x", Attempt("run", "train", number), now=NOW)
    return store_artifact(
        packed,
        model_files.load_module(packed.manifest, packed.weights),
        proof=Proof(model_files.recipe_of(packed.manifest.config), packed.manifest.config.preprocessing, ()),
        store=store,
        database=database,
        fence=fence,
        validate=lambda _module: {"accuracy": 0.25},
    )


def test_two_attempts_with_different_weights_never_mix_their_files(object_store, database):
    """As on a GPU: the first attempt dies between its two objects, the second one has other bits."""
    first, second = build(), build()
    module = model_files.load_bytes(second.manifest.to_bytes(), second.weights).module
    torch.nn.init.zeros_(module.head[3].bias)
    second = model_files.pack(
        module, config=second.manifest.config, origin=second.manifest.origin, metrics={"seconds": 1}
    )
    key = "models/pets/0123456789abcdef/model.safetensors"
    object_store.put(key, first.weights)

    stood = publish(second, store=object_store, database=database)

    assert object_store.get(key) == first.weights
    assert stood.weights_digest == first.manifest.weights_digest
    assert stood.metrics == {"seconds": 1, "validation": {"accuracy": 0.25}}
    stored = object_store.get("models/pets/0123456789abcdef/model.json")
    model_files.load_bytes(stored, first.weights, expected_digest=stood.weights_digest)


def objects_of(store) -> dict[str, bytes]:
    return {key.rsplit("/", 1)[-1]: data for key, data in store.objects.items() if key.startswith("models/")}


@pytest.mark.parametrize("left", ["nothing", "weights", "weights and graph", "weights and another graph"])
def test_a_graph_is_published_with_the_weights_that_name_it(object_store, database, left):
    """Whatever an attempt left that died between its objects."""
    packed = build(exported=graph())
    folder = "models/pets/0123456789abcdef"
    if left != "nothing":
        object_store.put(f"{folder}/model.safetensors", packed.weights)
    if "and" in left:
        object_store.put(f"{folder}/model.onnx", graph(bias=(1, 0, 0)) if "another" in left else graph())
    publish(packed, store=object_store, database=database)
    files = objects_of(object_store)
    loaded = model_files.load_stored(files.__getitem__, expected_digest=packed.manifest.weights_digest)
    assert loaded.predict([np.zeros((1, 8, 8), np.uint8)]).tolist() == [[0.5, 0.25, 0.25]]


def test_two_attempts_with_different_graphs_never_mix_their_files(object_store, database):
    first, second = build(exported=graph()), build(exported=graph(bias=(0.25, 0.5, 0.25)), seed=0)
    publish(first, store=object_store, database=database)
    before = objects_of(object_store)
    publish(second, store=object_store, database=database, number=2)
    assert objects_of(object_store) == before


def test_a_published_manifest_stands_whatever_a_second_attempt_has(object_store, database):
    first = build()
    assert publish(first, store=object_store, database=database) == first.manifest
    again = model_files.Artifact(
        manifest=model_files.ModelManifest(
            first.manifest.config,
            first.manifest.origin,
            first.manifest.weights_digest,
            len(first.weights),
            {"other": 1},
        ),
        weights=first.weights,
    )
    assert publish(again, store=object_store, database=database, number=2) == first.manifest


@pytest.mark.parametrize("left", [b"garbage", build(params={"dropout": 0.5}).weights], ids=["damaged", "other config"])
def test_weights_that_no_manifest_can_fit_are_replaced(object_store, database, left):
    key = "models/pets/0123456789abcdef/model.safetensors"
    object_store.put(key, left)
    packed = build()
    assert publish(packed, store=object_store, database=database) == packed.manifest
    assert object_store.get(key) == packed.weights


def test_progress_is_one_line_every_few_seconds_without_a_terminal(caplog):
    times = iter([0.0, 1.0, 5.0, 6.0, 11.0])
    console = Console(file=io.StringIO(), force_terminal=False)
    with (
        caplog.at_level(logging.INFO),
        step_progress("train", total=9, console=console, seconds=lambda: next(times)) as lines,
    ):
        for done in range(1, 5):
            lines.advance(done=done, note="loss 1")
    assert caplog.messages == [
        "train: step 2 of 9, loss 1, 0.2 a second, 28 s left",
        "train: step 4 of 9, loss 1, 0.3 a second, 17 s left",
    ]


def test_progress_is_a_bar_on_a_terminal():
    file = io.StringIO()
    with step_progress("train", total=4, console=Console(file=file, force_terminal=True, width=100)) as bar:
        bar.advance(done=4, note="loss 1")
    assert "train" in file.getvalue()
    assert "4/4" in file.getvalue()
