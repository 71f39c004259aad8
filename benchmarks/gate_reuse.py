"""Attackers who tune by what verdicts tell: an equal model's chance of a promotion, all told and by the ladder.

    python benchmarks/gate_reuse.py [--exams 150] [--tries 200]

What is told is the product's own (`evaluation.telling`), and what promotes its own test at the level of each use. The
contender is another model with new answers on 5 % of the items at each try, right as often as the champion: no try is
better. The climber goes on from the best that was told. The voter keeps the tries that the answer itself shows to be
above the champion (`inconclusive` and not `keep`) and submits, last, what most of them answer. Two classes.
Prints Markdown; exits 1 if the climber is promoted by the ladder more often than the level and three standard errors.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

import numpy as np

from pipeline_tasks.evaluation import ladder as evaluation_ladder
from pipeline_tasks.evaluation.evidence import alpha_for_use
from pipeline_tasks.evaluation.statistics import mcnemar_p_value
from pipeline_tasks.project.gate_schema import Gate

Bits = np.ndarray[Any, np.dtype[np.bool_]]

SIZES = (300, 1000)
CHANGED = 0.05
ACCURACY = 0.85
GATE = Gate()
LEVEL = 1 - GATE.confidence


class SimulatedExam:
    """One epoch with a champion; it judges models by their right answers, and knows how often it did."""

    def __init__(self, random: np.random.Generator, *, num_items: int) -> None:
        self.champion_right: Bits = random.random(num_items) < ACCURACY
        self.num_items, self.uses, self.promoted = num_items, 0, False

    def judge(self, right: Bits) -> float:
        """Return the difference to the champion; a promotion is noted."""
        self.uses += 1
        wins = int((right & ~self.champion_right).sum())
        losses = int((~right & self.champion_right).sum())
        alpha = alpha_for_use(GATE, self.uses, epoch_level=LEVEL)
        self.promoted = self.promoted or (wins > losses and mcnemar_p_value(wins, losses) <= alpha)
        return (wins - losses) / self.num_items


def fresh(right: Bits, random: np.random.Generator) -> Bits:
    """Return a model with new answers on 5 % of the items, right as often as the champion is: truly no better."""
    moved = random.random(len(right)) < CHANGED
    return np.where(moved, random.random(len(right)) < ACCURACY, right)


def climb(random: np.random.Generator, *, num_items: int, tries: int, ladder: bool) -> bool:
    """Return whether a climber is promoted: it keeps a try where what is told of it is a new best."""
    exam, rung, best = SimulatedExam(random, num_items=num_items), None, 0.0
    model = exam.champion_right
    for _ in range(tries):
        contender = fresh(model, random)
        difference = exam.judge(contender)
        rung = evaluation_ladder.climb(rung, difference, num_items=num_items)
        told = rung.told if ladder else difference
        if told is not None and told > best:
            model, best = contender, told
    return exam.promoted


def vote(random: np.random.Generator, *, num_items: int, tries: int) -> bool:
    """Return whether the vote of the tries whose answer was `inconclusive` is promoted, or any try before it."""
    exam = SimulatedExam(random, num_items=num_items)
    kept = []
    for _ in range(tries - 1):
        contender = fresh(exam.champion_right, random)
        if exam.judge(contender) > 0:
            kept.append(contender)
    if kept:
        # Where a try answers as the champion does it has no opinion; most of the opinions of the others decide.
        votes = np.sum([np.where(right == exam.champion_right, 0, np.where(right, 1, -1)) for right in kept], axis=0)
        exam.judge(np.where(votes == 0, exam.champion_right, votes > 0))
    return exam.promoted


def main() -> int:
    """Print the table; 1 if the ladder does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exams", type=int, default=150)
    parser.add_argument("--tries", type=int, default=200)
    arguments = parser.parse_args()
    print(f"Promoted though no better, % of {arguments.exams} epochs; the level of an epoch is {100 * LEVEL:g}.\n")
    print("| items | tries | climbs on all that is told | climbs on the ladder | votes by the answer alone |")
    print("|---|---|---|---|---|")
    worst = 0.0
    for num_items in SIZES:
        for tries in sorted({min(50, arguments.tries), arguments.tries}):
            shared = {"num_items": num_items, "tries": tries}
            rates = []
            for attack in ("told", "ladder", "vote"):
                random = np.random.default_rng([num_items, tries])
                runs = range(arguments.exams)
                if attack == "vote":
                    hits = [vote(random, **shared) for _ in runs]
                else:
                    hits = [climb(random, **shared, ladder=attack == "ladder") for _ in runs]
                rates.append(float(np.mean(hits)))
            worst = max(worst, rates[1])
            cells = " | ".join(
                f"{100 * rate:.1f} ±{196 * math.sqrt(rate * (1 - rate) / arguments.exams):.1f}" for rate in rates
            )
            print(f"| {num_items:,} | {tries} | {cells} |", flush=True)
    return int(worst > LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / arguments.exams))


if __name__ == "__main__":
    sys.exit(main())
