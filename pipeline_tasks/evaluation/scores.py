"""Scores: what one model is worth on one exam, its figures with their intervals and by class. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from pipeline_tasks.core.proportions import NOT_A_NUMBER, Interval
from pipeline_tasks.evaluation import metrics
from pipeline_tasks.evaluation.gate_metrics import SEED, Truth, metrics_told
from pipeline_tasks.evaluation.metrics import Array, ClassScore, OutputHealth, ReliabilityBin


@dataclasses.dataclass(frozen=True, slots=True)
class ModelScores:
    """One model on one exam. Figures (by the name of the metric) are NaN where its outputs are no probabilities.

    `calibration_expected` is the calibration error that a model of these confidences has on so many items although they
    are true; None in verdicts of rules that did not know it.
    """

    figures: Mapping[str, Interval]
    calibration_error: float
    classes: tuple[ClassScore, ...]
    bins: tuple[ReliabilityBin, ...]
    confusion: tuple[tuple[int, ...], ...]
    health: OutputHealth
    calibration_expected: float | None = None

    @property
    def accuracy(self) -> Interval:
        """The share of items that are right: every verdict has it, whatever the gate goes by."""
        return self.figures["accuracy"]

    @property
    def is_finite(self) -> bool:
        return all(figure.is_finite for figure in self.figures.values())


def score(probabilities_nc: Array, answer_n: Array, truth: Truth, *, metric: str) -> ModelScores:
    """Return every figure of one model on one exam, that of the gate's metric included."""
    health, told = metrics.output_health(probabilities_nc), metrics_told(metric)
    usable = health.num_non_finite == 0 and health.num_not_probabilities == 0 and len(truth.truth_n) > 0
    if not usable:
        return ModelScores({figure.name: NOT_A_NUMBER for figure in told}, math.nan, (), (), (), health)
    counts_cc = metrics.confusion_matrix(truth.truth_n, answer_n, num_classes=len(truth.classes))
    confidence_n = probabilities_nc.max(axis=1).astype(np.float64)
    bins = metrics.reliability_bins(confidence_n, np.equal(answer_n, truth.truth_n))
    expected = None
    if truth.group_n is not None:
        expected = metrics.expected_calibration_error(confidence_n, seed=SEED)
    return ModelScores(
        figures={figure.name: figure.interval(truth, answer_n) for figure in told},
        calibration_error=metrics.calibration_error(bins),
        classes=metrics.class_scores(counts_cc, classes=truth.classes),
        bins=bins,
        confusion=tuple(tuple(int(count) for count in row) for row in counts_cc),
        health=health,
        calibration_expected=expected,
    )
