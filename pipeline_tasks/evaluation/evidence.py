"""Everything the rule looks at, computed from the stored answers of both models. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline_tasks.catalog.exam_window import ExamLabels
from pipeline_tasks.contracts import Leak
from pipeline_tasks.evaluation.constant import ConstantAnswer
from pipeline_tasks.evaluation.exam_parts import PartShare, part_shares
from pipeline_tasks.evaluation.gate_metrics import METRICS, Truth, metrics_told
from pipeline_tasks.evaluation.metrics import Array
from pipeline_tasks.evaluation.scores import ModelScores, score
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
    item_ids: tuple[str, ...]
    labels: tuple[str, ...]
    contender_nc: Array
    champion_nc: Array | None
    slices: SliceValues = dataclasses.field(default_factory=dict)
    groups: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ClassLists:
    """The classes of the project, and those that each model has learned."""

    project: Sequence[str]
    contender: Sequence[str]
    champion: Sequence[str] | None


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
        item_ids=tuple(item_id for exam in answers for item_id in exam.item_ids),
        labels=tuple(label for exam in answers for label in exam.labels),
        contender_nc=np.concatenate([exam.contender_nc for exam in answers]),
        champion_nc=np.concatenate([exam.champion_nc for exam in answers]) if has_champion else None,
        slices={name: tuple(value for exam in answers for value in exam.slices[name]) for name in newest.slices},
        groups=tuple(group for exam in answers for group in exam.groups or ()) if newest.groups is not None else None,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Coded:
    """Truth and answers as positions in the common classes."""

    truth: Truth
    contender_n: Array
    champion_n: Array | None

    def compare(self, champion_n: Array, *, metric: str, alpha: float) -> PairedGain:
        """Compare the contender's answers with others."""
        return METRICS[metric].compare(self.truth, self.contender_n, champion_n, alpha)

    def compare_where(
        self, chosen_n: Array | None, champion_n: Array, *, metric: str, alpha: float
    ) -> PairedGain | None:
        """Compare on the chosen items (None: all); None where there is none."""
        if chosen_n is None:
            return self.compare(champion_n, metric=metric, alpha=alpha)
        chosen = _Coded(self.truth.of(chosen_n), self.contender_n[chosen_n], None)
        return chosen.compare(champion_n[chosen_n], metric=metric, alpha=alpha) if chosen_n.any() else None

    def known_to(self, classes: Sequence[str]) -> Array:
        """Return which items are of a class that a model has learned."""
        return np.isin(self.truth.truth_n, [self.truth.classes.index(label) for label in classes])

    def figure(self, answer_n: Array, *, metric: str) -> float:
        """Return what answers are worth; NaN without items."""
        return METRICS[metric].figure(self.truth, answer_n) if len(self.truth.truth_n) else math.nan

    @property
    def num_groups(self) -> int | None:
        return None if self.truth.group_n is None else len(np.unique(self.truth.group_n))


def _coded(answers: ExamAnswers, learned: ClassLists) -> _Coded:
    classes = union_of_classes(learned.project, answers.labels, learned.contender, learned.champion or ())
    position = {label: index for index, label in enumerate(classes)}
    champion_n = None
    if answers.champion_nc is not None and learned.champion is not None:
        champion_n = answered_classes(answers.champion_nc, classes=learned.champion, position=position)
    truth = Truth(
        classes=classes,
        truth_n=np.array([position[label] for label in answers.labels], dtype=np.int64),
        group_n=np.array(answers.groups, dtype=np.int64) if answers.groups is not None else None,
    )
    contender_n = answered_classes(answers.contender_nc, classes=learned.contender, position=position)
    return _Coded(truth, contender_n, champion_n)


