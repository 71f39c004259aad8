"""Share of windows in which one epoch vetoes a contender (EPOCH_WORSE): at gate.confidence up to rule 5, and in rule 6.

    python benchmarks/epoch_veto.py        (a minute, one core)

Simulated windows of a template: epochs of gate.exam.min_items, two models that differ on 10 % of the items. The
contender is equal to the champion on every epoch, 3 points better on each, or drifted: 10 points better on the newest
epoch and 0, 3 or 6 points worse on each one before. Shares in %, with their 95 % Monte Carlo error; the first figure
of a pair is rule 5.
"""

from __future__ import annotations

import argparse
import functools
import math

import numpy as np

from pipeline_tasks.evaluation.evidence import LOSS_ALPHA
from pipeline_tasks.evaluation.statistics import tango_bound
from pipeline_tasks.project.scaffold import SIZES

DISAGREEMENT = 0.1
SEED = 20261130
WORLDS = {
    "equal": (0.0, 0.0),
    "3 points better": (0.03, 0.03),
    "10 better on the newest, 0 worse before": (0.1, 0.0),
    "10 better on the newest, 3 worse before": (0.1, -0.03),
    "10 better on the newest, 6 worse before": (0.1, -0.06),
}


@functools.cache
def is_worse(num_wins: int, num_losses: int, num_items: int, alpha: float) -> bool:
    """Return whether an epoch shows a loss at this level."""
    return tango_bound(num_wins, num_losses, num_items, alpha=alpha, upper=True) < 0


def vetoed(gains: list[float], num_items: int, alpha: float, *, draws: int) -> float:
    """Return the share of windows of which an epoch shows a loss; `gains` are the true ones of its epochs."""
    random, count = np.random.default_rng(SEED), 0
    for _ in range(draws):
        for gain in gains:
            differ = max(DISAGREEMENT, abs(gain))
            wins, losses, _same = random.multinomial(
                num_items, [(differ + gain) / 2, (differ - gain) / 2, 1 - differ]
            ).tolist()
            if is_worse(wins, losses, num_items, alpha):
                count += 1
                break
    return count / draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=4000)
    draws = parser.parse_args().draws
    print("| contender | epochs | " + " | ".join(f"template {size:,}" for size in SIZES) + " |")
    print("|---|---|" + "---|" * len(SIZES))
    for name, (newest, before) in WORLDS.items():
        for num_epochs in (1, 3, 5):
            cells = []
            for settings in SIZES.values():
                num_items, alpha = int(settings["min_items"]), 1 - float(settings["confidence"])
                gains = [newest, *[before] * (num_epochs - 1)]
                shares = [vetoed(gains, num_items, level, draws=draws) for level in (alpha, min(alpha, LOSS_ALPHA))]
                error = 1.96 * math.sqrt(max(shares[0] * (1 - shares[0]), 1 / draws) / draws)
                cells.append(f"{100 * shares[0]:.1f} / {100 * shares[1]:.1f} ±{100 * error:.1f}")
            print(f"| {name} | {num_epochs} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
