"""A model version as ONNX Runtime runs it: on the CPU, with one thread, without torch. Shapes: n items, c classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline_tasks.models.base import Array, check_probabilities
from pipeline_tasks.models.onnx_references import external_references
from pipeline_tasks.models.weights_file import ArtifactInvalid

INPUT_NAME, OUTPUT_NAME = "inputs", "probabilities"
PROVIDERS = ("CPUExecutionProvider",)
ERRORS_ONLY = 3


class ExportedModel:
    """A graph from a collated batch to probabilities; ArtifactInvalid EXPORTED when it is not one."""

    def __init__(self, data: bytes) -> None:
        import onnxruntime

        _refuse_references(data)
        options = onnxruntime.SessionOptions()
        # As with torch: the machine is shared by processes, and one thread gives the same bits everywhere.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=list(PROVIDERS))
            names = [one.name for one in (*self._session.get_inputs(), *self._session.get_outputs())]
        except Exception as error:  # noqa: BLE001  (ONNX Runtime's errors have no common class of their own)
            raise ArtifactInvalid("EXPORTED", f"ONNX Runtime must take the graph (got: {str(error)[:200]}).") from None
        if names != [INPUT_NAME, OUTPUT_NAME]:
            raise ArtifactInvalid("EXPORTED", f"the graph must map {INPUT_NAME} to {OUTPUT_NAME} (got {names[:10]}).")

    def predict(self, batch: Array) -> npt.NDArray[np.float32]:
        """Return the probabilities (n, c) of a collated batch; PermanentError NON_FINITE_OUTPUT on a NaN."""
        (probabilities_nc,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: np.ascontiguousarray(batch)})
        return check_probabilities(np.asarray(probabilities_nc), num_rows=len(batch))


def _refuse_references(data: bytes) -> None:
    """Raise ArtifactInvalid EXPORTED if the graph reads a file: its bytes would be in no digest."""
    try:
        found = external_references(data)
    except ValueError as error:
        raise ArtifactInvalid("EXPORTED", f"the graph must be an ONNX model (got {error}).") from None
    if found:
        raise ArtifactInvalid("EXPORTED", f"the graph must hold all of its tensors itself (not: {found[:10]}).")
