"""From decoded items to predictions: batches, warm-up, and one item's failure kept to that item. No HTTP here."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Protocol

from bento_services.inference.schemas import MODEL_FAILED, Prediction, Row
from pipeline_tasks.models.base import Array

logger = logging.getLogger(__name__)

BATCH_SIZES = (1, 2, 4, 8, 16)
MAX_BATCH_SIZE = BATCH_SIZES[-1]


class Model(Protocol):
    """One loaded model version."""

    version: str
    labels: tuple[str, ...]

    def decode(self, data: bytes) -> Array:
        """Return one item; InputError when its bytes are unusable."""

    def example(self) -> Array:
        """Return a decoded item of the right shape, for warming up and for probing."""

    def predict(self, items: Sequence[Array]) -> Sequence[Sequence[float]]:
        """Return the probabilities of each item; PermanentError on an output that is not finite."""


def predict_rows(model: Model, items: Sequence[Array]) -> list[Row]:
    """Return one row per item, in order; when a pass fails, one by one, so that only the guilty item has no answer."""
    try:
        return _one_pass(model, items)
    except Exception:
        if len(items) == 1:
            logger.exception("the model failed on one item")
            return [MODEL_FAILED]
        logger.warning("a batch of %d failed; predicting its items one by one", len(items))
        return [row for item in items for row in predict_rows(model, [item])]


def _one_pass(model: Model, items: Sequence[Array]) -> list[Row]:
    probabilities = model.predict(items)
    if len(probabilities) != len(items) or any(len(row) != len(model.labels) for row in probabilities):
        raise ValueError(f"the model must answer {len(items)} rows of {len(model.labels)} (got {len(probabilities)}).")
    if not all(math.isfinite(value) for row in probabilities for value in row):
        raise ValueError("the model must answer with finite numbers (got NaN or infinity).")
    return [Prediction(model.version, model.labels, tuple(float(value) for value in row)) for row in probabilities]


def warm_up(model: Model, *, sizes: Sequence[int] = BATCH_SIZES) -> None:
    """Run every batch size through the model, so that no user's request pays for it."""
    for size in sizes:
        model.predict([model.example()] * size)


def probe(model: Model) -> bool:
    """Return whether the model predicts now: what readiness means."""
    (row,) = predict_rows(model, [model.example()])
    return isinstance(row, Prediction)
