"""A model version with a graph: it is the graph of these weights or it is refused, and torch is not needed."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipeline_tasks.errors import PermanentError
from pipeline_tasks.models import artifact
from pipeline_tasks.models.exported import ExportedModel
from pipeline_tasks.models.onnx_references import MAX_DEPTH
from pipeline_tasks.models.weights_file import ArtifactInvalid
from tests.unit.models.test_artifact import build, edit, refused

INPUTS = [np.full((1, 8, 8), value, np.uint8) for value in (0, 128, 255)]


def graph(*, name="inputs", bias=(0.5, 0.25, 0.25), side=8) -> bytes:
    """Return a graph that answers every image with the same three numbers."""
    shape = ["n", 1, side, side]
    nodes = [
        helper.make_node("Cast", [name], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        helper.make_node("Mul", ["means", "zero"], ["zeros"]),
        helper.make_node("Unsqueeze", ["zeros", "last"], ["column"]),
        helper.make_node("Add", ["column", "bias"], ["probabilities"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("last", TensorProto.INT64, [1], [1]),
        helper.make_tensor("bias", TensorProto.FLOAT, [3], list(bias)),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])],
        constants,
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(made, opset_imports=opset, ir_version=10).SerializeToString()


@pytest.fixture
def folder(tmp_path):
    artifact.save(build(exported=graph()), tmp_path / "model")
    return tmp_path / "model"


def test_the_graph_answers_and_not_the_weights(folder):
    loaded = artifact.load(folder)
    assert (loaded.runtime, loaded.classes) == ("onnx", ("cat", "dog", "emu"))
    assert loaded.predict(INPUTS).tolist() == [[0.5, 0.25, 0.25]] * 3
    assert loaded.predict([]).shape == (0, 3)
    again = artifact.load_stored(lambda name: (folder / name).read_bytes())
    assert again.predict(INPUTS[:1]).tolist() == [[0.5, 0.25, 0.25]]


def test_the_weights_can_still_be_had_as_a_module(folder):
    manifest = artifact.read_manifest((folder / artifact.MANIFEST_NAME).read_bytes())
    module = artifact.load_module(manifest, (folder / artifact.WEIGHTS_NAME).read_bytes())
    assert module.state_dict().keys() == artifact.load_module(build().manifest, build().weights).state_dict().keys()


def test_the_manifest_survives_its_round_trip_byte_for_byte(folder):
    data = (folder / artifact.MANIFEST_NAME).read_bytes()
    assert artifact.read_manifest(data).to_bytes() == data
    assert b'"runtime":"onnx"' in data
    assert artifact.file_names(data) == ("model.safetensors", "model.onnx", "model.json")


def test_a_model_of_torch_is_written_as_before_there_was_a_runtime():
    packed = build()
    assert b"runtime" not in packed.manifest.to_bytes()
    assert "runtime" not in packed.manifest.config.as_json()
    assert artifact.file_names(packed.manifest.to_bytes()) == ("model.safetensors", "model.json")


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"not json", b'{"config": 1}'])
def test_a_manifest_that_is_none_has_the_two_files(data):
    assert artifact.file_names(data) == ("model.safetensors", "model.json")


def test_another_graph_is_refused(folder):
    (folder / artifact.EXPORTED_NAME).write_bytes(graph(bias=(0.25, 0.5, 0.25)))
    refused(folder, "EXPORTED")


def test_a_lost_graph_is_refused(folder):
    (folder / artifact.EXPORTED_NAME).unlink()
    refused(folder, "FILES")
    manifest, weights = ((folder / name).read_bytes() for name in (artifact.MANIFEST_NAME, artifact.WEIGHTS_NAME))
    with pytest.raises(ArtifactInvalid, match=r"model\.onnx must be the one written with these weights"):
        artifact.load_bytes(manifest, weights)


def test_a_graph_beside_a_model_of_torch_is_refused(tmp_path):
    artifact.save(build(), tmp_path)
    (tmp_path / artifact.EXPORTED_NAME).write_bytes(graph())
    refused(tmp_path, "FILES")


@pytest.mark.parametrize(("runtime", "reason"), [("onnx-int8", "CONFIG_MISMATCH"), ("tensorrt", "MANIFEST")])
def test_another_runtime_in_the_manifest_is_refused(folder, runtime, reason):
    edit(folder, lambda fields: fields["config"].update(runtime=runtime))
    refused(folder, reason)


def test_a_model_of_torch_cannot_be_told_to_run_a_graph(tmp_path):
    artifact.save(build(), tmp_path)
    (tmp_path / artifact.EXPORTED_NAME).write_bytes(graph())
    edit(tmp_path, lambda fields: fields["config"].update(runtime="onnx"))
    refused(tmp_path, "CONFIG_MISMATCH")


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"not a graph", r"the graph must be an ONNX model"), (graph(name="x"), r"must map inputs to probabilities")],
)
def test_what_is_no_graph_of_ours_is_refused_although_its_digest_is_right(data, message):
    packed = build(exported=data)
    with pytest.raises(ArtifactInvalid, match=message):
        artifact.load_bytes(packed.manifest.to_bytes(), packed.weights, exported=data)


def test_a_graph_that_answers_nonsense_is_told_from_one_that_answers():
    model = ExportedModel(graph(bias=(float("nan"), 0, 0)))
    with pytest.raises(PermanentError, match="must be finite") as caught:
        model.predict(np.stack(INPUTS))
    assert caught.value.code == "NON_FINITE_OUTPUT"


def test_torch_is_not_loaded_to_serve_a_graph(folder):
    """Half the memory of a server, and seconds of its start."""
    shutil.copy(folder / artifact.MANIFEST_NAME, folder / "serving.json")
    code = (
        "import pathlib, sys\n"
        "from bento_services.inference.model_version import load_model\n"
        f"model = load_model(pathlib.Path({str(folder)!r}))\n"
        "assert model.predict([model.example()]).shape == (1, 3) and model.runtime == 'onnx'\n"
        "model.recover()\n"
        "print('torch' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_the_graph_of_this_test_is_valid():
    onnx.checker.check_model(onnx.load_from_string(graph()))


def initializer(model):
    return model.graph.initializer[3]


def in_a_branch(model):
    """The tensor of a constant in a branch of an If."""
    tensor = helper.make_tensor("deep", TensorProto.FLOAT, [3], [0.0, 0.0, 0.0])
    branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "b", [], [])
    model.graph.node.append(helper.make_node("If", ["zero"], ["x"], then_branch=branch, else_branch=branch))
    return model.graph.node[-1].attribute[0].g.node[0].attribute[0].t


def in_a_function(model):
    tensor = helper.make_tensor("inside", TensorProto.FLOAT, [3], [0.0, 0.0, 0.0])
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    model.functions.append(helper.make_function("own", "f", [], ["c"], [node], [helper.make_opsetid("", 20)]))
    return model.functions[0].node[0].attribute[0].t


def sparse(model):
    made = model.graph.sparse_initializer.add()
    made.dims.append(3)
    made.values.CopyFrom(helper.make_tensor("few", TensorProto.FLOAT, [1], [0.0]))
    return made.values


def only_marked(model):
    """A tensor that says it lies elsewhere, and not where."""
    tensor = model.graph.initializer[3]
    tensor.data_location = TensorProto.EXTERNAL


@pytest.mark.parametrize("place", [initializer, in_a_branch, in_a_function, sparse, only_marked])
@pytest.mark.parametrize("location", ["weights.bin", "/etc/hostname", "../secret"])
def test_h12_a_graph_that_reads_a_file_is_refused(tmp_path, monkeypatch, place, location):
    """Source: onnx/onnx "external data" (path traversal, CVE-2022-25882 and CVE-2024-27318)."""
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "weights.bin"
    secret.write_bytes(np.array([0.5, 0.25, 0.25], np.float32).tobytes())
    model = onnx.load_from_string(graph())
    tensor = place(model)
    if tensor is not None:
        tensor.ClearField("float_data")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "12")):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
    with pytest.raises(ArtifactInvalid, match=r"EXPORTED.*must hold all of its tensors itself"):
        ExportedModel(model.SerializeToString())


def test_h12_a_compiled_graph_in_a_file_is_refused():
    model = onnx.load_from_string(graph())
    model.graph.node.append(helper.make_node("EPContext", [], ["x"], domain="com.microsoft", embed_mode=0))
    with pytest.raises(ArtifactInvalid, match=r"EPContext"):
        ExportedModel(model.SerializeToString())


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x3a\xff\xff\xff\x7f", b"\x3b", graph()[:-3], b"\x80" * 12])
def test_h12_what_is_no_graph_is_refused(data):
    with pytest.raises(ArtifactInvalid, match=r"EXPORTED"):
        ExportedModel(data)


def test_h12_a_graph_nested_without_end_is_refused():
    data = b""
    for field in (6, 5, 1) * MAX_DEPTH:  # a graph in an attribute in a node of a graph, and so on
        data = field_of(field, data)
    with pytest.raises(ArtifactInvalid, match=r"EXPORTED.*nested more than 64 deep"):
        ExportedModel(field_of(7, data))


def field_of(number: int, data: bytes) -> bytes:
    length, size = len(data), []
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + data
