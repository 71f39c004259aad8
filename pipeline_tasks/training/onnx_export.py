"""From a trained module to the graph that ONNX Runtime serves. Shapes: n items, c classes.

The graph is a function of the weights and of training items, so that a training that is repeated gives the same bytes:
traces of source files and paths are taken out, and calibration reads items in a fixed order.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from pipeline_tasks.contracts import Runtime
from pipeline_tasks.errors import PermanentError
from pipeline_tasks.models.base import Array, Recipe, Signature
from pipeline_tasks.models.exported import INPUT_NAME, OUTPUT_NAME, ExportedModel

TOLERANCE = 1e-4  # as for golden requests
SIZES = (1, 3, 64)
QUANTIZED = ("Conv", "Gemm", "MatMul")
TRACES = frozenset({"doc_string", "metadata_props"})


@dataclasses.dataclass(frozen=True, slots=True)
class Export:
    """A graph as bytes, and what was found when it was made."""

    data: bytes
    facts: dict[str, Any]


class _Probabilities(torch.nn.Module):
    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.module(inputs).float(), dim=1)


def export_module(
    recipe: Recipe, module: torch.nn.Module, *, runtime: Runtime, signature: Signature, items: Sequence[Array]
) -> Export:
    """Return the module as a graph for `onnx` or `onnx-int8`; `items` are decoded training items, never the exam's.

    With `onnx` it has to answer as the recipe's `predict_batch` does. What int8 changes is for the gate to judge.

    Raises:
        PermanentError: EXPORT_FAILED, torch cannot write it, it answers differently, or has no layer to quantize.
    """
    plain = copy.deepcopy(module).cpu().eval()
    batches = [recipe.collate(items[start : start + size]) for start, size in _cuts(len(items))]
    expected_nc = _expected(recipe, plain, batches)
    graph = _to_onnx(plain, _sample(recipe, items, signature), signature=signature)
    difference = float(np.abs(_answers(graph, batches) - expected_nc).max())
    if difference > TOLERANCE:
        raise _failed(f"answer as in torch, within {TOLERANCE} (got a difference of {difference:.2g})")
    facts: dict[str, Any] = {"num_items": len(items), "max_difference": difference}
    if runtime == "onnx-int8":
        graph = _quantize(graph, batches)
        got_nc = _answers(graph, batches)
        facts["int8_max_difference"] = float(np.abs(got_nc - expected_nc).max())
        facts["int8_same_answer"] = float((got_nc.argmax(axis=1) == expected_nc.argmax(axis=1)).mean())
    return Export(graph, facts)


def _expected(recipe: Recipe, module: torch.nn.Module, batches: Sequence[Array]) -> npt.NDArray[np.float32]:
    return np.concatenate([recipe.predict_batch(module, batch) for batch in batches])


def _cuts(count: int) -> Iterator[tuple[int, int]]:
    """Yield start and size of batches that cover so many items: some small, the rest large."""
    start, sizes = 0, [*SIZES]
    while start < count:
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        yield start, size
        start += size


def _sample(recipe: Recipe, items: Sequence[Array], signature: Signature) -> Array:
    """Return a batch to trace with: torch takes an axis of length 1 for one that is always so."""
    longest = sorted(items, key=len, reverse=True) if -1 in signature.input_shape else items
    return recipe.collate([longest[0], longest[-1]])


def _to_onnx(module: torch.nn.Module, sample: Array, *, signature: Signature) -> bytes:
    free = [0, *(axis + 1 for axis, size in enumerate(signature.input_shape) if size == -1)]
    dims = dict.fromkeys(free, torch.export.Dim.AUTO)
    inputs = torch.from_numpy(np.require(sample, requirements=["C", "W"]))
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                _Probabilities(module).eval(),
                (inputs,),
                dynamo=True,
                dynamic_shapes=(dims,),
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                verbose=False,
            )
            model = cast("torch.onnx.ONNXProgram", program).model_proto
    except Exception as error:
        raise _failed(f"be one that torch can write (got {type(error).__name__}: {str(error)[:200]})") from error
    _strip(model)
    return bytes(model.SerializeToString(deterministic=True))


def _strip(message: Any) -> None:
    """Take out of a protobuf message where the operations came from: paths of this machine."""
    for field, value in message.ListFields():
        if field.name in TRACES:
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                _strip(part)


def _answers(graph: bytes, batches: Sequence[Array]) -> npt.NDArray[np.float32]:
    try:
        model = ExportedModel(graph)
        return np.concatenate([model.predict(batch) for batch in batches])
    except Exception as error:
        raise _failed(f"run in ONNX Runtime (got {type(error).__name__}: {str(error)[:200]})") from error


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, batches: Sequence[Array]) -> None:
        self._left = iter(batches)

    def get_next(self) -> dict[str, Array] | None:
        batch = next(self._left, None)
        return None if batch is None else {INPUT_NAME: np.ascontiguousarray(batch)}


def _quantize(graph: bytes, batches: Sequence[Array]) -> bytes:
    """Return the graph with its convolutions and matrix products in 8 bits, their ranges taken from the batches.

    Weights have 7 bits of range: with 8, AVX2's products saturate and AVX-512's do not, and two machines would answer
    differently (Source: ONNX Runtime, "Quantize ONNX Models", section on reduce_range).
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix="dethrone-export-") as folder:
        given, prepared, quantized = (Path(folder) / f"{name}.onnx" for name in ("given", "prepared", "quantized"))
        given.write_bytes(graph)
        with _quiet():
            quant_pre_process(given, prepared, skip_symbolic_shape=True)
            model = onnx.load(prepared)
            constants = {tensor.name for tensor in model.graph.initializer}
            nodes = [node.name for node in model.graph.node if node.op_type in QUANTIZED and node.input[1] in constants]
            if not nodes:
                raise _failed(f"have a layer to quantize: {', '.join(QUANTIZED)} with weights (got none)")
            quantize_static(
                model,
                quantized,
                _Batches(batches),
                nodes_to_quantize=nodes,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        model = onnx.load(quantized)
    _strip(model)
    return bytes(model.SerializeToString(deterministic=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' advice to their developers out of the task's log."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _failed(expected: str) -> PermanentError:
    return PermanentError(
        f"the model's graph must {expected}. Set serving.runtime to eager in project.yaml, or change the recipe's "
        "network (docs/recipes.md).",
        code="EXPORT_FAILED",
    )
