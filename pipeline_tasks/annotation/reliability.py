"""Labels and the reliability of people from several answers an item: three methods, and the choice of one. Pure.

Legend: n items, p people, c classes, v votes (one person's answer to one item).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline_tasks.core.proportions import Interval, wilson_interval

Method = Literal["majority", "one-coin", "dawid-skene"]
METHODS: tuple[Method, ...] = ("majority", "one-coin", "dawid-skene")
MAX_ROUNDS = 100
TOLERANCE = 1e-5
PRIOR_RIGHT, PRIOR_WRONG = 4.0, 1.0  # answers that each person is taken to have given beforehand
PRIOR_CELL = 0.5  # of each wrong class, where classes are told apart
FOLDS = 5
MIN_VOTES, MIN_PEOPLE = 300, 3  # below, a choice would be luck: of two people nobody can tell who is right
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Answer = tuple[str, str, str]  # item id, person, label


@dataclasses.dataclass(frozen=True)
class Votes:
    """Answers as numbers; one person's answer to one item stands once."""

    items: tuple[str, ...]
    people: tuple[str, ...]
    classes: tuple[str, ...]
    item_v: Ints
    person_v: Ints
    class_v: Ints

    @classmethod
    def of(cls, answers: Sequence[Answer], *, classes: Sequence[str]) -> Votes:
        """Return the votes of answers; labels outside the classes are left out, the last of twice given ones counts."""
        known = {name: number for number, name in enumerate(classes)}
        last = {(item, person): label for item, person, label in answers if label in known}
        items = tuple(dict.fromkeys(item for item, _ in last))
        people = tuple(sorted({person for _, person in last}))
        item_number = {item: number for number, item in enumerate(items)}
        person_number = {person: number for number, person in enumerate(people)}
        return cls(
            items,
            people,
            tuple(classes),
            np.array([item_number[item] for item, _ in last], dtype=np.int64),
            np.array([person_number[person] for _, person in last], dtype=np.int64),
            np.array([known[label] for label in last.values()], dtype=np.int64),
        )

    @cached_property
    def counts_nc(self) -> Floats:
        """Votes for each class of each item."""
        counts = np.zeros((len(self.items), len(self.classes)))
        np.add.at(counts, (self.item_v, self.class_v), 1.0)
        return counts

    def without(self, is_out_v: npt.NDArray[np.bool_]) -> Votes:
        """Return the votes that are kept, of the same items, people and classes."""
        kept = ~is_out_v
        arrays = {name: getattr(self, name)[kept] for name in ("item_v", "person_v", "class_v")}
        return dataclasses.replace(self, **arrays)


@dataclasses.dataclass(frozen=True)
class Aggregate:
    """Aggregate of votes: each item's chance of each class, and each person's chance of each answer.

    `confusion_pcc[p, t, a]` is the chance that person p answers a where t is true.
    """

    method: Method
    votes: Votes
    posterior_nc: Floats
    confusion_pcc: Floats

    @property
    def labels(self) -> dict[str, str]:
        best = self.posterior_nc.argmax(axis=1)
        return {item: self.votes.classes[number] for item, number in zip(self.votes.items, best, strict=True)}

    def reliability(self) -> dict[str, Interval]:
        """Return the share of each person's answers that is right, with its 95 % interval (Wilson).

        By a majority's counts each person agrees with itself: there it is told by the one-coin aggregate.
        """
        if self.method == "majority":
            return aggregate(self.votes, "one-coin").reliability()
        right_v = self.posterior_nc[self.votes.item_v, self.votes.class_v]
        size = len(self.votes.people)
        right_p = np.bincount(self.votes.person_v, weights=right_v, minlength=size)
        num_p = np.bincount(self.votes.person_v, minlength=size)
        return {
            person: wilson_interval(float(right), int(number))
            for person, right, number in zip(self.votes.people, right_p, num_p, strict=True)
        }


