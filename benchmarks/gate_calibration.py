"""False promotions and power of the gate's rule, beside "the higher score wins" on the same simulated exams.

    python benchmarks/gate_calibration.py [--contenders 10000] [--nights 50] [--figure docs/images/gate-calibration.svg]

What decides is the production code: `rule.shows_gain` on the statistics of `evaluation.statistics` at the level of
`evidence.alpha_for_use`. A contender is simulated by the items that it alone gets right and those that the champion
alone does. Prints Markdown tables and writes a figure. Exits 1 if contenders that are no better pass more often than
they may: more than the nominal rate and three of its standard errors at the number of draws, which a gate that sits
exactly at its nominal rate exceeds in about 1 run of 700 per row.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gate_calibration_figure as figure
import numpy as np

from pipeline_tasks.evaluation.evidence import alpha_for_use
from pipeline_tasks.evaluation.statistics import (
    PairedGain,
    compare_macro_f1,
    mcnemar_p_value,
    shows_gain,
    tango_bound,
    weighted_macro_f1,
)
from pipeline_tasks.project.gate_schema import Gate

Array = np.ndarray[Any, np.dtype[Any]]

DISAGREEMENT = 0.10
CHAMPION_ACCURACY = 0.85
EXAMS = (200, 500, 1000, 2000, 5000)
GAINS = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05)
SHOWN_GAINS = (0.0, 0.01, 0.02, 0.03, 0.05)
CLASS_SHARES = (0.40, 0.25, 0.20, 0.10, 0.05)
F1_EXAMS = (200, 1000)
F1_GAINS = (0.03, 0.05)
STANDARD_ERRORS = 3
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "gate-calibration.svg"


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """A rate that must not exceed its nominal one; `naive` is what "the higher score wins" does on the same draws."""

    name: str
    nominal: float
    rule: float
    naive: float | None
    num_draws: int
    variance: float | None = None

    @property
    def allowed(self) -> float:
        """Return the nominal rate and three of its standard errors; a draw's variance is p (1 - p) if not given."""
        variance = self.nominal * (1 - self.nominal) if self.variance is None else self.variance
        return self.nominal + STANDARD_ERRORS * math.sqrt(variance / self.num_draws)


@dataclasses.dataclass(frozen=True, slots=True)
class Power:
    """Promoted shares of contenders that truly are `gain` better, first use of an exam."""

    num_items: int
    gain: float
    rule: float
    naive: float


@dataclasses.dataclass(frozen=True, slots=True)
class Season:
    """Share of exams that have promoted an equal contender by each night."""

    num_items: int
    rule: tuple[float, ...]
    naive: tuple[float, ...]


def draw(random: np.random.Generator, *, num_items: int, gain: float, size: int) -> Array:
    """Return wins and losses (size, 2) of contenders that truly are `gain` better, each on a fresh exam."""
    shares = [(DISAGREEMENT + gain) / 2, (DISAGREEMENT - gain) / 2, 1 - DISAGREEMENT]
    return random.multinomial(num_items, shares, size=size)[:, :2]


def found_gain(wins: int, losses: int, *, num_items: int, alpha: float, bounded: bool) -> PairedGain:
    """Return what production computes from the answers; the bound only where the rule looks at it (it is slow)."""
    return PairedGain(
        metric="accuracy",
        difference=(wins - losses) / num_items,
        low=tango_bound(wins, losses, num_items, alpha=alpha) if bounded else -1.0,
        high=1.0,
        p_value=mcnemar_p_value(wins, losses),
        alpha=alpha,
        num_items=num_items,
        num_wins=wins,
        num_losses=losses,
        spread=0.0,
    )


def of_each(pairs: Array, judge: Callable[[int, int], float]) -> Array:
    """Return judge(wins, losses) of each row, computed once per distinct pair."""
    distinct, index = np.unique(pairs.reshape(-1, 2), axis=0, return_inverse=True)
    values = np.array([judge(int(wins), int(losses)) for wins, losses in distinct])
    return values[index.reshape(-1)].reshape(pairs.shape[:-1])


def promoted(pairs: Array, *, num_items: int, policy: Gate, use: int = 1) -> Array:
    """Return the rule's word on each contender, as booleans."""
    alpha, bounded = alpha_for_use(policy, use), policy.min_gain > 0

    def judge(wins: int, losses: int) -> float:
        gain = found_gain(wins, losses, num_items=num_items, alpha=alpha, bounded=bounded)
        return shows_gain(gain, min_gain=policy.min_gain)

    return of_each(pairs, judge).astype(bool)


