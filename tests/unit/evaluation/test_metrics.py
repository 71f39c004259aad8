"""Exact values, from the papers' own examples or counted by hand."""

import math

import numpy as np
import pytest

from pipeline_tasks.evaluation import metrics
from pipeline_tasks.evaluation.gate_metrics import METRICS, Truth

TRUTH = np.array([0, 0, 0, 1, 1, 2])
ANSWERS = np.array([0, 0, 1, 1, 2, 2])


def test_confusion_matrix_has_truth_in_rows():
    counts = metrics.confusion_matrix(TRUTH, ANSWERS, num_classes=3)
    assert counts.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(
    ("truth", "answers", "expected"),
    [(TRUTH, ANSWERS, (0.8 + 0.5 + 2 / 3) / 3), (np.array([0, 0, 1]), np.array([0, 2, 1]), (2 / 3 + 1) / 2)],
    ids=["mean over classes", "a class without items, and wrong answers"],
)
def test_macro_f1_is_of_the_classes_with_items(truth, answers, expected):
    assert METRICS["macro_f1"].figure(Truth(("a", "b", "c"), truth, None), answers) == pytest.approx(expected)


def test_class_scores_count_recall_and_precision():
    counts = metrics.confusion_matrix(TRUTH, ANSWERS, num_classes=4)
    shirt, shoe, bag, boot = metrics.class_scores(counts, classes=["shirt", "shoe", "bag", "boot"])
    assert (shirt.num_items, shirt.recall.estimate, shirt.precision) == (3, pytest.approx(2 / 3), 1.0)
    assert (shoe.recall.estimate, shoe.precision) == (0.5, 0.5)
    assert (bag.recall.estimate, bag.precision) == (1.0, 0.5)
    assert (boot.num_items, boot.precision, boot.recall.is_finite) == (0, None, False)


def test_calibration_error_is_the_weighted_gap():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    correct = np.array([True, True, True, False, True, False])
    bins = metrics.reliability_bins(confidence, correct, num_bins=10)
    assert [(bucket.num_items, bucket.accuracy) for bucket in bins] == [(2, 0.5), (4, 0.75)]
    assert metrics.calibration_error(bins) == pytest.approx((2 * 0.05 + 4 * 0.20) / 6)


def test_a_confidence_on_an_edge_belongs_to_the_lower_bin_and_zero_to_the_first():
    bins = metrics.reliability_bins(np.array([0.0, 0.5, 1.0]), np.array([True, True, True]), num_bins=2)
    assert [(bucket.low, bucket.num_items) for bucket in bins] == [(0.0, 2), (0.5, 1)]


def test_calibration_error_without_answers_is_not_a_number():
    assert math.isnan(metrics.calibration_error(()))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[0.5, 0.5], [0.2, 0.8]], (0, 0, False)),
        ([[0.5, 0.5], [0.5, 0.5]], (0, 0, True)),
        ([[0.5, 0.5], [math.nan, 0.5], [0.4, 0.6]], (1, 0, False)),
        ([[math.inf, 0.0], [0.4, 0.6], [0.1, 0.9]], (1, 0, False)),
        ([[0.5, 0.9], [0.4, 0.6]], (0, 1, False)),
        ([[-0.2, 1.2], [0.4, 0.6]], (0, 1, False)),
        ([[0.5, 0.5]], (0, 0, False)),
    ],
)
def test_output_health(rows, expected):
    health = metrics.output_health(np.array(rows, dtype=np.float32))
    assert (health.num_non_finite, health.num_not_probabilities, health.constant) == expected
