"""Validation metrics of one training, with intervals. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline_tasks.core.proportions import wilson_interval


def validation_metrics(
    probabilities_nc: npt.NDArray[np.float32], targets_n: npt.NDArray[np.int64], classes: Sequence[str]
) -> dict[str, Any]:
    """Return what a model's probabilities (n, c) are worth against the right classes, overall and per class.

    Accuracy is the share of right answers; F1 the harmonic mean of precision and recall, macro F1 its mean over the
    classes that occur; log loss the mean of -log of the right class's probability. `constant` is what always answering
    the commonest class of the same items is worth: a model has to be worth more.
    """
    predicted_n = probabilities_nc.argmax(axis=1)
    right = int((predicted_n == targets_n).sum())
    per_class = {name: _class_metrics(predicted_n == index, targets_n == index) for index, name in enumerate(classes)}
    occurring = [entry["f1"] for entry in per_class.values() if entry["num_items"]]
    chosen = probabilities_nc[np.arange(len(targets_n)), targets_n].astype(np.float64)
    return {
        "num_items": len(targets_n),
        "accuracy": _rounded(right / len(targets_n)),
        "accuracy_interval": _interval(right, len(targets_n)),
        "macro_f1": _rounded(sum(occurring) / len(occurring)),
        "log_loss": _rounded(float(-np.log(np.maximum(chosen, 1e-12)).mean())),
        "constant": constant_answer(targets_n, classes),
        "per_class": per_class,
    }


def whole_figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of the whole among validation metrics, by name."""
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def constant_answer(targets_n: npt.NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """Return the commonest class, its share, and the macro F1 of answering nothing else."""
    counts_c = np.bincount(targets_n, minlength=len(classes))
    most = int(counts_c.max())
    f1 = 2 * most / (len(targets_n) + most)
    return {
        "label": classes[int(counts_c.argmax())],
        "accuracy": _rounded(most / len(targets_n)),
        "macro_f1": _rounded(f1 / int((counts_c > 0).sum())),
    }


def _class_metrics(predicted_n: npt.NDArray[np.bool_], actual_n: npt.NDArray[np.bool_]) -> dict[str, Any]:
    hits, named, there = int((predicted_n & actual_n).sum()), int(predicted_n.sum()), int(actual_n.sum())
    return {
        "num_items": there,
        "precision": _rounded(hits / named) if named else 0.0,
        "recall": _rounded(hits / there) if there else 0.0,
        "recall_interval": _interval(hits, there),
        "f1": _rounded(2 * hits / (named + there)) if named + there else 0.0,
    }


def _interval(successes: int, total: int) -> list[float]:
    if not total:
        return [0.0, 1.0]
    interval = wilson_interval(successes, total)
    return [_rounded(interval.low), _rounded(interval.high)]


def _rounded(value: float) -> float:
    return round(value, 6)
