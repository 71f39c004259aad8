"""Ground that the servers of the comparison share: the same files, the same code for a batch, one thread.

BENCH_MODEL is the model version's folder, BENCH_KIND image (12,288 raw bytes) or text (UTF-8), BENCH_PORT the port.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline_tasks.models.artifact import LoadedModel
from pipeline_tasks.models.artifact import load as load_folder

MAX_BATCH = 32
WAIT_SECONDS = 0.005
KIND = os.environ.get("BENCH_KIND", "image")
PORT = int(os.environ.get("BENCH_PORT", "3000"))
SHAPE = (3, 64, 64)


def load() -> LoadedModel:
    """Load the model version, and run it once at sizes that will occur."""
    torch.set_num_threads(1)
    model = load_folder(Path(os.environ["BENCH_MODEL"]))
    example = np.zeros(SHAPE, np.uint8) if KIND == "image" else np.ones(48, np.int64)
    for size in (1, 2, 4, 8, 16, 32):
        model.predict([example] * size)
    return model


def predict(model: LoadedModel, bodies: list[bytes]) -> list[list[float]]:
    """Return the probabilities of raw items."""
    items: list[npt.NDArray[Any]]
    if KIND == "image":
        items = [np.frombuffer(body, np.uint8).reshape(SHAPE) for body in bodies]
    else:
        items = [model.decode(body) for body in bodies]
    return model.predict(items).tolist()


def from_text(item: str) -> bytes:
    """Return the raw item of a JSON string: base64 of an image, or the text itself."""
    return base64.b64decode(item) if KIND == "image" else item.encode()