def build_exam_evidence(
    answers: ExamAnswers,
    learned: ClassLists,
    *,
    policy: Gate,
    alpha: float,
    with_constant: bool = True,
) -> ExamEvidence:
    """Compute every figure of one exam from the raw answers; `with_constant`: the constant answer's too."""
    coded = _coded(answers, learned)
    truth, contender_n, champion_n = coded.truth, coded.contender_n, coded.champion_n
    right_n = np.equal(contender_n, truth.truth_n)
    contender = score(answers.contender_nc, contender_n, truth, metric=policy.metric)
    champion = None
    if champion_n is not None and answers.champion_nc is not None:
        champion = score(answers.champion_nc, champion_n, truth, metric=policy.metric)
    gain, shared_gain = None, None
    if champion is not None and champion_n is not None and contender.is_finite and champion.is_finite:
        shared_n = coded.known_to(learned.champion or ())
        gain = coded.compare_where(_compared(policy, shared_n), champion_n, metric=policy.metric, alpha=alpha)
        if shared_n.any() and not shared_n.all():
            level = 1 - policy.confidence
            shared_gain = coded.compare_where(shared_n, champion_n, metric=policy.metric, alpha=level)
    slices: tuple[SliceEvidence, ...] = ()
    recalls: tuple[PartShare, ...] = ()
    if contender.is_finite:
        slices = score_slices(
            policy.slices,
            answers.slices,
            contender_right_n=right_n,
            champion_right_n=np.equal(champion_n, truth.truth_n) if champion_n is not None else None,
            group_n=truth.group_n,
            alpha=1 - policy.confidence,
        )
        if truth.group_n is not None:
            rows = {label: np.flatnonzero(truth.truth_n == index) for index, label in enumerate(truth.classes)}
            recalls = part_shares(right_n, rows, truth.group_n, alpha=1 - policy.confidence)
    constant = None
    if with_constant and len(truth.truth_n):
        constant = _constant_answer(coded, policy=policy, with_gain=champion_n is None and contender.is_finite)
    return ExamEvidence(
        exam_id=answers.exam_id,
        epoch=answers.epoch,
        num_items=len(answers.item_ids),
        classes=truth.classes,
        contender=contender,
        champion=champion,
        gain=gain,
        shared_gain=shared_gain,
        slices=slices,
        constant=constant,
        num_groups=coded.num_groups,
        recalls=recalls,
    )


def build_epoch_evidence(
    answers: ExamAnswers,
    learned: ClassLists,
    *,
    policy: Gate,
    with_loss: bool = True,
) -> EpochEvidence:
    """Compute what one epoch says by itself, at 1 - confidence; the gain is None where there is nothing to compare."""
    coded = _coded(answers, learned)
    champion_n, num_items = coded.champion_n, len(answers.item_ids)
    counts_c = np.bincount(coded.truth.truth_n, minlength=1)
    gain, at_most, alpha = None, None, 1 - policy.confidence
    chosen_n = _compared(policy, coded.known_to(learned.champion or ()))
    if num_items and champion_n is not None:
        gain = coded.compare_where(chosen_n, champion_n, metric=policy.metric, alpha=alpha)
    if gain is not None and champion_n is not None and with_loss:
        is_strict = alpha < LOSS_ALPHA or math.isclose(alpha, LOSS_ALPHA)  # 1 - 0.95 is a little more than 0.05
        strict = (
            gain if is_strict else coded.compare_where(chosen_n, champion_n, metric=policy.metric, alpha=LOSS_ALPHA)
        )
        at_most = strict.high if strict is not None else None
    return EpochEvidence(
        exam_id=answers.exam_id,
        epoch=answers.epoch,
        num_items=num_items,
        num_groups=num_items if coded.num_groups is None else coded.num_groups,
        contender=coded.figure(coded.contender_n, metric=policy.metric),
        champion=coded.figure(champion_n, metric=policy.metric) if champion_n is not None else None,
        gain=gain,
        least_class=int(counts_c[counts_c > 0].min()) if num_items else 0,
        gain_at_most=at_most,
    )


def _constant_answer(coded: _Coded, *, policy: Gate, with_gain: bool) -> ConstantAnswer:
    """Return what always answering the commonest class (the first of equals) is worth, and what a model gains."""
    truth = coded.truth
    commonest = int(np.bincount(truth.truth_n, minlength=len(truth.classes)).argmax())
    answer_n = np.full_like(truth.truth_n, commonest)
    return ConstantAnswer(
        label=truth.classes[commonest],
        figures={metric.name: coded.figure(answer_n, metric=metric.name) for metric in metrics_told(policy.metric)},
        gain=coded.compare(answer_n, metric=policy.metric, alpha=1 - policy.confidence) if with_gain else None,
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


def _compared(policy: Gate, known_n: Array) -> Array | None:
    """Return the items on which the models are compared, None for all."""
    return known_n if policy.new_classes == LEAVE_OUT and not known_n.all() else None
