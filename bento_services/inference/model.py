"""One model version, loaded from its two files after every check of the artifact's chain of trust."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline_tasks.models.artifact import MANIFEST_NAME, WEIGHTS_NAME, LoadedModel, load_bytes
from pipeline_tasks.models.base import Array, Signature

USUAL_LENGTH = 64  # words of a short text


class ModelVersion:
    """What the service asks of a model version."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self.version = loaded.manifest.config.version
        self.labels = loaded.classes

    @property
    def signature(self) -> Signature:
        """Return the shape and dtype of a decoded item."""
        return self._loaded.manifest.config.signature

    def decode(self, data: bytes) -> Array:
        """Return one item; InputError when its bytes are unusable."""
        return self._loaded.decode(data)

    @functools.cached_property
    def _free_length(self) -> int:
        """Return a length for free dimensions: a usual one, or 1 where the model cannot take that."""
        try:
            self.predict([_zeros(self.signature, USUAL_LENGTH)])
        except Exception:  # noqa: BLE001  (an own recipe may raise anything; the probe will tell if 1 fails too)
            return 1
        return USUAL_LENGTH

    def example(self) -> Array:
        """Return zeros of the signature's shape, to measure and warm up with."""
        free = -1 in self.signature.input_shape
        return _zeros(self.signature, self._free_length if free else 1)

    def predict(self, items: Sequence[Array]) -> Array:
        """Return the probabilities (n, c) of the items; PermanentError on an output that is not finite."""
        return self._loaded.predict(list(items))

    def recover(self) -> None:
        """Give the GPU's cached memory back."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _zeros(signature: Signature, length: int) -> Array:
    return np.zeros([length if size == -1 else size for size in signature.input_shape], dtype=signature.input_dtype)


def load_model(folder: Path) -> ModelVersion:
    """Load the model version; ArtifactInvalid when a byte of it is not what was trained and judged.

    The folder may hold other files: BentoML's model store adds its own, and the release its tuning.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    manifest = (folder / MANIFEST_NAME).read_bytes()
    return ModelVersion(load_bytes(manifest, (folder / WEIGHTS_NAME).read_bytes(), device=device))
