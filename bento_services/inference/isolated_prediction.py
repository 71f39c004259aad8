"""From decoded items to probabilities: passes, warm-up, and one item's failure kept to that item. No HTTP here."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from bento_services.inference.responses import MODEL_FAILED, PredictionError, Row
from pipeline_tasks.models.base import Array

logger = logging.getLogger(__name__)


class Model(Protocol):
    """One loaded model version."""

    version: str
    labels: tuple[str, ...]

    def decode(self, data: bytes) -> Array:
        """Return one item; InputError when its bytes are unusable."""

    def example(self) -> Array:
        """Return a decoded item of the right shape, for warming up and for probing."""

    def predict(self, items: Sequence[Array]) -> Array:
        """Return the probabilities (n, c) of the items; PermanentError on an output that is not finite."""

    def recover(self) -> None:
        """Give back what a failed pass holds (a GPU's cached memory)."""


def predict_rows(model: Model, items: Sequence[Array]) -> list[Row]:
    """Return one row per item, in order; a failed pass is halved until only the guilty items have no answer.

    Halves, not single items: what did not fit into memory often fits in two, and one guilty item of n costs about two
    passes' work, not n passes.
    """
    try:
        return list(_one_pass(model, items))
    except Exception:  # noqa: BLE001  whatever it is, it must fail the guilty item only
        # As text, and the rest outside this handler: a traceback keeps the failed pass's tensors in memory.
        logger.error("a pass of %d items failed\n%s", len(items), traceback.format_exc())  # noqa: TRY400
    model.recover()
    if len(items) <= 1:
        return [MODEL_FAILED] * len(items)
    middle = len(items) // 2
    return predict_rows(model, items[:middle]) + predict_rows(model, items[middle:])


def _one_pass(model: Model, items: Sequence[Array]) -> list[list[float]]:
    probabilities_nc = model.predict(items)
    expected = (len(items), len(model.labels))
    if probabilities_nc.shape != expected:
        raise ValueError(f"the model must answer with the shape {expected} (got {probabilities_nc.shape}).")
    if not np.isfinite(probabilities_nc).all():
        raise ValueError("the model must answer with finite numbers (got NaN or infinity).")
    rows: list[list[float]] = probabilities_nc.tolist()
    return rows


def probe(model: Model) -> bool:
    """Return whether the model predicts now: what readiness means."""
    (row,) = predict_rows(model, [model.example()])
    return not isinstance(row, PredictionError)
