"""Metrics of one model's answers on one exam. Pure; arrays end in their shape: n items, c classes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline_tasks.core.proportions import Interval, wilson_interval

NUM_CALIBRATION_BINS = 15
CONSTANT_SPREAD = 1e-7
SUM_TOLERANCE = 1e-3
NUM_CALIBRATED = 200

Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class ClassScore:
    """One class on one exam: how many items carry it, the share of them found, the share of its answers right."""

    label: str
    num_items: int
    recall: Interval
    precision: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Answers whose confidence lies in (low, high]: mean confidence beside the share that is right."""

    low: float
    high: float
    num_items: int
    confidence: float
    accuracy: float


@dataclasses.dataclass(frozen=True, slots=True)
class OutputHealth:
    """Counts of raw outputs that are no probabilities."""

    num_non_finite: int
    num_not_probabilities: int
    constant: bool


def confusion_matrix(truth_n: Array, predicted_n: Array, *, num_classes: int) -> Array:
    """Return counts_cc: row = true class, column = answered class."""
    flat = np.bincount(truth_n * num_classes + predicted_n, minlength=num_classes * num_classes)
    return flat.reshape(num_classes, num_classes)


def class_scores(counts_cc: Array, *, classes: Sequence[str]) -> tuple[ClassScore, ...]:
    """Return recall (with Wilson interval) and precision of each class, in the order of `classes`."""
    scores = []
    for index, label in enumerate(classes):
        num_items, num_answers = int(counts_cc[index].sum()), int(counts_cc[:, index].sum())
        hits = int(counts_cc[index, index])
        precision = hits / num_answers if num_answers else None
        scores.append(ClassScore(label, num_items, wilson_interval(hits, num_items), precision))
    return tuple(scores)


def reliability_bins(
    confidence_n: Array, correct_n: Array, *, num_bins: int = NUM_CALIBRATION_BINS
) -> tuple[ReliabilityBin, ...]:
    """Return the filled bins of equal width over confidence 0..1."""
    edges = np.linspace(0, 1, num_bins + 1)
    bin_n = np.clip(np.ceil(confidence_n * num_bins).astype(int) - 1, 0, num_bins - 1)
    bins = []
    for index in range(num_bins):
        inside_n = bin_n == index
        if inside_n.any():
            bins.append(
                ReliabilityBin(
                    low=float(edges[index]),
                    high=float(edges[index + 1]),
                    num_items=int(inside_n.sum()),
                    confidence=float(np.mean(confidence_n[inside_n], dtype=np.float64)),
                    accuracy=float(np.mean(correct_n[inside_n], dtype=np.float64)),
                )
            )
    return tuple(bins)


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Return the expected calibration error, 0 to 1: how far confidence is from the share right, on average.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2.
    """
    num_items = sum(bin_.num_items for bin_ in bins)
    if num_items == 0:
        return math.nan
    return sum(bin_.num_items * abs(bin_.confidence - bin_.accuracy) for bin_ in bins) / num_items


def expected_calibration_error(confidence_n: Array, *, seed: int, num_resamples: int = NUM_CALIBRATED) -> float:
    """Return the mean calibration error, on so many items, of models whose confidences are true: chance alone.

    Right and wrong are drawn by each answer's own confidence. Source: Vaicenavicius et al. 2019, "Evaluating model
    calibration in classification", section 4 (consistency resampling).
    """
    if len(confidence_n) == 0:
        return math.nan
    bin_n = np.clip(np.ceil(confidence_n * NUM_CALIBRATION_BINS).astype(int) - 1, 0, NUM_CALIBRATION_BINS - 1)
    filled_n = np.unique(bin_n, return_inverse=True)[1]
    sums_b = np.bincount(filled_n, weights=confidence_n)
    random = np.random.default_rng(seed)
    errors = [
        np.abs(np.bincount(filled_n, weights=random.random(len(confidence_n)) < confidence_n) - sums_b).sum()
        for _ in range(num_resamples)
    ]
    return float(np.mean(errors) / len(confidence_n))


def output_health(probabilities_nc: Array) -> OutputHealth:
    """Return what is wrong with raw outputs: NaN or infinity, rows that are no probabilities, one answer to all."""
    finite_n = np.isfinite(probabilities_nc).all(axis=1)
    rows_nc = probabilities_nc[finite_n].astype(np.float64)
    wrong_n = (rows_nc < -SUM_TOLERANCE).any(axis=1) | (np.abs(rows_nc.sum(axis=1) - 1) > SUM_TOLERANCE)
    spread = float(np.ptp(rows_nc, axis=0).max()) if len(rows_nc) > 1 else math.inf
    return OutputHealth(
        num_non_finite=int((~finite_n).sum()),
        num_not_probabilities=int(wrong_n.sum()),
        constant=spread <= CONSTANT_SPREAD,
    )
