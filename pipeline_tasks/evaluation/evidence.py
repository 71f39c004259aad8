"""Everything the rule looks at, computed from the stored answers of both models. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline_tasks.catalog.exam_window import ExamLabels
from pipeline_tasks.contracts import Leak
from pipeline_tasks.evaluation import groups, metrics, statistics
from pipeline_tasks.evaluation.constant import ConstantAnswer
from pipeline_tasks.evaluation.exam_parts import PartShare, part_shares
from pipeline_tasks.evaluation.metrics import Array
from pipeline_tasks.evaluation.scores import SEED, ModelScores, score
from pipeline_tasks.evaluation.slices import SliceEvidence, SliceValues, score_slices
from pipeline_tasks.evaluation.statistics import PairedGain
from pipeline_tasks.project.gate_schema import LEAVE_OUT, Gate

NO_ANSWER = -1
LOSS_ALPHA = 0.05  # a loss on one epoch vetoes what the window shows, so it is shown at this level or a lower one


@dataclasses.dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts of a model beside its answers; `latency_*` are of one item at a time, in process.

    `repeats` and `load` are those of the measurement (scoring.Measured).
    """

    version: str
    digest: str
    snapshot_id: str
    classes: tuple[str, ...]
    size_bytes: int
    latency_p50_ms: float
    latency_p99_ms: float
    repeats: int | None = None
    load: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ExamEvidence:
    """Both models on one exam; `shared_gain` is on the classes that the champion knows, where that is not all.

    From rule 5 on the exam is the items of the window's epochs together, `exam_id` and `epoch` those of the newest;
    `recalls` are the contender's, with what is shown of them. `constant` and `num_groups` are None in verdicts of rules
    that did not look at them.
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
    num_groups: int | None = None
    recalls: tuple[PartShare, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class EpochEvidence:
    """One epoch of the window by itself: both models by the gate's metric, and their difference.

    `least_class` is the number of items of the rarest class that it has. `gain_at_most` is the upper bound of the gain
    at LOSS_ALPHA, or at 1 - gate.confidence where that is less; None in verdicts of rule 5 and before.
    """

    exam_id: str
    epoch: int
    num_items: int
    num_groups: int
    contender: float
    champion: float | None
    gain: PairedGain | None
    least_class: int
    gain_at_most: float | None = None


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
    that were `left_out` neither model is judged. `previous` is what rules 3 and 4 looked at; from rule 5 on `current`
    is the whole window, `epochs` are its parts (newest first), and `epoch_level` is the error that all uses of the
    newest epoch may spend. `labels` tells of the exam's labels, and `alarm` of one that
    stood; both are None in verdicts from before they were told. `former` are class names from before a migration that
    exam or champion have, with what they stand for.
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
    epochs: tuple[EpochEvidence, ...] = ()
    epoch_level: float | None = None
    labels: ExamLabels | None = None
    alarm: str | None = None
    former: Mapping[str, str | None] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ExamAnswers:
    """The raw answers on one exam, as evidence.parquet stores them; columns follow each model's classes.

    `slices` has each declared slice's value of each item, None for none. `groups` has each item's group as a number,
    the same in every epoch of the window; None in verdicts of rules that knew no groups.
    """

    exam_id: str
    epoch: int
    object_digest: str
    item_ids: tuple[str, ...]
    labels: tuple[str, ...]
    contender_nc: Array
    champion_nc: Array | None
    slices: SliceValues = dataclasses.field(default_factory=dict)
    groups: tuple[int, ...] | None = None


def alpha_for_use(policy: Gate, exam_use: int, *, epoch_level: float | None = None) -> float:
    """Return the error level of the n-th comparison on one exam: 6 / (pi n)^2 of the epoch's, so that all uses add up.

    However often an exam is used, the chance that it ever promotes a contender that is no better stays at
    `epoch_level` (1 - confidence where there is none). Source: alpha spending (Foster and Stine 2008) with the
    convergent series 1/n^2.
    """
    if exam_use < 1:
        raise ValueError(f"exam_use must count this comparison, so be 1 or more (got {exam_use}).")
    whole = 1 - policy.confidence if epoch_level is None else epoch_level
    return whole * 6 / (math.pi * exam_use) ** 2


def pool(answers: Sequence[ExamAnswers]) -> ExamAnswers:
    """Return the items of several epochs (newest first) as one exam, under the newest one's name."""
    newest = answers[0]
    if len(answers) == 1:
        return newest
    has_champion = newest.champion_nc is not None
    return ExamAnswers(
        exam_id=newest.exam_id,
        epoch=newest.epoch,
        object_digest=newest.object_digest,
        item_ids=tuple(item_id for exam in answers for item_id in exam.item_ids),
        labels=tuple(label for exam in answers for label in exam.labels),
        contender_nc=np.concatenate([exam.contender_nc for exam in answers]),
        champion_nc=np.concatenate([exam.champion_nc for exam in answers]) if has_champion else None,
        slices={name: tuple(value for exam in answers for value in exam.slices[name]) for name in newest.slices},
        groups=tuple(group for exam in answers for group in exam.groups or ()) if newest.groups is not None else None,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Coded:
    """Truth and answers as positions in the common classes, and each item's group."""

    classes: tuple[str, ...]
    truth_n: Array
    contender_n: Array
    champion_n: Array | None
    group_n: Array | None


def _coded(
    answers: ExamAnswers,
    *,
    project_classes: Sequence[str],
    contender_classes: Sequence[str],
    champion_classes: Sequence[str] | None,
) -> _Coded:
    classes = union_of_classes(project_classes, answers.labels, contender_classes, champion_classes or ())
    position = {label: index for index, label in enumerate(classes)}
    champion_n = None
    if answers.champion_nc is not None and champion_classes is not None:
        champion_n = answered_classes(answers.champion_nc, classes=champion_classes, position=position)
    return _Coded(
        classes=classes,
        truth_n=np.array([position[label] for label in answers.labels], dtype=np.int64),
        contender_n=answered_classes(answers.contender_nc, classes=contender_classes, position=position),
        champion_n=champion_n,
        group_n=np.array(answers.groups, dtype=np.int64) if answers.groups is not None else None,
    )


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
    coded = _coded(
        answers,
        project_classes=project_classes,
        contender_classes=contender_classes,
        champion_classes=champion_classes,
    )
    truth_n, contender_n, champion_n = coded.truth_n, coded.contender_n, coded.champion_n
    contender = score(answers.contender_nc, contender_n, truth_n, classes=coded.classes, group_n=coded.group_n)
    champion = None
    if champion_n is not None and answers.champion_nc is not None:
        champion = score(answers.champion_nc, champion_n, truth_n, classes=coded.classes, group_n=coded.group_n)
    comparable = champion is not None and contender.accuracy.is_finite and champion.accuracy.is_finite
    gain, shared_gain = None, None
    if comparable and champion_n is not None and champion_classes is not None:
        shared_n = _known_to(champion_classes, coded)
        gain = _compare_where(_compared(policy, shared_n), coded, champion_n, metric=policy.metric, alpha=alpha)
        if shared_n.any() and not shared_n.all():
            shared_gain = _compare(
                coded, champion_n, metric=policy.metric, alpha=1 - policy.confidence, chosen_n=shared_n
            )
    slices: tuple[SliceEvidence, ...] = ()
    recalls: tuple[PartShare, ...] = ()
    if contender.accuracy.is_finite:
        slices = score_slices(
            policy.slices,
            answers.slices,
            contender_right_n=np.equal(contender_n, truth_n),
            champion_right_n=np.equal(champion_n, truth_n) if champion_n is not None else None,
            group_n=coded.group_n,
            alpha=1 - policy.confidence,
        )
        if coded.group_n is not None:
            recalls = part_shares(
                np.equal(contender_n, truth_n),
                {label: np.flatnonzero(truth_n == index) for index, label in enumerate(coded.classes)},
                coded.group_n,
                alpha=1 - policy.confidence,
            )
    constant = None
    if with_constant and len(truth_n):
        is_asked = champion_n is None and contender.accuracy.is_finite
        constant = _constant_answer(coded, policy=policy, with_gain=is_asked)
    return ExamEvidence(
        exam_id=answers.exam_id,
        epoch=answers.epoch,
        num_items=len(answers.item_ids),
        classes=coded.classes,
        contender=contender,
        champion=champion,
        gain=gain,
        shared_gain=shared_gain,
        slices=slices,
        constant=constant,
        num_groups=len(np.unique(coded.group_n)) if coded.group_n is not None else None,
        recalls=recalls,
    )


def build_epoch_evidence(
    answers: ExamAnswers,
    *,
    policy: Gate,
    project_classes: Sequence[str],
    contender_classes: Sequence[str],
    champion_classes: Sequence[str] | None,
    with_loss: bool = True,
) -> EpochEvidence:
    """Compute what one epoch says by itself, at 1 - confidence; the gain is None where there is nothing to compare."""
    coded = _coded(
        answers,
        project_classes=project_classes,
        contender_classes=contender_classes,
        champion_classes=champion_classes,
    )
    counts_c = np.bincount(coded.truth_n, minlength=1)
    gain, at_most, alpha = None, None, 1 - policy.confidence
    chosen_n = _compared(policy, _known_to(champion_classes or (), coded))
    if len(coded.truth_n) > 0 and coded.champion_n is not None:
        gain = _compare_where(chosen_n, coded, coded.champion_n, metric=policy.metric, alpha=alpha)
    if gain is not None and coded.champion_n is not None and with_loss:
        is_strict = alpha < LOSS_ALPHA or math.isclose(alpha, LOSS_ALPHA)  # 1 - 0.95 is a little more than 0.05
        strict = (
            gain
            if is_strict
            else _compare_where(chosen_n, coded, coded.champion_n, metric=policy.metric, alpha=LOSS_ALPHA)
        )
        at_most = strict.high if strict is not None else None
    return EpochEvidence(
        exam_id=answers.exam_id,
        epoch=answers.epoch,
        num_items=len(answers.item_ids),
        num_groups=len(np.unique(coded.group_n)) if coded.group_n is not None else len(answers.item_ids),
        contender=_figure(coded, coded.contender_n, metric=policy.metric),
        champion=_figure(coded, coded.champion_n, metric=policy.metric) if coded.champion_n is not None else None,
        gain=gain,
        least_class=int(counts_c[counts_c > 0].min()) if len(coded.truth_n) else 0,
        gain_at_most=at_most,
    )


def _figure(coded: _Coded, answer_n: Array, *, metric: str) -> float:
    if not len(coded.truth_n):
        return math.nan
    if metric == "accuracy":
        return float(np.equal(answer_n, coded.truth_n).mean())
    whole = np.ones((1, len(answer_n)), dtype=np.int64)
    return float(statistics.weighted_macro_f1(coded.truth_n, answer_n, whole, num_classes=len(coded.classes))[0])


def _constant_answer(coded: _Coded, *, policy: Gate, with_gain: bool) -> ConstantAnswer:
    """Return what always answering the commonest class (the first of equals) is worth, and what a model gains."""
    truth_n, classes = coded.truth_n, coded.classes
    counts_c = np.bincount(truth_n, minlength=len(classes))
    commonest = int(counts_c.argmax())
    answer_n = np.full_like(truth_n, commonest)
    level = 1 - policy.confidence
    return ConstantAnswer(
        label=classes[commonest],
        accuracy=float(counts_c[commonest] / len(truth_n)),
        macro_f1=metrics.macro_f1(metrics.confusion_matrix(truth_n, answer_n, num_classes=len(classes))),
        gain=_compare(coded, answer_n, metric=policy.metric, alpha=level) if with_gain else None,
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


def _known_to(classes: Sequence[str], coded: _Coded) -> Array:
    """Return which items are of a class that a model has learned."""
    return np.isin(coded.truth_n, [coded.classes.index(label) for label in classes])


def _compared(policy: Gate, known_n: Array) -> Array | None:
    """Return the items on which the models are compared, None for all."""
    return known_n if policy.new_classes == LEAVE_OUT and not known_n.all() else None


def _compare_where(
    chosen_n: Array | None, coded: _Coded, champion_n: Array, *, metric: str, alpha: float
) -> PairedGain | None:
    if chosen_n is not None and not chosen_n.any():
        return None
    return _compare(coded, champion_n, metric=metric, alpha=alpha, chosen_n=chosen_n)


def _compare(
    coded: _Coded, champion_n: Array, *, metric: str, alpha: float, chosen_n: Array | None = None
) -> PairedGain:
    chosen: Array | slice = slice(None) if chosen_n is None else chosen_n
    truth_n, contender_n, champion_n = coded.truth_n[chosen], coded.contender_n[chosen], champion_n[chosen]
    group_n = coded.group_n[chosen] if coded.group_n is not None else None
    right = (contender_n == truth_n, champion_n == truth_n)
    classes = len(coded.classes)
    if metric == "accuracy":
        if group_n is None:
            return statistics.compare_accuracy(*right, alpha=alpha)
        return groups.compare_accuracy(*right, group_n, alpha=alpha)
    answers = (truth_n, contender_n, champion_n)
    if group_n is None:
        return statistics.compare_macro_f1(*answers, num_classes=classes, alpha=alpha, seed=SEED)
    return groups.compare_macro_f1(*answers, group_n, num_classes=classes, alpha=alpha, seed=SEED)
