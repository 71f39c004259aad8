"""Everything the rule looks at, computed from the stored answers of both models. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from pipeline_tasks.contracts import Leak
from pipeline_tasks.evaluation import metrics, statistics
from pipeline_tasks.evaluation.constant import ConstantAnswer
from pipeline_tasks.evaluation.metrics import Array, ClassScore, OutputHealth, ReliabilityBin
from pipeline_tasks.evaluation.slices import SliceEvidence, SliceValues, score_slices
from pipeline_tasks.evaluation.statistics import PairedGain
from pipeline_tasks.intervals import NOT_A_NUMBER, SHOWN_CONFIDENCE, Interval, wilson_interval
from pipeline_tasks.project import Gate

SEED = 20260101
NO_ANSWER = -1


@dataclasses.dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a model beside its answers; `latency_*` are of one item at a time, in process."""

    version: str
    digest: str
    snapshot_id: str
    classes: tuple[str, ...]
    size_bytes: int
    latency_p50_ms: float
    latency_p99_ms: float


@dataclasses.dataclass(frozen=True, slots=True)
class ModelScores:
    """One model on one exam. Figures are NaN where its outputs are no probabilities."""

    accuracy: Interval
    macro_f1: Interval
    calibration_error: float
    classes: tuple[ClassScore, ...]
    bins: tuple[ReliabilityBin, ...]
    confusion: tuple[tuple[int, ...], ...]
    health: OutputHealth

    def metric(self, name: str) -> Interval:
        """Return the figure of `accuracy` or `macro_f1`."""
        return {"accuracy": self.accuracy, "macro_f1": self.macro_f1}[name]


