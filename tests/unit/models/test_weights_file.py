"""Hostile and damaged safetensors files: each is refused with its reason."""

from __future__ import annotations

import json
import pickle
import re
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pipeline_tasks.models.weights_file import (
    MAX_HEADER_BYTES,
    ArtifactInvalid,
    read_file_metadata,
    read_weights,
    write_weights,
)


def file_of(header, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape=(2,), *, dtype="F32", offsets=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_what_is_written_is_read_and_the_bytes_do_not_depend_on_the_order():
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2, dtype=torch.int64)}
    data = write_weights(tensors, metadata={"config": "x"})
    read, metadata = read_weights(data)
    assert metadata == {"config": "x"}
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert data == write_weights(dict(reversed(tensors.items())), metadata={"config": "x"})


def test_the_bytes_do_not_depend_on_the_order_in_which_safetensors_walks_the_metadata():
    tensors = {"b": torch.arange(5.0), "a": torch.ones(2, 3, dtype=torch.float16)}
    metadata = {name: f'{name} = Ä\u2028"' for name in ("exported", "config", "z", "key")}
    files = {write_weights(tensors, metadata=metadata) for _ in range(20)}
    assert len(files) == 1
    (data,) = files
    weights, told = read_weights(data)
    assert told == metadata
    assert list(told) == sorted(metadata)
    assert all(torch.equal(weights[name], tensors[name]) for name in tensors)
    assert safetensors.torch.load(data).keys() == tensors.keys()


def test_channels_last_tensors_keep_their_values():
    original = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    read, _ = read_weights(write_weights({"w": original}, metadata={}))
    assert torch.equal(read["w"], original)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "HEADER", id="empty"),
        pytest.param(b"\0" * 7, "HEADER", id="too short"),
        pytest.param(file_of(b"", length=0), "HEADER", id="header length 0"),
        pytest.param(file_of({}, length=2**63), "HEADER", id="header length 2^63"),
        pytest.param(file_of({}, length=500), "HEADER", id="header longer than the file"),
        pytest.param(file_of(b"\xff\xfe{}"), "HEADER", id="not JSON"),
        pytest.param(file_of(b"[1, 2]"), "HEADER", id="a list"),
        pytest.param(file_of(b"[" * 100_000), "HEADER", id="nested"),
        pytest.param(file_of({"__metadata__": {"a": 1}}), "HEADER", id="metadata of numbers"),
        pytest.param(file_of({"a": {"dtype": "F32"}}), "HEADER", id="fields missing"),
        pytest.param(file_of({"a": {**tensor(), "more": 1}}, b"\0" * 8), "HEADER", id="unknown field"),
        pytest.param(
            file_of(b'{"a":%b,"a":%b}' % ((json.dumps(tensor()).encode(),) * 2), b"\0" * 8),
            "DUPLICATE_NAME",
            id="twice",
        ),
        pytest.param(
            file_of({str(n): tensor((0,), offsets=(0, 0)) for n in range(20_000)}), "TOO_MANY_TENSORS", id="entries"
        ),
        pytest.param(file_of({"a": tensor(dtype="F31")}, b"\0" * 8), "DTYPE", id="unknown dtype"),
        pytest.param(file_of({"a": tensor((-2,))}, b"\0" * 8), "SHAPE", id="negative shape"),
        pytest.param(file_of({"a": tensor((True, 2))}, b"\0" * 8), "SHAPE", id="boolean shape"),
        pytest.param(file_of({"a": tensor((2**40, 2**40))}, b"\0" * 8), "LAYOUT", id="product overflow"),
        pytest.param(file_of({"a": tensor(offsets=(0, 8, 9))}, b"\0" * 8), "LAYOUT", id="three offsets"),
        pytest.param(file_of({"a": tensor(offsets=(8, 0))}, b"\0" * 8), "LAYOUT", id="backwards"),
        pytest.param(file_of({"a": tensor(), "b": tensor(offsets=(4, 12))}, b"\0" * 12), "LAYOUT", id="overlap"),
        pytest.param(file_of({"a": tensor(), "b": tensor(offsets=(12, 20))}, b"\0" * 20), "LAYOUT", id="gap"),
        pytest.param(file_of({"a": tensor()}, b"\0" * 7), "LAYOUT", id="cut off"),
        pytest.param(file_of({"a": tensor()}, b"\0" * 9), "TRAILING_BYTES", id="one byte more"),
        pytest.param(file_of({"a": tensor()}, struct.pack("<ff", 1, float("nan"))), "NON_FINITE", id="NaN"),
        pytest.param(file_of({"a": tensor()}, struct.pack("<ff", 1, float("inf"))), "NON_FINITE", id="infinity"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(data, reason, tmp_path):
    with pytest.raises(ArtifactInvalid, match=rf"ARTIFACT_INVALID\({reason}\)") as caught:
        read_weights(data)
    assert (caught.value.reason, caught.value.code) == (reason, "ARTIFACT_INVALID")
    (tmp_path / "weights").write_bytes(data)
    if reason != "NON_FINITE":  # the values are not looked at
        with pytest.raises(ArtifactInvalid, match=re.escape(str(caught.value))):
            read_file_metadata(tmp_path / "weights")


def test_the_metadata_of_a_file_longer_than_any_header_are_read(tmp_path):
    data = write_weights({"a": torch.zeros(MAX_HEADER_BYTES)}, metadata={"config": "x"})
    (tmp_path / "weights").write_bytes(data)
    assert read_file_metadata(tmp_path / "weights") == {"config": "x"}


class Marker:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_in_a_safetensors_name_is_never_run(tmp_path, protocol):
    marker = tmp_path / "marker"
    with pytest.raises(ArtifactInvalid, match="HEADER"):
        read_weights(pickle.dumps(Marker(marker), protocol=protocol))
    assert not marker.exists()


def test_a_torch_file_is_refused(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactInvalid, match="HEADER"):
        read_weights((tmp_path / "model.safetensors").read_bytes())