def power_table(random: np.random.Generator, *, policy: Gate, size: int) -> list[Power]:
    """Return promoted shares by exam size and true gain; both rules judge the same draws."""
    rows = []
    for num_items in EXAMS:
        for gain in GAINS:
            pairs = draw(random, num_items=num_items, gain=gain, size=size)
            ours = float(promoted(pairs, num_items=num_items, policy=policy).mean())
            rows.append(Power(num_items, gain, ours, float((pairs[:, 0] > pairs[:, 1]).mean())))
    return rows


def equal_claims(rows: Sequence[Power], *, policy: Gate, size: int) -> list[Claim]:
    """Equal contenders, first use of an exam: the nominal rate is the level of that use."""
    level = alpha_for_use(policy, 1)
    return [
        Claim(f"accuracy, equal contenders, exam of {row.num_items:,}, first use", level, row.rule, row.naive, size)
        for row in rows
        if row.gain == 0
    ]


def min_gain_claims(random: np.random.Generator, *, size: int) -> list[Claim]:
    """Contenders that are better by just `gate.min_gain`, which is not more than it."""
    claims = []
    for min_gain in (0.01, 0.02):
        policy = Gate(min_gain=min_gain)
        pairs = draw(random, num_items=1000, gain=min_gain, size=size)
        ours = float(promoted(pairs, num_items=1000, policy=policy).mean())
        naive = float(((pairs[:, 0] - pairs[:, 1]) / 1000 > min_gain).mean())
        name = f"accuracy, true gain = gate.min_gain = {min_gain:g}, exam of 1,000, first use"
        claims.append(Claim(name, alpha_for_use(policy, 1), ours, naive, size))
    return claims


def held(random: np.random.Generator, *, num_items: int, policy: Gate, loss: float, size: int) -> float:
    """Return how often a contender that truly is worse by `loss` on the previous exam passes as non-inferior."""
    alpha, margin = 1 - policy.confidence, policy.previous_margin

    def judge(wins: int, losses: int) -> float:
        return tango_bound(wins, losses, num_items, alpha=alpha) >= -margin

    return float(of_each(draw(random, num_items=num_items, gain=-loss, size=size), judge).mean())


def previous_claims(random: np.random.Generator, *, policy: Gate, size: int) -> list[Claim]:
    """Contenders that are worse by just the margin on the previous exam."""
    margin, level = policy.previous_margin, 1 - policy.confidence
    return [
        Claim(
            f"previous exam of {num_items:,}, true loss = gate.previous_margin = {margin:g}",
            level,
            held(random, num_items=num_items, policy=policy, loss=margin, size=size),
            None,
            size,
        )
        for num_items in EXAMS
    ]


def season(random: np.random.Generator, *, num_items: int, policy: Gate, nights: int, size: int) -> Season:
    """Judge a new equal contender every night on one exam and against one champion.

    The champion's luck with the exam is drawn once and favours or hurts all its contenders, as in reality.
    """
    right = random.binomial(num_items, CHAMPION_ACCURACY, size=size)
    win_share, loss_share = DISAGREEMENT / 2 / (1 - CHAMPION_ACCURACY), DISAGREEMENT / 2 / CHAMPION_ACCURACY
    ever_rule, ever_naive = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    rule, naive = [], []
    for use in range(1, nights + 1):
        wins, losses = random.binomial(num_items - right, win_share), random.binomial(right, loss_share)
        ever_rule |= promoted(np.stack([wins, losses], axis=1), num_items=num_items, policy=policy, use=use)
        ever_naive |= wins > losses
        rule.append(float(ever_rule.mean()))
        naive.append(float(ever_naive.mean()))
    return Season(num_items, tuple(rule), tuple(naive))


def season_claims(seasons: Sequence[Season], *, policy: Gate, size: int) -> list[Claim]:
    """A whole season of equal contenders: the chance of any false promotion."""
    return [
        Claim(
            f"accuracy, {len(each_season.rule)} nightly equal contenders on one exam of {each_season.num_items:,}: any",
            1 - policy.confidence,
            each_season.rule[-1],
            each_season.naive[-1],
            size,
        )
        for each_season in seasons
    ]


