"""Each labeler's disagreement with the others, as counts with a test; who is shown to be worse. Pure.

Two comparisons. On items that several people answered: how often two of them differ. On all items: how often the answer
is not that of a small model that learned from the others' items alone, beside how often the others' answers are not, by
the same model: one that learned from fewer items is wrong more often about everybody.

Legend: n items, d features, c classes, a answers (one person's answer to one item).
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg, stats

from pipeline_tasks.core.proportions import wilson_interval

MAX_FALSE = 0.005  # chance that a check names anybody while all are alike, whatever the number of comparisons
MIN_ANSWERS = 20  # of a labeler, and of the others beside him
MIN_CLASS_ANSWERS = 8
MAX_TESTED = 50
MAX_NAMED = 10
OVERALL_MARGIN, CLASS_MARGIN, PAIR_MARGIN = 0.05, 0.10, 0.10
FOLDS = 3
RIDGE = 0.3

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Answer = tuple[str, str, str]  # item id, labeler, label


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """An item that can be compared: its features, what it is taken for, and what it came in with."""

    features_d: Floats
    label: str
    stratum: str


@dataclasses.dataclass(frozen=True, slots=True)
class Count:
    """The number of answers that disagree, and of all."""

    num_wrong: int = 0
    num_answers: int = 0

    @property
    def share(self) -> float:
        return self.num_wrong / self.num_answers if self.num_answers else 0.0


@dataclasses.dataclass(frozen=True)
class LabelerComparison:
    """One labeler beside the others: `what` was compared, stratum by stratum, and the least difference that matters."""

    labeler: str
    what: str
    strata: tuple[tuple[Count, Count], ...]  # own, others'
    margin: float
    min_answers: int = MIN_ANSWERS

    @cached_property
    def own(self) -> Count:
        return _total(own for own, others in self.strata if others.num_answers)

    @cached_property
    def others(self) -> Count:
        return _total(others for own, others in self.strata if own.num_answers)

    @cached_property
    def expected(self) -> float:
        """Share of disagreements if the labeler were as the others are, stratum by stratum."""
        wrong = sum(own.num_answers * others.share for own, others in self.strata)
        return wrong / self.own.num_answers if self.own.num_answers else 0.0

    @cached_property
    def p_value(self) -> float:
        """Chance of so many disagreements or more if the labeler is as the others are.

        Exact, given the number of disagreements in each stratum. Source: Fisher 1922; Mehta, Patel and Gray 1985.
        """
        chances = np.ones(1)
        for own, others in self.strata:
            wrong, total = own.num_wrong + others.num_wrong, own.num_answers + others.num_answers
            if own.num_answers and others.num_answers and wrong:
                counts = np.arange(min(wrong, own.num_answers) + 1)
                chances = np.convolve(chances, stats.hypergeom.pmf(counts, total, wrong, own.num_answers))
        return float(min(1.0, chances[self.own.num_wrong :].sum()))

    @property
    def is_large(self) -> bool:
        return self.own.share - self.expected >= self.margin

    @property
    def is_possible(self) -> bool:
        return min(self.own.num_answers, self.others.num_answers) >= self.min_answers

    def __str__(self) -> str:
        share = wilson_interval(self.own.num_wrong, self.own.num_answers)
        interval = f"95 % interval {100 * share.low:.0f} to {100 * share.high:.0f} %"
        return (
            f"{self.what} in {self.own.num_wrong} of {self.own.num_answers} answers ({interval}), "
            f"the others' share is {100 * self.expected:.0f} %"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Findings:
    """The labelers who are shown to be worse, each with what shows it; who was compared; and their answers."""

    shown: Mapping[str, LabelerComparison] = dataclasses.field(default_factory=dict)
    compared: tuple[str, ...] = ()
    num_answers: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def is_divided(self) -> bool:
        """Tell whether the named ones gave half of the answers or more: then it is not known who is right."""
        num_named = sum(self.num_answers[name] for name in self.shown)
        return bool(self.shown) and 2 * num_named >= sum(self.num_answers.values())


def disagreeing(
    answers: Sequence[Answer], known: Mapping[str, Known], *, classes: Sequence[str], trusted: Iterable[str] = ()
) -> Findings:
    """Return who is shown to be worse than the others.

    The clearest one is named first, and the rest compared without that one's answers: two who agree with each other
    would make the model doubt the honest ones. `trusted` are not compared, and others are compared with them.
    """
    counts = Counter(labeler for _, labeler, _ in answers)
    left, items = list(answers), dict(known)
    shown: dict[str, LabelerComparison] = {}
    first = worst = _clearest(left, items, classes=classes, trusted=frozenset(trusted))
    while worst.named is not None and len(shown) < MAX_NAMED:
        shown[worst.named.labeler] = worst.named
        gone = {item_id for item_id, labeler, _ in left if labeler == worst.named.labeler}
        left = [answer for answer in left if answer[1] != worst.named.labeler]
        items = {item_id: item for item_id, item in items.items() if item_id not in gone}
        worst = _clearest(left, items, classes=classes, trusted=frozenset(trusted))
    return Findings(dict(sorted(shown.items())), first.compared, dict(sorted(counts.items())))


@dataclasses.dataclass(frozen=True, slots=True)
class _Round:
    named: LabelerComparison | None
    compared: tuple[str, ...]


def _clearest(
    answers: Sequence[Answer], known: Mapping[str, Known], *, classes: Sequence[str], trusted: frozenset[str]
) -> _Round:
    """Return the comparison that shows most clearly that a labeler is worse, if one does.

    The chance of naming anybody is shared out evenly among the comparisons (Bonferroni).
    """
    compared = [*compare_pairs(answers, trusted=trusted)]
    compared += compare_with_model(answers, known, classes=classes, trusted=trusted)
    possible = [comparison for comparison in compared if comparison.is_possible]
    shown = [
        comparison for comparison in possible if comparison.is_large and comparison.p_value <= MAX_FALSE / len(possible)
    ]
    named = min(shown, key=lambda comparison: (comparison.p_value, comparison.labeler, comparison.what), default=None)
    return _Round(named, tuple(sorted({comparison.labeler for comparison in possible})))


def compare_pairs(answers: Iterable[Answer], *, trusted: frozenset[str] = frozenset()) -> Iterator[LabelerComparison]:
    """Yield how often each labeler and another differ on one item, beside pairs of the others."""
    by_item: dict[str, dict[str, str]] = defaultdict(dict)
    for item_id, labeler, label in answers:
        by_item[item_id][labeler] = label
    wrong, total = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for said in by_item.values():
        for pair in combinations(sorted(said), 2):
            total[pair] += 1
            wrong[pair] += said[pair[0]] != said[pair[1]]
    for labeler in _most_active((name for pair in total.elements() for name in pair), trusted=trusted):
        own, others = (
            Count(sum(wrong[pair] for pair in some), sum(total[pair] for pair in some))
            for some in ([pair for pair in total if (labeler in pair) is is_his] for is_his in (True, False))
        )
        yield LabelerComparison(labeler, "differs from another person", ((own, others),), PAIR_MARGIN)


def compare_with_model(
    answers: Sequence[Answer],
    known: Mapping[str, Known],
    *,
    classes: Sequence[str],
    trusted: frozenset[str] = frozenset(),
) -> Iterator[LabelerComparison]:
    """Yield how often each labeler's answers are not the model's, beside the others', for all classes and for each."""
    number = {name: column for column, name in enumerate(classes)}
    items = {item_id: known[item_id] for item_id in sorted(known) if known[item_id].label in number}
    usable = [answer for answer in answers if answer[0] in items and answer[2] in number]
    people = sorted({labeler for _, labeler, _ in usable})
    tested = _most_active((labeler for _, labeler, _ in usable), trusted=trusted)
    if len(people) < 2 or not tested:
        return
    position = {item_id: row for row, item_id in enumerate(items)}
    strata = {name: row for row, name in enumerate(sorted({item.stratum for item in items.values()}))}
    table = _Table(
        features_nd=np.stack([item.features_d for item in items.values()]),
        targets_nc=np.eye(len(classes))[[number[item.label] for item in items.values()]],
        rows_a=np.array([position[item_id] for item_id, _, _ in usable], dtype=np.int64),
        people_a=np.array([people.index(labeler) for _, labeler, _ in usable], dtype=np.int64),
        labels_a=np.array([number[label] for _, _, label in usable], dtype=np.int64),
        strata_a=np.array([strata[items[item_id].stratum] for item_id, _, _ in usable], dtype=np.int64),
    )
    for labeler, is_wrong_a in table.judged([people.index(person) for person in tested]):
        is_his_a = table.people_a == labeler
        everything_a = np.ones(len(is_his_a), dtype=bool)
        counts = table.counts(is_wrong_a, is_his_a, everything_a)
        yield LabelerComparison(people[labeler], "is unlike the model", counts, OVERALL_MARGIN)
        for name, column in number.items():
            counts = table.counts(is_wrong_a, is_his_a, table.labels_a == column)
            what = f"is unlike the model where the answer is {name!r},"
            yield LabelerComparison(people[labeler], what, counts, CLASS_MARGIN, MIN_CLASS_ANSWERS)


