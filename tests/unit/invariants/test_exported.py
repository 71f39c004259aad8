"""Verification of a champion that ONNX Runtime serves: its graph is part of it."""

import pytest

from pipeline_tasks.invariants.champions import whole_violations
from pipeline_tasks.models import artifact
from tests.unit.models.test_artifact import build
from tests.unit.models.test_exported import graph

FOLDER = "models/pets/v1"


@pytest.fixture
def check(object_store):
    packed = build(exported=graph())
    files = {"model.safetensors": packed.weights, "model.onnx": packed.exported}
    for name, data in {**files, "model.json": packed.manifest.to_bytes()}.items():
        object_store.put(f"{FOLDER}/{name}", data)
    model = {"object_key": FOLDER, "digest": packed.manifest.weights_digest}

    route = {"champion_version": "v1", "action": "promote"}

    def run():
        broken = whole_violations("pets", [route], {"v1": model}, [], object_store)
        return [str(violation) for violation in broken]

    return run


def test_a_whole_champion_is_whole(check):
    assert check() == []


def test_another_graph_and_a_lost_one_are_violations(check, object_store):
    object_store.put(f"{FOLDER}/{artifact.EXPORTED_NAME}", graph(bias=(0, 0, 1)))
    (changed,) = check()
    assert "models/pets/v1/model.onnx must have the SHA-256" in changed
    object_store.delete([f"{FOLDER}/{artifact.EXPORTED_NAME}"])
    (lost,) = check()
    assert "models/pets/v1/model.onnx must have the SHA-256" in lost
    assert "KeyError" in lost


def test_a_lost_manifest_is_told_once(check, object_store):
    object_store.delete([f"{FOLDER}/{artifact.MANIFEST_NAME}"])
    (lost,) = check()
    assert "model.json" in lost


def test_the_weights_are_read_once_and_never_whole_into_memory(check, object_store, monkeypatch):
    read = []
    get, get_file = object_store.get, object_store.get_file
    monkeypatch.setattr(object_store, "get", lambda key: (read.append(("whole", key)), get(key))[1])
    monkeypatch.setattr(object_store, "get_file", lambda key, path: (read.append(("file", key)), get_file(key, path)))
    assert check() == []
    assert [how for how, key in read if key == f"{FOLDER}/{artifact.WEIGHTS_NAME}"] == ["file"]