def aggregate(votes: Votes, method: Method) -> Aggregate:
    """Return the aggregate by expectation maximisation from the majority.

    Sources: Dawid and Skene 1979 (a confusion matrix a person); one-coin: one chance of being right a person, wrong
    answers evenly spread (Zhang et al. 2014, section 2). Weak priors keep a person with few answers near the crowd.
    """
    totals = votes.counts_nc.sum(axis=1, keepdims=True)
    posterior = np.divide(
        votes.counts_nc, totals, out=np.full_like(votes.counts_nc, 1 / len(votes.classes)), where=totals > 0
    )
    confusion = _confusion(votes, posterior, one_coin=method != "dawid-skene")
    if method == "majority":
        return Aggregate(method, votes, posterior, confusion)
    for _ in range(MAX_ROUNDS):
        prior_c = (posterior.sum(axis=0) + 1.0) / (len(votes.items) + len(votes.classes))
        log_nc = np.tile(np.log(prior_c), (len(votes.items), 1))
        np.add.at(log_nc, votes.item_v, np.log(confusion[votes.person_v, :, votes.class_v]))
        log_nc -= log_nc.max(axis=1, keepdims=True)
        new = np.exp(log_nc)
        new /= new.sum(axis=1, keepdims=True)
        change = float(np.abs(new - posterior).max(initial=0.0))
        posterior, confusion = new, _confusion(votes, new, one_coin=method == "one-coin")
        if change < TOLERANCE:
            break
    return Aggregate(method, votes, posterior, confusion)


def _confusion(votes: Votes, posterior_nc: Floats, *, one_coin: bool) -> Floats:
    """Return each person's chance of each answer by true class, from the items' chances."""
    num_people, num_classes = len(votes.people), len(votes.classes)
    by_answer = np.zeros((num_people, num_classes, num_classes))
    np.add.at(by_answer, (votes.person_v, votes.class_v), posterior_nc[votes.item_v])
    counts = by_answer.transpose(0, 2, 1)
    right = np.eye(num_classes, dtype=bool)
    if one_coin:
        right_p = counts[:, right].sum(axis=1) + PRIOR_RIGHT
        all_p = counts.sum(axis=(1, 2)) + PRIOR_RIGHT + PRIOR_WRONG
        share_p = (right_p / all_p)[:, None, None]
        return np.where(right, share_p, (1 - share_p) / max(1, num_classes - 1))
    counts = counts + np.where(right, PRIOR_RIGHT, PRIOR_CELL)
    normalised: Floats = counts / counts.sum(axis=2, keepdims=True)
    return normalised


@dataclasses.dataclass(frozen=True, slots=True)
class MethodChoice:
    """The method that foretells votes that it has not seen best, and each one's mean log-likelihood of such a vote."""

    method: Method
    held_out: dict[Method, float]
    num_votes: int


def choose(votes: Votes, *, seed: int = 0) -> MethodChoice:
    """Choose by held-out votes: each fold's votes are foretold from the others' aggregate.

    A method is taken in place of the majority only where it foretells better by more than two standard errors of the
    paired difference; between the other two the simpler one stays unless the other is better by as much.
    """
    num_votes = len(votes.item_v)
    by_item = np.bincount(votes.item_v, minlength=len(votes.items))
    usable = np.flatnonzero(by_item[votes.item_v] > 1)  # a lone vote is foretold from nothing
    if len(usable) < MIN_VOTES or len(votes.people) < MIN_PEOPLE:
        return MethodChoice("majority", {}, num_votes)
    fold_v = np.full(num_votes, -1)
    order = np.random.default_rng(seed).permutation(usable)
    fold_v[order] = np.arange(len(order)) % FOLDS
    scores = {method: np.empty(num_votes) for method in METHODS}
    for fold in range(FOLDS):
        is_out = fold_v == fold
        kept = votes.without(is_out)
        for method in METHODS:
            learned = aggregate(kept, method)
            chance_v = np.einsum(
                "vc,vc->v",
                learned.posterior_nc[votes.item_v[is_out]],
                learned.confusion_pcc[votes.person_v[is_out], :, votes.class_v[is_out]],
            )
            scores[method][is_out] = np.log(np.maximum(chance_v, 1e-12))
    best: Method = "majority"
    for method in METHODS[1:]:
        gain = scores[method][usable] - scores[best][usable]
        if gain.mean() > 2 * gain.std() / np.sqrt(len(usable)):
            best = method
    return MethodChoice(best, {method: float(scores[method][usable].mean()) for method in METHODS}, num_votes)