@dataclasses.dataclass(frozen=True, slots=True)
class _Table:
    features_nd: Floats
    targets_nc: Floats
    rows_a: Ints
    people_a: Ints
    labels_a: Ints
    strata_a: Ints

    def judged(self, tested: Sequence[int]) -> Iterator[tuple[int, Bools]]:
        """Yield each labeler with the answers that a model disagrees with which saw neither his items nor the item.

        A ridge regression onto the classes. Its sums are those of all items but his and those of a fold, so that what
        a further labeler costs is his own items and three solutions.
        """
        num_items, width = self.features_nd.shape
        fold_n = np.arange(num_items) % FOLDS  # ids are hashes: in their order they are shuffled
        sums = [self._sums(fold_n == fold) for fold in range(FOLDS)]
        for labeler in tested:
            is_his_n = np.zeros(num_items, dtype=bool)
            is_his_n[self.rows_a[self.people_a == labeler]] = True
            own = [self._sums(is_his_n & (fold_n == fold)) for fold in range(FOLDS)]
            is_wrong_a = np.zeros(len(self.rows_a), dtype=bool)
            for fold in range(FOLDS):
                rest = [other for other in range(FOLDS) if other != fold]
                gram_dd = np.sum([sums[person][0] - own[person][0] for person in rest], axis=0)
                right_dc = np.sum([sums[person][1] - own[person][1] for person in rest], axis=0)
                gram_dd.flat[:: width + 1] += RIDGE
                weights_dc = linalg.solve(gram_dd, right_dc, assume_a="pos")
                here_a = fold_n[self.rows_a] == fold
                answers_a = (self.features_nd[self.rows_a[here_a]] @ weights_dc).argmax(axis=1)
                is_wrong_a[here_a] = answers_a != self.labels_a[here_a]
            yield labeler, is_wrong_a

    def _sums(self, rows_n: Bools) -> tuple[Floats, Floats]:
        some_nd = self.features_nd[rows_n]
        return some_nd.T @ some_nd, some_nd.T @ self.targets_nc[rows_n]

    def counts(self, is_wrong_a: Bools, is_his_a: Bools, rows_a: Bools) -> tuple[tuple[Count, Count], ...]:
        """Return the labeler's and the others' disagreements on some answers, by stratum."""
        counts = []
        for stratum in np.unique(self.strata_a):
            here_a = rows_a & (self.strata_a == stratum)
            own, others = (
                Count(int(is_wrong_a[some_a].sum()), int(some_a.sum()))
                for some_a in (here_a & is_his_a, here_a & ~is_his_a)
            )
            counts.append((own, others))
        return tuple(counts)


def _total(counts: Iterable[Count]) -> Count:
    some = list(counts)
    return Count(sum(count.num_wrong for count in some), sum(count.num_answers for count in some))


def _most_active(names: Iterable[Any], *, trusted: frozenset[str]) -> list[str]:
    """Return the labelers with enough answers to be compared, the most active ones where there are too many."""
    counts = Counter(names)
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    return sorted(name for name in ordered[:MAX_TESTED] if counts[name] >= MIN_ANSWERS and name not in trusted)
