"""bfloat16 autocast is a runtime of its own, and a batch goes to a GPU out of pinned memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipeline_tasks.models import artifact, runtimes
from pipeline_tasks.models.base import to_device
from tests.unit.models.test_artifact import ORIGIN, build


def loaded(runtime: str) -> artifact.LoadedModel:
    """Return the same weights under a runtime."""
    packed = build()
    module = artifact.load_module(packed.manifest, packed.weights)
    config = dataclasses.replace(packed.manifest.config, runtime=runtime)
    made = artifact.pack(module, config=config, origin=ORIGIN, metrics={})
    return artifact.load_bytes(made.manifest.to_bytes(), made.weights)


@pytest.mark.parametrize(("runtime", "expected"), [("eager", torch.float32), ("amp", torch.bfloat16)])
def test_the_precision_of_a_pass_is_the_runtimes(runtime, expected):
    model, seen = loaded(runtime), []
    hook = model.module.features[0].register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    answers_nc = model.predict([np.full((1, 8, 8), value, np.uint8) for value in (0, 255)])
    hook.remove()
    assert seen == [expected]
    assert answers_nc.dtype == np.float32
    assert answers_nc.sum(axis=1) == pytest.approx([1, 1], abs=1e-3)


def test_amp_answers_nearly_as_float32_does():
    inputs = [np.full((1, 8, 8), value, np.uint8) for value in (0, 128, 255)]
    difference = np.abs(loaded("amp").predict(inputs) - loaded("eager").predict(inputs)).max()
    assert 0 < difference < 0.02


def test_amp_is_stored_as_torch_is_and_says_so():
    model = loaded("amp")
    assert artifact.file_names(model.manifest.to_bytes()) == ("model.safetensors", "model.json")
    assert model.runtime == "amp"


def test_a_batch_for_the_cpu_is_not_copied():
    batch = torch.arange(3)
    assert to_device(batch, torch.device("cpu")) is batch


def test_a_batch_for_another_device_is_pinned_and_does_not_block(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: calls.append("pinned") or tensor)
    moved = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *to, **how: calls.append(how) or moved(tensor, *to, **how))
    assert to_device(torch.arange(3), torch.device("meta")).device.type == "meta"
    assert calls == ["pinned", {"non_blocking": True}]


@pytest.mark.parametrize(
    ("runtime", "there", "expected"),
    [
        ("eager", True, "cuda"),
        ("amp", True, "cuda"),
        ("amp", False, "cpu"),
        ("onnx", True, "cpu"),
        ("onnx-int8", True, "cpu"),
    ],
)
def test_the_gpu_serves_what_torch_computes(monkeypatch, runtime, there, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert runtimes.device_of(runtime) == expected


@pytest.mark.gpu
@pytest.mark.parametrize(("runtime", "tolerance"), [("eager", 1e-4), ("amp", 0.02)])
def test_a_gpu_answers_as_the_offline_path_does(runtime, tolerance):
    inputs = [np.random.default_rng(seed).integers(0, 256, (1, 8, 8), dtype=np.uint8) for seed in range(64)]
    torch.backends.cudnn.allow_tf32 = False
    there = dataclasses.replace(loaded(runtime), module=loaded(runtime).module.to("cuda"))
    assert there.predict(inputs) == pytest.approx(loaded(runtime).predict(inputs), abs=tolerance)