def f1_cells(gain: float) -> tuple[Array, Array]:
    """Return cells (k, 3) of truth, contender, champion, and their shares.

    Every class has the same share of wins and losses and wrong answers are spread evenly, so at a gain of 0 the two
    models are exchangeable: equal in macro F1, whatever the classes' sizes.
    """
    cells, shares = [], []
    count = len(CLASS_SHARES)
    win, loss = (DISAGREEMENT + gain) / 2, (DISAGREEMENT - gain) / 2
    for truth, share in enumerate(CLASS_SHARES):
        cells.append((truth, truth, truth))
        shares.append(share * (CHAMPION_ACCURACY - loss))
        for wrong in set(range(count)) - {truth}:
            cells += [(truth, truth, wrong), (truth, wrong, truth), (truth, wrong, wrong)]
            both_wrong = 1 - CHAMPION_ACCURACY - win
            shares += [share * each / (count - 1) for each in (win, loss, both_wrong)]
    return np.array(cells), np.array(shares)


def true_f1_gain(gain: float) -> float:
    """Return the difference in macro F1 on all the items that there could be."""
    cells, shares = f1_cells(gain)
    many = 1e9 * shares[None]  # F1 is of shares as of counts, but a class of no item and no answer counts as one
    contender, champion = (
        weighted_macro_f1(cells[:, 0], cells[:, column], many, num_classes=len(CLASS_SHARES)) for column in (1, 2)
    )
    return float(contender[0] - champion[0])


def f1_gains(random: np.random.Generator, *, num_items: int, gain: float, alpha: float, size: int) -> list[PairedGain]:
    """Compare contenders by the paired bootstrap of production, each on a fresh exam."""
    cells, shares = f1_cells(gain)
    gains = []
    for counts in random.multinomial(num_items, shares, size=size):
        answers = np.repeat(cells, counts, axis=0)
        classes, seed = len(CLASS_SHARES), int(random.integers(2**31))
        gains.append(compare_macro_f1(*answers.T, num_classes=classes, alpha=alpha, seed=seed))
    return gains


def f1_claims(random: np.random.Generator, *, policy: Gate, nights: int, size: int) -> list[Claim]:
    """Equal contenders by macro F1: first use, then the same draws at the levels of a season."""
    claims, level = [], alpha_for_use(policy, 1)
    for num_items in F1_EXAMS:
        gains = f1_gains(random, num_items=num_items, gain=0.0, alpha=level, size=size)
        ours, naive = (
            [shows_gain(result, min_gain=0) for result in gains],
            [result.difference > 0 for result in gains],
        )
        name = f"macro F1, equal contenders, exam of {num_items:,}, first use"
        claims.append(Claim(name, level, float(np.mean(ours)), float(np.mean(naive)), size))
        claims.append(f1_season(gains, policy=policy, nights=nights, num_items=num_items))
    return claims


def f1_season(gains: Sequence[PairedGain], *, policy: Gate, nights: int, num_items: int) -> Claim:
    """Return false promotions per season: the sum of every night's rate, which bounds the chance of any.

    A p-value does not know its level, so each draw stands for every night: it is promoted on the nights whose level
    is at least its p-value. Levels fall, so the nights of one draw are nested; hence the variance.
    """
    levels = [alpha_for_use(policy, use) for use in range(1, nights + 1)]
    counts = [
        sum(shows_gain(dataclasses.replace(result, alpha=level), min_gain=0) for level in levels) for result in gains
    ]
    variance = sum((2 * use - 1) * level for use, level in enumerate(levels, start=1)) - sum(levels) ** 2
    name = f"macro F1, {nights} nightly equal contenders, exam of {num_items:,}: promotions per season"
    return Claim(name, 1 - policy.confidence, float(np.mean(counts)), None, len(gains), variance)


def f1_power(random: np.random.Generator, *, policy: Gate, size: int) -> list[Power]:
    """Return promoted shares by macro F1; `gain` is the true one in macro F1."""
    rows, level = [], alpha_for_use(policy, 1)
    for num_items in F1_EXAMS:
        for gain in F1_GAINS:
            gains = f1_gains(random, num_items=num_items, gain=gain, alpha=level, size=size)
            ours = float(np.mean([shows_gain(result, min_gain=0) for result in gains]))
            naive = float(np.mean([result.difference > 0 for result in gains]))
            rows.append(Power(num_items, true_f1_gain(gain), ours, naive))
    return rows


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def power_rows(rows: Sequence[Power]) -> list[list[str]]:
    """Return one row per exam size, rule and naive in each cell."""
    by = {(row.num_items, row.gain): f"{100 * row.rule:.1f} / {100 * row.naive:.1f}" for row in rows}
    return [[f"{num_items:,}", *[by[num_items, gain] for gain in SHOWN_GAINS]] for num_items in EXAMS]


