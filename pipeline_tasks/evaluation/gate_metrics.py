"""The metrics of the gate, as a table: figure, interval and paired comparison of two models on one exam. Pure.

A new metric is an entry here, its name in `project.gate_schema.Gate.metric`, and its figure in `training.metrics`, by
which a search of hyper-parameters goes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from pipeline_tasks.core.proportions import SHOWN_CONFIDENCE, Interval, wilson_interval
from pipeline_tasks.evaluation import groups, statistics
from pipeline_tasks.evaluation.metrics import Array
from pipeline_tasks.evaluation.statistics import PairedGain

SEED = 20260101
TAIL = (1 - SHOWN_CONFIDENCE) / 2


@dataclasses.dataclass(frozen=True, slots=True)
class Truth:
    """The right answers of an exam's items, as positions in `classes`, and each item's group.

    `group_n` is None for rules that knew no groups.
    """

    classes: tuple[str, ...]
    truth_n: Array
    group_n: Array | None

    def of(self, chosen_n: Array) -> Truth:
        """Return the chosen items alone."""
        group_n = None if self.group_n is None else self.group_n[chosen_n]
        return dataclasses.replace(self, truth_n=self.truth_n[chosen_n], group_n=group_n)


@dataclasses.dataclass(frozen=True, slots=True)
class GateMetric:
    """A share of 0 to 1 by which models are compared on the same items; higher is better.

    `figure` is a model's, `interval` the same with two-sided bounds by the method `interval_by`, and `compare` the
    difference of contender and champion with one-sided bounds at a level. `counts_items`: it is the share of items that
    are right, so that wins and losses tell its power. `by_class`: each class weighs the same, so a class of few items
    or none matters. `always`: it stands in every verdict; another one where it is the gate's.
    """

    name: str
    title: str
    noun: str
    interval_by: str
    figure: Callable[[Truth, Array], float]
    interval: Callable[[Truth, Array], Interval]
    compare: Callable[[Truth, Array, Array, float], PairedGain]
    counts_items: bool = False
    by_class: bool = False
    always: bool = False


def metrics_told(name: str) -> list[GateMetric]:
    """Return the metrics of a verdict whose gate goes by `name`."""
    return [metric for metric in METRICS.values() if metric.always or metric.name == name]


def metrics_among(names: Iterable[str]) -> list[GateMetric]:
    """Return the metrics among the names of a verdict's figures."""
    return [metric for metric in METRICS.values() if metric.name in names]


def _accuracy(truth: Truth, answer_n: Array) -> float:
    return float(np.equal(answer_n, truth.truth_n).mean())


def _accuracy_interval(truth: Truth, answer_n: Array) -> Interval:
    right_n: Array = np.equal(answer_n, truth.truth_n)
    if truth.group_n is None or groups.are_single(truth.group_n):
        return wilson_interval(int(right_n.sum()), len(right_n))
    return groups.share_bounds(right_n, truth.group_n, alpha=TAIL)


def _compare_accuracy(truth: Truth, contender_n: Array, champion_n: Array, alpha: float) -> PairedGain:
    right = (contender_n == truth.truth_n, champion_n == truth.truth_n)
    return groups.compare_accuracy(*right, truth.group_n, alpha=alpha)


def _macro_f1(truth: Truth, answer_n: Array) -> float:
    """Return the mean F1 (harmonic mean of precision and recall) of the classes that the exam has.

    Every class weighs the same, however rare, so a model cannot win by ignoring the rare ones.
    """
    whole = np.ones((1, len(answer_n)), dtype=np.int64)
    return float(statistics.weighted_macro_f1(truth.truth_n, answer_n, whole, num_classes=len(truth.classes))[0])


def _macro_f1_interval(truth: Truth, answer_n: Array) -> Interval:
    resamples_r, _ = groups.bootstrap_macro_f1(
        truth.truth_n,
        answer_n,
        answer_n,
        truth.group_n,
        num_classes=len(truth.classes),
        seed=SEED,
        num_resamples=statistics.NUM_RESAMPLES,
    )
    low, high = np.quantile(resamples_r, [TAIL, 1 - TAIL])
    return Interval(_macro_f1(truth, answer_n), float(low), float(high))


def _compare_macro_f1(truth: Truth, contender_n: Array, champion_n: Array, alpha: float) -> PairedGain:
    answers = (truth.truth_n, contender_n, champion_n, truth.group_n)
    return groups.compare_macro_f1(*answers, num_classes=len(truth.classes), alpha=alpha, seed=SEED)


METRICS = {
    metric.name: metric
    for metric in (
        GateMetric(
            "accuracy",
            title="Accuracy",
            noun="accuracy",
            interval_by="Wilson",
            figure=_accuracy,
            interval=_accuracy_interval,
            compare=_compare_accuracy,
            counts_items=True,
            always=True,
        ),
        GateMetric(
            "macro_f1",
            title="Macro F1",
            noun="macro F1",
            interval_by="bootstrap",
            figure=_macro_f1,
            interval=_macro_f1_interval,
            compare=_compare_macro_f1,
            by_class=True,
            always=True,
        ),
    )
}
