"""False promotions and power of the gate's rule, beside "the higher score wins", on the same simulated exams.

    python benchmarks/gate_simulation.py [--contenders 10000] [--nights 50] [--out FILE]

A contender is simulated by how many items of an exam it alone gets right and how many the champion alone does; the
rule that runs is `pipeline_tasks.evaluation.rule.shows_gain` at the level of `alpha_for_use`, as in production.
The program fails when the rule promotes contenders that are no better more often than it may.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from functools import cache
from pathlib import Path

import numpy as np

from pipeline_tasks.evaluation.evidence import alpha_for_use
from pipeline_tasks.evaluation.rule import shows_gain
from pipeline_tasks.evaluation.statistics import PairedGain, mcnemar_p_value, tango_bound
from pipeline_tasks.project import Gate

DISAGREEMENT = 0.10
EXAMS = (200, 500, 1000, 2000, 5000)
GAINS = (0.0, 0.01, 0.02, 0.03, 0.05)


def draw(random, *, num_items: int, gain: float, size: int):
    """Return wins and losses of contenders that truly are `gain` better and differ on 10 % of the items."""
    shares = [(DISAGREEMENT + gain) / 2, (DISAGREEMENT - gain) / 2, 1 - DISAGREEMENT]
    return random.multinomial(num_items, shares, size=size)[:, :2]


@cache
def promoted(wins: int, losses: int, num_items: int, min_gain: float, alpha: float) -> bool:
    """Return the rule's word on the current exam."""
    found = PairedGain(
        metric="accuracy",
        difference=(wins - losses) / num_items,
        low=tango_bound(wins, losses, num_items, alpha=alpha) if min_gain else -1.0,
        high=1.0,
        p_value=mcnemar_p_value(wins, losses),
        alpha=alpha,
        num_items=num_items,
        num_wins=wins,
        num_losses=losses,
        spread=0.0,
    )
    return shows_gain(found, min_gain=min_gain)


def rate(counts, *, num_items: int, policy: Gate, use: int = 1) -> float:
    """Return the share of contenders that the rule promotes."""
    alpha = alpha_for_use(policy, use)
    return float(np.mean([promoted(int(w), int(x), num_items, policy.min_gain, alpha) for w, x in counts]))


def previous_held(random, *, num_items: int, policy: Gate, loss: float, size: int) -> float:
    """Return how often a contender that is truly worse by `loss` on the previous exam passes as non-inferior."""
    counts = draw(random, num_items=num_items, gain=-loss, size=size)
    alpha, margin = 1 - policy.confidence, policy.previous_margin
    bounds = {tuple(pair): tango_bound(*map(int, pair), num_items, alpha=alpha) for pair in np.unique(counts, axis=0)}
    return float(np.mean([bounds[tuple(pair)] >= -margin for pair in counts]))


def nights(random, *, num_items: int, policy: Gate, num_nights: int, size: int) -> tuple[float, float]:
    """Return how often a season of equal contenders on one exam ends with a false promotion: rule, naive."""
    ever_rule, ever_naive = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    for use in range(1, num_nights + 1):
        counts = draw(random, num_items=num_items, gain=0.0, size=size)
        alpha = alpha_for_use(policy, use)
        ever_rule |= np.array([promoted(int(w), int(x), num_items, 0.0, alpha) for w, x in counts])
        ever_naive |= counts[:, 0] > counts[:, 1]
    return float(ever_rule.mean()), float(ever_naive.mean())


class Report:
    """Rows for the table file, and what was promoted too often."""

    def __init__(self, *, nominal: float) -> None:
        self.nominal, self.rows, self.failures = nominal, [], []

    def add(self, line: str, *, share: float, size: int, must_hold: bool, **row) -> None:
        """Print and keep a figure; one that must hold may exceed the nominal rate by three standard errors."""
        print(line)
        self.rows.append({**row, "rule": share})
        if must_hold and share > self.nominal + 3 * math.sqrt(self.nominal * (1 - self.nominal) / size):
            self.failures.append(f"too often: {line}")


def power(random, report: Report, *, policy: Gate, size: int) -> None:
    """One comparison on a fresh exam, by exam size and true gain."""
    print(f"Promoted share of {size:,} contenders; models differ on {DISAGREEMENT:.0%} of the items.")
    print(f"{'exam':>6} {'true gain':>10} {'rule':>8} {'naive':>8}")
    for num_items in EXAMS:
        for gain in GAINS:
            counts = draw(random, num_items=num_items, gain=gain, size=size)
            ours, naive = rate(counts, num_items=num_items, policy=policy), float((counts[:, 0] > counts[:, 1]).mean())
            line = f"{num_items:>6} {100 * gain:>8.1f} p {ours:>8.3f} {naive:>8.3f}"
            report.add(line, share=ours, size=size, must_hold=gain == 0, num_items=num_items, gain=gain, naive=naive)


def margins(random, report: Report, *, policy: Gate, size: int) -> None:
    """A minimum gain on the current exam, and the margin on the previous one."""
    for min_gain in (0.01, 0.02):
        counts = draw(random, num_items=1000, gain=min_gain, size=size)
        ours = rate(counts, num_items=1000, policy=Gate(min_gain=min_gain))
        line = f"gate.min_gain {min_gain:g}, true gain just that, exam of 1000: rule {ours:.3f}"
        report.add(line, share=ours, size=size, must_hold=True, num_items=1000, min_gain=min_gain)
    few = max(size // 5, 1)
    for num_items in EXAMS:
        for loss in (0.0, policy.previous_margin):
            passed = previous_held(random, num_items=num_items, policy=policy, loss=loss, size=few)
            margin = policy.previous_margin
            line = f"previous exam of {num_items}, true loss {loss:g}, margin {margin:g}: {passed:.3f} pass"
            report.add(line, share=passed, size=few, must_hold=loss > 0, num_items=num_items, loss=loss)


def seasons(random, report: Report, *, policy: Gate, num_nights: int, size: int) -> None:
    """Equal contenders, night after night, on one exam."""
    for num_items in (200, 1000):
        ours, naive = nights(random, num_items=num_items, policy=policy, num_nights=num_nights, size=size)
        line = (
            f"{num_nights} nights of equal contenders on one exam of {num_items}: ever promoted: "
            f"rule {ours:.3f}, naive {naive:.3f}"
        )
        report.add(line, share=ours, size=size, must_hold=True, num_items=num_items, nights=num_nights, naive=naive)


def main() -> int:
    """Print the tables; exit 1 if equal contenders are promoted more often than `1 - confidence`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", type=int, default=10_000)
    parser.add_argument("--nights", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    random, policy = np.random.default_rng(options.seed), Gate()
    report = Report(nominal=1 - policy.confidence)
    power(random, report, policy=policy, size=options.contenders)
    margins(random, report, policy=policy, size=options.contenders)
    seasons(random, report, policy=policy, num_nights=options.nights, size=max(options.contenders // 5, 1))
    if options.out:
        options.out.write_text(json.dumps({"nominal": report.nominal, "rows": report.rows}, indent=1) + "\n")
    print("\n".join(report.failures) or f"False promotions stay within the nominal {report.nominal:.3f}.")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