def main() -> int:
    """Print the tables, write the figure; exit 1 if a rate exceeds what it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", type=int, default=10_000)
    parser.add_argument("--f1-contenders", type=int, default=5_000)
    parser.add_argument("--nights", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    options = parser.parse_args()
    if options.nights < 2:
        parser.error(f"--nights must be at least 2 (got {options.nights}).")
    random, policy, size = np.random.default_rng(options.seed), Gate(), options.contenders
    start = time.perf_counter()
    rows = power_table(random, policy=policy, size=size)
    seasons = [season(random, num_items=n, policy=policy, nights=options.nights, size=size) for n in (200, 1000)]
    claims = [
        *equal_claims(rows, policy=policy, size=size),
        *min_gain_claims(random, size=size),
        *season_claims(seasons, policy=policy, size=size),
        *previous_claims(random, policy=policy, size=size),
        *f1_claims(random, policy=policy, nights=options.nights, size=options.f1_contenders),
    ]
    by_f1 = f1_power(random, policy=policy, size=max(options.f1_contenders // 5, 1))
    print(f"Promoted, rule / naive, % of {size:,} contenders; models differ on {percent(DISAGREEMENT)} of the items.\n")
    print(table(["exam items", *[f"true gain {100 * gain:g} points" for gain in SHOWN_GAINS]], power_rows(rows)))
    print(f"\nBy macro F1, {max(options.f1_contenders // 5, 1):,} contenders each.\n")
    cells = [[f"{r.num_items:,}", f"{100 * r.gain:.1f} points", percent(r.rule), percent(r.naive)] for r in by_f1]
    print(table(["exam items", "true gain in macro F1", "rule", "naive"], cells))
    print("\nWhat must not exceed its nominal rate (allowed: and three standard errors of the simulation).\n")
    head = ["contenders that are no better", "draws", "nominal", "allowed", "rule", "naive"]
    print(table(head, [claim_row(claim) for claim in claims]))
    alone = [round(held(random, num_items=n, policy=policy, loss=0.0, size=size), 3) for n in EXAMS]
    print(f"\nEqual contenders that hold a previous exam, by exam size: {dict(zip(EXAMS, alone, strict=True))}")
    options.figure.write_text(draw_figure(rows, seasons[-1], policy=policy, size=size))
    failed = [claim.name for claim in claims if claim.rule > claim.allowed]
    print("\n".join(f"FAILED, too often: {name}" for name in failed) or "No rate exceeds what it may.")
    print(f"{options.figure} written; {time.perf_counter() - start:.0f} s")
    return 1 if failed else 0


def claim_row(claim: Claim) -> list[str]:
    naive = percent(claim.naive) if claim.naive is not None else ""
    return [
        claim.name,
        f"{claim.num_draws:,}",
        percent(claim.nominal),
        percent(claim.allowed),
        percent(claim.rule),
        naive,
    ]


def draw_figure(rows: Sequence[Power], judged: Season, *, policy: Gate, size: int) -> str:
    """Return the SVG: a season of equal contenders, and power by exam size for both rules."""
    nights = [float(night) for night in range(1, len(judged.rule) + 1)]
    exams = {f"{n:,} items": [row for row in rows if row.num_items == n] for n in EXAMS}
    return figure.render(
        nights={"rule": (nights, judged.rule), "naive": (nights, judged.naive)},
        rule={
            name: ([100 * row.gain for row in powers], [row.rule for row in powers]) for name, powers in exams.items()
        },
        naive={
            name: ([100 * row.gain for row in powers], [row.naive for row in powers]) for name, powers in exams.items()
        },
        nominal=1 - policy.confidence,
        note=(
            f"{size:,} simulated contenders per point (left: {size:,} exams of {judged.num_items:,} items); the models "
            f"differ on {percent(DISAGREEMENT)} of the items; benchmarks/gate_calibration.py"
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
