"""Labels from several people: the method that is chosen beside majority, in simulated worlds of annotators.

    .venv/bin/python benchmarks/annotators.py [--seeds 20]

Each world draws items, people and votes anew for each seed. Printed are the share of items whose label is right by each
method and by the chosen one (with how often each was chosen), the worst difference of the chosen one to majority over
the seeds, and the mean distance between the reliability that is told and the share of a person's answers that is right.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pipeline_tasks.annotation.reliability import METHODS, Method, Votes, aggregate, choose

Floats = npt.NDArray[np.float64]


def one_coin(num_classes: int, share: float) -> Floats:
    """Return the confusions of a person who is right with this chance, and else says any other class."""
    wrong = (1 - share) / (num_classes - 1)
    return np.full((num_classes, num_classes), wrong) + np.eye(num_classes) * (share - wrong)


def confuses_pair(num_classes: int, share: float, *, pair: float) -> Floats:
    """Return the confusions of a person who takes class 0 for class 1, and the reverse, with chance `pair`."""
    matrix = one_coin(num_classes, share)
    matrix[0], matrix[1] = 0, 0
    matrix[0, [0, 1]] = matrix[1, [1, 0]] = 1 - pair, pair
    return matrix


def says_one(num_classes: int, share: float) -> Floats:
    """Return the confusions of a person who says class 0, whatever it is, with chance `share`."""
    matrix = one_coin(num_classes, 0.9) * (1 - share)
    matrix[:, 0] += share
    return matrix


@dataclasses.dataclass(frozen=True)
class World:
    """A team, and what it is asked."""

    name: str
    num_items: int
    num_votes: int
    team: tuple[Floats, ...]
    class_shares: tuple[float, ...] | None = None

    def draw(self, generator: np.random.Generator) -> tuple[Votes, npt.NDArray[np.int64]]:
        num_classes = len(self.team[0])
        truth = generator.choice(num_classes, self.num_items, p=self.class_shares)
        people = [generator.permutation(len(self.team))[: self.num_votes] for _ in range(self.num_items)]
        answers = [
            (f"i{item}", f"p{person:02d}", str(generator.choice(num_classes, p=self.team[person][truth[item]])))
            for item in range(self.num_items)
            for person in people[item]
        ]
        return Votes.of(answers, classes=[str(number) for number in range(num_classes)]), truth


def team(num_classes: int, *shares: float, kind: Callable[[int, float], Floats] = one_coin) -> tuple[Floats, ...]:
    return tuple(kind(num_classes, share) for share in shares)


MIXED = (0.95, 0.9, 0.85, 0.7, 0.6, 0.3)
WORLDS = (
    World("10 classes, 200 items", 200, 3, team(10, *MIXED)),
    World("10 classes, 1,000 items", 1000, 3, team(10, *MIXED)),
    World("10 classes, 5,000 items", 5000, 3, team(10, *MIXED)),
    World("2 classes, 1,000 items", 1000, 3, team(2, *MIXED)),
    World("5 votes, 10 classes", 1000, 5, team(10, *MIXED)),
    World(
        "three confuse a pair of classes",
        1000,
        3,
        team(10, 0.95, 0.9, 0.85) + tuple(confuses_pair(10, 0.9, pair=0.7) for _ in range(3)),
    ),
    World("six good people", 1000, 3, team(10, *[0.9] * 6)),
    World("two good people, two votes", 500, 2, team(5, 0.95, 0.92)),
    World("a rare class, 5 %", 1000, 3, team(2, 0.95, 0.9, 0.85, 0.8), (0.95, 0.05)),
    World("one says the same always", 1000, 3, (*team(4, 0.9, 0.9, 0.85, 0.8), says_one(4, 0.9))),
    World("thirty people, few answers each", 1000, 3, team(10, *np.linspace(0.6, 0.97, 30))),
    World("60 items, three people", 60, 3, team(3, 0.9, 0.85, 0.7)),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    seeds = parser.parse_args().seeds
    print(
        f"{'world':34} {'majority':>8} {'one-coin':>8} {'d-skene':>8} {'chosen':>8} {'worst':>7} {'rel.err':>7}  chosen"
    )
    for world in WORLDS:
        rows = [measured(world, seed) for seed in range(seeds)]
        accuracy = {name: float(np.mean([row.accuracy[name] for row in rows])) for name in METHODS}
        chosen = float(np.mean([row.accuracy[row.chosen] for row in rows]))
        worst = min(row.accuracy[row.chosen] - row.accuracy["majority"] for row in rows)
        error = float(np.mean([row.reliability_error for row in rows]))
        counts = ", ".join(f"{name} {count}" for name, count in Counter(row.chosen for row in rows).most_common())
        shown = " ".join(f"{accuracy[name]:8.3f}" for name in METHODS)
        print(f"{world.name:34} {shown} {chosen:8.3f} {100 * worst:+7.1f} {error:7.3f}  {counts}", flush=True)


@dataclasses.dataclass(frozen=True)
class Row:
    """One draw of a world."""

    accuracy: dict[Method, float]
    chosen: Method
    reliability_error: float


def measured(world: World, seed: int) -> Row:
    votes, truth = world.draw(np.random.default_rng(seed))
    results = {method: aggregate(votes, method) for method in METHODS}
    numbers = np.array([int(item[1:]) for item in votes.items])
    right = {name: result.posterior_nc.argmax(axis=1) == truth[numbers] for name, result in results.items()}
    chosen = choose(votes, seed=seed).method
    told = results[chosen].reliability()
    errors = []
    for number, person in enumerate(votes.people):
        mine = votes.person_v == number
        share = float(np.mean(votes.class_v[mine] == truth[numbers][votes.item_v[mine]]))
        errors.append(abs(told[person].estimate - share))
    return Row({name: float(hits.mean()) for name, hits in right.items()}, chosen, float(np.mean(errors)))


if __name__ == "__main__":
    main()
