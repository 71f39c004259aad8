"""One model version, loaded from its files after every check of the artifact's chain of trust."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from bento_services.inference.example_items import encoded_samples, plain_arrays
from pipeline_tasks.errors import PipelineError
from pipeline_tasks.models.artifact import MANIFEST_NAME, LoadedModel, load_stored, read_manifest
from pipeline_tasks.models.base import Array, Signature
from pipeline_tasks.models.runtimes import TORCH, device_of

logger = logging.getLogger(__name__)


class ModelVersion:
    """A model version as the service asks it."""

    def __init__(self, loaded: LoadedModel, *, device: str = "cpu") -> None:
        self._loaded = loaded
        self.device = device
        self.runtime = loaded.runtime
        self.version = loaded.manifest.config.version
        self.labels = loaded.classes

    @property
    def signature(self) -> Signature:
        """Return the shape and dtype of a decoded item."""
        return self._loaded.manifest.config.signature

    def decode(self, data: bytes) -> Array:
        """Return one item; InputError when its bytes are unusable."""
        return self._loaded.decode(data)

    def example(self) -> Array:
        """Return an item that the model can predict, to measure, warm up and probe with."""
        return self._example

    @functools.cached_property
    def _example(self) -> Array:
        """Return the first sample that the model answers; zeros when it answers none: the probe will then say so."""
        for item in self._samples():
            try:
                self.predict([item])
            except Exception as error:  # noqa: BLE001  (an own recipe may raise anything)
                logger.info("a sample of shape %s is not answered (%s)", item.shape, error)
                continue
            return item
        return next(plain_arrays(self.signature))

    def _samples(self) -> Iterator[Array]:
        for _, data in encoded_samples(self.signature):
            with contextlib.suppress(PipelineError):
                yield self.decode(data)
        yield from plain_arrays(self.signature)

    def predict(self, items: Sequence[Array]) -> Array:
        """Return the probabilities (n, c) of the items; PermanentError on an output that is not finite."""
        return self._loaded.predict(list(items))

    def recover(self) -> None:
        """Give the GPU's cached memory back."""
        if self.device != "cpu":
            import torch

            torch.cuda.empty_cache()


def load_model(folder: Path) -> ModelVersion:
    """Load the model version; ArtifactInvalid when a byte of it is not what was trained and judged.

    The folder may hold other files: BentoML's model store adds its own, and the release its tuning.
    """
    runtime = read_manifest((folder / MANIFEST_NAME).read_bytes()).config.runtime
    if runtime in TORCH:
        _prepare_torch()
    device = device_of(runtime)
    return ModelVersion(
        load_stored(lambda name: (folder / name).read_bytes(), device=device),
        device=device,
    )


def _prepare_torch() -> None:
    """Give torch one thread, for determinism and throughput: the machine is shared by replicas, not by threads."""
    import torch

    torch.set_num_threads(1)
    # The gate may have judged on a CPU: TF32 would answer otherwise, and who wants speed on a GPU says `amp`.
    torch.backends.cudnn.allow_tf32 = False