@dataclasses.dataclass(frozen=True, slots=True)
class ExamEvidence:
    """Both models on one exam; `shared_gain` is on the classes that the champion knows, where that is not all.

    `constant` is None in verdicts of a rule that did not look at it.
    """

    exam_id: str
    epoch: int
    num_items: int
    classes: tuple[str, ...]
    contender: ModelScores
    champion: ModelScores | None
    gain: PairedGain | None
    shared_gain: PairedGain | None
    slices: tuple[SliceEvidence, ...] = ()
    constant: ConstantAnswer | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class LeftOut:
    """An item of a frozen exam on which no model is judged: retired by hand, or one that cannot be decoded."""

    exam_id: str
    item_id: str
    code: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Evidence:
    """All that `rule.decide` may look at. `exam_use` counts comparisons on the current exam, this one included.

    `leaks` are the exam items in the contender's training snapshot, `champion_leaks` those in the champion's; on items
    that were `left_out` neither model is judged.
    """

    project_classes: tuple[str, ...]
    contender: ModelFacts
    champion: ModelFacts | None
    current: ExamEvidence
    previous: ExamEvidence | None
    exam_use: int
    leaks: tuple[Leak, ...] = ()
    champion_leaks: tuple[Leak, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class ExamAnswers:
    """The raw answers on one exam, as evidence.parquet stores them; columns follow each model's classes.

    `slices` has each declared slice's value of each item, None for none.
    """

    exam_id: str
    epoch: int
    object_digest: str
    item_ids: tuple[str, ...]
    labels: tuple[str, ...]
    contender_nc: Array
    champion_nc: Array | None
    slices: SliceValues = dataclasses.field(default_factory=dict)


def alpha_for_use(policy: Gate, exam_use: int) -> float:
    """Return the error level of the n-th comparison on one exam: 6 / (pi n)^2 of the whole, so that all uses add up.

    However often an exam is used, the chance that it ever promotes a contender that is no better stays at
    1 - confidence. Source: alpha spending (Foster and Stine 2008) with the convergent series 1/n^2.
    """
    if exam_use < 1:
        raise ValueError(f"exam_use must count this comparison, so be 1 or more (got {exam_use}).")
    return (1 - policy.confidence) * 6 / (math.pi * exam_use) ** 2


def build_exam_evidence(
    answers: ExamAnswers,
    *,
    policy: Gate,
    alpha: float,
    project_classes: Sequence[str],
    contender_classes: Sequence[str],
    champion_classes: Sequence[str] | None,
    with_constant: bool = True,
) -> ExamEvidence:
    """Compute every figure of one exam from the raw answers; `with_constant`: the constant answer's too."""
    classes = union_of_classes(project_classes, answers.labels, contender_classes, champion_classes or ())
    position = {label: index for index, label in enumerate(classes)}
    truth_n = np.array([position[label] for label in answers.labels], dtype=np.int64)
    contender_n = answered_classes(answers.contender_nc, classes=contender_classes, position=position)
    champion_n = None
    if answers.champion_nc is not None and champion_classes is not None:
        champion_n = answered_classes(answers.champion_nc, classes=champion_classes, position=position)
    contender = _score(answers.contender_nc, contender_n, truth_n, classes=classes)
    champion = None
    if champion_n is not None and answers.champion_nc is not None:
        champion = _score(answers.champion_nc, champion_n, truth_n, classes=classes)
    comparable = champion is not None and contender.accuracy.is_finite and champion.accuracy.is_finite
    gain, shared_gain = None, None
    if comparable and champion_n is not None and champion_classes is not None:
        gain = _compare(truth_n, contender_n, champion_n, num_classes=len(classes), metric=policy.metric, alpha=alpha)
        shared_n = np.isin(truth_n, [position[label] for label in champion_classes])
        if shared_n.any() and not shared_n.all():
            chosen = (truth_n[shared_n], contender_n[shared_n], champion_n[shared_n])
            level = 1 - policy.confidence
            shared_gain = _compare(*chosen, num_classes=len(classes), metric=policy.metric, alpha=level)
    slices: tuple[SliceEvidence, ...] = ()
    if contender.accuracy.is_finite:
        slices = score_slices(
            policy.slices,
            answers.slices,
            contender_right_n=np.equal(contender_n, truth_n),
            champion_right_n=np.equal(champion_n, truth_n) if champion_n is not None else None,
            alpha=1 - policy.confidence,
        )
    constant = None
    if with_constant and len(truth_n):
        rival_n = contender_n if champion_n is None and contender.accuracy.is_finite else None
        constant = _constant_answer(truth_n, rival_n, classes=classes, policy=policy)
    return ExamEvidence(
        exam_id=answers.exam_id,
        epoch=answers.epoch,
        num_items=len(answers.item_ids),
        classes=classes,
        contender=contender,
        champion=champion,
        gain=gain,
        shared_gain=shared_gain,
        slices=slices,
        constant=constant,
    )


def _constant_answer(
    truth_n: Array, contender_n: Array | None, *, classes: Sequence[str], policy: Gate
) -> ConstantAnswer:
    """Return what always answering the commonest class (the first of equals) is worth, and what a model gains."""
    counts_c = np.bincount(truth_n, minlength=len(classes))
    commonest = int(counts_c.argmax())
    answer_n = np.full_like(truth_n, commonest)
    gain = None
    if contender_n is not None:
        level = 1 - policy.confidence
        gain = _compare(truth_n, contender_n, answer_n, num_classes=len(classes), metric=policy.metric, alpha=level)
    return ConstantAnswer(
        label=classes[commonest],
        accuracy=float(counts_c[commonest] / len(truth_n)),
        macro_f1=metrics.macro_f1(metrics.confusion_matrix(truth_n, answer_n, num_classes=len(classes))),
        gain=gain,
    )


def union_of_classes(project_classes: Sequence[str], *others: Sequence[str]) -> tuple[str, ...]:
    """Return the project's classes in their order, then any that an exam or a model has beside them, sorted."""
    known = set(project_classes)
    extra = sorted({label for group in others for label in group} - known)
    return (*project_classes, *extra)


def answered_classes(probabilities_nc: Array, *, classes: Sequence[str], position: dict[str, int]) -> Array:
    """Return the index of each item's answer in the common classes; NO_ANSWER where the row is not finite."""
    index_c = np.array([position[label] for label in classes], dtype=np.int64)
    finite_n = np.asarray(np.isfinite(probabilities_nc).all(axis=1))
    filled_nc = np.where(finite_n[:, None], probabilities_nc, 0)
    return np.where(finite_n, index_c[filled_nc.argmax(axis=1)], NO_ANSWER)


def _score(probabilities_nc: Array, answer_n: Array, truth_n: Array, *, classes: Sequence[str]) -> ModelScores:
    health = metrics.output_health(probabilities_nc)
    usable = health.num_non_finite == 0 and health.num_not_probabilities == 0 and len(truth_n) > 0
    if not usable:
        nan = NOT_A_NUMBER
        return ModelScores(nan, nan, math.nan, (), (), (), health)
    correct_n: Array = np.equal(answer_n, truth_n)
    counts_cc = metrics.confusion_matrix(truth_n, answer_n, num_classes=len(classes))
    bins = metrics.reliability_bins(probabilities_nc.max(axis=1).astype(np.float64), correct_n)
    return ModelScores(
        accuracy=wilson_interval(int(correct_n.sum()), len(truth_n)),
        macro_f1=_macro_f1_interval(truth_n, answer_n, counts_cc=counts_cc),
        calibration_error=metrics.calibration_error(bins),
        classes=metrics.class_scores(counts_cc, classes=classes),
        bins=bins,
        confusion=tuple(tuple(int(count) for count in row) for row in counts_cc),
        health=health,
    )


def _macro_f1_interval(truth_n: Array, answer_n: Array, *, counts_cc: Array) -> Interval:
    resamples_r, _ = statistics.bootstrap_macro_f1(
        truth_n,
        answer_n,
        answer_n,
        num_classes=len(counts_cc),
        seed=SEED,
        num_resamples=statistics.NUM_RESAMPLES,
    )
    tail = (1 - SHOWN_CONFIDENCE) / 2
    low, high = np.quantile(resamples_r, [tail, 1 - tail])
    return Interval(metrics.macro_f1(counts_cc), float(low), float(high))


def _compare(
    truth_n: Array, contender_n: Array, champion_n: Array, *, num_classes: int, metric: str, alpha: float
) -> PairedGain:
    if metric == "accuracy":
        return statistics.compare_accuracy(contender_n == truth_n, champion_n == truth_n, alpha=alpha)
    return statistics.compare_macro_f1(
        truth_n, contender_n, champion_n, num_classes=num_classes, alpha=alpha, seed=SEED
    )
