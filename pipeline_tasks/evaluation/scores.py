"""Scores: what one model is worth on one exam, its figures with their intervals and by class. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from pipeline_tasks.core.proportions import NOT_A_NUMBER, SHOWN_CONFIDENCE, Interval, wilson_interval
from pipeline_tasks.evaluation import groups, metrics, statistics
from pipeline_tasks.evaluation.metrics import Array, ClassScore, OutputHealth, ReliabilityBin

SEED = 20260101


@dataclasses.dataclass(frozen=True, slots=True)
class ModelScores:
    """One model on one exam. Figures are NaN where its outputs are no probabilities.

    `calibration_expected` is the calibration error that a model of these confidences has on so many items although they
    are true; None in verdicts of rules that did not know it.
    """

    accuracy: Interval
    macro_f1: Interval
    calibration_error: float
    classes: tuple[ClassScore, ...]
    bins: tuple[ReliabilityBin, ...]
    confusion: tuple[tuple[int, ...], ...]
    health: OutputHealth
    calibration_expected: float | None = None

    def metric(self, name: str) -> Interval:
        """Return the figure of `accuracy` or `macro_f1`."""
        return {"accuracy": self.accuracy, "macro_f1": self.macro_f1}[name]


def score(
    probabilities_nc: Array, answer_n: Array, truth_n: Array, *, classes: Sequence[str], group_n: Array | None
) -> ModelScores:
    """Return every figure of one model on one exam; `group_n` is None for rules that knew no groups."""
    health = metrics.output_health(probabilities_nc)
    usable = health.num_non_finite == 0 and health.num_not_probabilities == 0 and len(truth_n) > 0
    if not usable:
        nan = NOT_A_NUMBER
        return ModelScores(nan, nan, math.nan, (), (), (), health)
    correct_n: Array = np.equal(answer_n, truth_n)
    counts_cc = metrics.confusion_matrix(truth_n, answer_n, num_classes=len(classes))
    confidence_n = probabilities_nc.max(axis=1).astype(np.float64)
    bins = metrics.reliability_bins(confidence_n, correct_n)
    return ModelScores(
        accuracy=_accuracy_interval(correct_n, group_n),
        macro_f1=_macro_f1_interval(truth_n, answer_n, group_n, counts_cc=counts_cc),
        calibration_error=metrics.calibration_error(bins),
        classes=metrics.class_scores(counts_cc, classes=classes),
        bins=bins,
        confusion=tuple(tuple(int(count) for count in row) for row in counts_cc),
        health=health,
        calibration_expected=metrics.expected_calibration_error(confidence_n, seed=SEED)
        if group_n is not None
        else None,
    )


def _accuracy_interval(correct_n: Array, group_n: Array | None) -> Interval:
    if group_n is None or groups.are_single(group_n):
        return wilson_interval(int(correct_n.sum()), len(correct_n))
    return groups.share_bounds(correct_n, group_n, alpha=(1 - SHOWN_CONFIDENCE) / 2)


def _macro_f1_interval(truth_n: Array, answer_n: Array, group_n: Array | None, *, counts_cc: Array) -> Interval:
    options = {"num_classes": len(counts_cc), "seed": SEED, "num_resamples": statistics.NUM_RESAMPLES}
    if group_n is None or groups.are_single(group_n):
        resamples_r, _ = statistics.bootstrap_macro_f1(truth_n, answer_n, answer_n, **options)
    else:
        resamples_r, _ = groups.bootstrap_macro_f1(truth_n, answer_n, answer_n, group_n, **options)
    tail = (1 - SHOWN_CONFIDENCE) / 2
    low, high = np.quantile(resamples_r, [tail, 1 - tail])
    return Interval(metrics.macro_f1(counts_cc), float(low), float(high))
