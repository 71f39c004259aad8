"""A year of weekly exam epochs: the accuracy that is served and the promotions that were wrong, rule by rule.

    python benchmarks/gate_season.py [--years 100] [--seed 0] [--world "equal contenders"]

The world is a model: each item has a difficulty that all models share (probit), two models differ on about 10 % of
the items, training gets better with 300 labels a week, a model loses accuracy on data younger than itself, three
contenders are trained a week and one in twenty is broken by five points. Each week 100 exam items are labeled. All
rules see the same contenders and items. What decides is the production code: today's rule (`evaluation.rule`), the
rule before (`evaluation.rule_4`), and beside them "the higher score wins" on the newest 100 items and on the newest
800.

Prints Markdown tables. Exits 1 unless, in the world that ages by 0.05 points a week, today's rule serves at least 0.7
points more than the rule before and promotes no more models that are truly no better, and promotes no more contenders
that are exactly equal than its yearly budget. With `--world` it prints the tables alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from pipeline_tasks.core.proportions import wilson_interval
from pipeline_tasks.evaluation import gate_rule, gate_rule_4, groups, statistics
from pipeline_tasks.evaluation.error_budget import epoch_levels
from pipeline_tasks.evaluation.evidence import EpochEvidence, Evidence, ExamEvidence, alpha_for_use
from pipeline_tasks.evaluation.metrics import OutputHealth
from pipeline_tasks.evaluation.scores import ModelScores
from pipeline_tasks.project.gate_schema import Gate

Array = np.ndarray[Any, np.dtype[Any]]
WEEKS = 52
BEFORE = 10  # epochs that exist when the year begins
ITEMS = 100
CONTENDERS = 3
DIFFICULTY = 0.93  # correlation of two models' latent scores on one item: about 10 % disagreement at 87 %
RUN_NOISE = 0.01
BROKEN, BROKEN_BY = 0.05, 0.05
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
Promote = Callable[["Year", int, int, int], bool]


@dataclasses.dataclass(frozen=True, slots=True)
class SeasonWorld:
    """Course of the truth: points lost a week on younger data, and whether training learns and contenders differ."""

    name: str
    aging: float
    learns: bool = True
    equal: bool = False
    worse: float = 0.0


WORLDS = (
    SeasonWorld("aging 0.05", 0.0005),
    SeasonWorld("aging 0.2", 0.002),
    SeasonWorld("flat", 0.0, learns=False),
    SeasonWorld("equal contenders", 0.0, learns=False, equal=True),
    SeasonWorld("all 1 point worse", 0.0, learns=False, equal=True, worse=0.01),
)


@dataclasses.dataclass(slots=True)
class Year:
    """One year: each model's quality and training week, and whether it is right on each item of each epoch."""

    quality_m: Array
    week_m: Array
    right_mei: Array
    aging: float
    uses: dict[int, int] = dataclasses.field(default_factory=dict)

    def accuracy(self, model: int, week: int) -> float:
        """Return a model's true accuracy on data of a week."""
        return float(self.quality_m[model] - self.aging * max(0, week - self.week_m[model]))

    def window(self, week: int, *, items: int) -> list[int]:
        """Return the epochs that are judged together in a week, newest first."""
        newest = BEFORE + week
        return list(range(newest, max(-1, newest - items // ITEMS), -1))


def quality(week: int, *, learns: bool) -> float:
    """Return what training reaches with 1,000 labels and 300 more a week."""
    return 0.93 - 0.0635 * ((1000 + 300 * week) / 1000) ** -0.35 if learns else 0.93 - 0.0635


def year_of(random: np.random.Generator, world: SeasonWorld) -> Year:
    """Draw a year of contenders and exam items."""
    weeks = [-1] + [week for week in range(WEEKS) for _ in range(CONTENDERS)]
    qualities = [quality(0, learns=False)]
    for week in weeks[1:]:
        if world.equal:
            qualities.append(qualities[0] - world.worse)
            continue
        broken = BROKEN_BY if random.random() < BROKEN else 0.0
        qualities.append(quality(week, learns=world.learns) + random.normal(0, RUN_NOISE) - broken)
    quality_m, week_m = np.array(qualities), np.array(weeks)
    epoch_e = np.arange(BEFORE + WEEKS) - BEFORE
    age_me = np.maximum(0, epoch_e[None, :] - week_m[:, None])
    accuracy_me = np.clip(quality_m[:, None] - world.aging * age_me, 0.01, 0.99)
    item_ei = random.standard_normal((len(epoch_e), ITEMS))
    noise_mei = random.standard_normal((len(weeks), len(epoch_e), ITEMS), dtype=np.float32)
    latent_mei = np.sqrt(DIFFICULTY) * item_ei[None] + np.sqrt(1 - DIFFICULTY) * noise_mei
    return Year(quality_m, week_m, latent_mei < stats.norm.ppf(accuracy_me)[:, :, None], world.aging)


def scores(right_n: Array) -> ModelScores:
    """Return the accuracy as the rule takes it; the other figures of a model do not count here."""
    figures = {"accuracy": wilson_interval(int(right_n.sum()), len(right_n))}
    return ModelScores(figures, 0.0, (), (), (), OutputHealth(0, 0, constant=False))


def today(policy: Gate) -> Promote:
    """Return the product's rule on the newest epochs together, at the level that the yearly budget leaves."""
    opened = [START + dt.timedelta(days=7 * epoch) for epoch in range(BEFORE + WEEKS)]
    levels = epoch_levels(opened, a_year=policy.false_promotions_a_year, confidence=policy.confidence)

    def promote(year: Year, contender: int, champion: int, week: int) -> bool:
        chosen = year.window(week, items=policy.exam.window_items)
        use, level = next_use(year, week), levels[BEFORE + week]
        pair = (year.right_mei[contender][chosen], year.right_mei[champion][chosen])
        ours_n, theirs_n = (answers_n.reshape(-1) for answers_n in pair)
        alpha = alpha_for_use(policy, use, epoch_level=level)
        current = ExamEvidence(
            exam_id="", epoch=chosen[0], num_items=len(ours_n), classes=(), contender=scores(ours_n),
            champion=scores(theirs_n), gain=compared(ours_n, theirs_n, alpha=alpha), shared_gain=None,
            num_groups=len(ours_n),
        )  # fmt: skip
        parts = tuple(
            EpochEvidence("", epoch, ITEMS, ITEMS, 0.0, 0.0, compared(ours, theirs, alpha=1 - policy.confidence), ITEMS)
            for epoch, ours, theirs in zip(chosen, *pair, strict=True)
        )
        evidence = Evidence((), None, None, current, None, use, epochs=parts, epoch_level=level)  # type: ignore[arg-type]
        return all(reason.stand in {"for", "note"} for reason in gate_rule.compare(policy, evidence))

    return promote


def before(policy: Gate) -> Promote:
    """Return the rule before: the newest epoch alone, the one before it within the margin."""

    def promote(year: Year, contender: int, champion: int, week: int) -> bool:
        newest, previous = BEFORE + week, BEFORE + week - 1
        alpha = alpha_for_use(policy, next_use(year, week))
        pairs = [(year.right_mei[contender][epoch], year.right_mei[champion][epoch]) for epoch in (newest, previous)]
        gain = statistics.compare_accuracy(*pairs[0], alpha=alpha)
        if not statistics.shows_gain(gain, min_gain=policy.min_gain):
            return False
        old = statistics.compare_accuracy(*pairs[1], alpha=1 - policy.confidence)
        return gate_rule_4.non_inferior(policy, old, "", "").stand == "for"

    return promote


def higher(*, items: int) -> Promote:
    """Return "the higher score wins" on so many of the newest items."""

    def promote(year: Year, contender: int, champion: int, week: int) -> bool:
        chosen = year.window(week, items=items)
        return bool(year.right_mei[contender][chosen].sum() > year.right_mei[champion][chosen].sum())

    return promote


def compared(ours_n: Array, theirs_n: Array, *, alpha: float) -> statistics.PairedGain:
    """Return the gain on items that are a group each."""
    return groups.compare_accuracy(ours_n, theirs_n, np.arange(len(ours_n)), alpha=alpha)


def next_use(year: Year, week: int) -> int:
    year.uses[week] = year.uses.get(week, 0) + 1
    return year.uses[week]


@dataclasses.dataclass(frozen=True, slots=True)
class YearOutcome:
    """One year under one rule: mean true accuracy served, promotions, those to a truly worse model, by > 1 point."""

    accuracy: float
    promotions: int
    worse: int
    much_worse: int


def play(year: Year, promote: Promote) -> YearOutcome:
    """Return what a rule makes of a year."""
    year.uses = {}
    champion, served, gains = 0, [], []
    for week in range(WEEKS):
        for contender in range(1 + week * CONTENDERS, 1 + (week + 1) * CONTENDERS):
            if promote(year, contender, champion, week):
                gains.append(year.accuracy(contender, week) - year.accuracy(champion, week))
                champion = contender
        served.append(year.accuracy(champion, week))
    worse = [gain for gain in gains if gain <= 0]
    return YearOutcome(float(np.mean(served)), len(gains), len(worse), sum(gain < -0.01 for gain in worse))


def rules() -> dict[str, Promote]:
    """Return the rules by name."""
    policy = Gate()
    return {
        "today's rule": today(policy),
        "today's rule, eager": today(Gate(mode="eager")),
        "rule before (3, 4)": before(policy),
        "higher score, newest 100": higher(items=ITEMS),
        "higher score, newest 800": higher(items=8 * ITEMS),
        "never": lambda *_: False,
    }


def row_of(outcomes: Sequence[YearOutcome]) -> list[str]:
    """Return means with their 95 % Monte Carlo error."""
    columns = [
        np.array([getattr(outcome, name) for outcome in outcomes], dtype=float) for name in YearOutcome.__slots__
    ]
    columns[0] = 100 * columns[0]
    return [f"{column.mean():.2f} ±{1.96 * column.std() / len(outcomes) ** 0.5:.2f}" for column in columns]


def main() -> int:
    """Play the years, print the tables; exit 1 where the claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--years", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    names = [world.name for world in WORLDS]
    parser.add_argument("--world", action="append", choices=names, help="only this one; may be given again")
    options = parser.parse_args()
    start = time.perf_counter()
    outcomes: dict[tuple[str, str], list[YearOutcome]] = {}
    for number, world in enumerate(WORLDS):
        if world.name not in (options.world or names):
            continue
        for year_number in range(options.years):
            year = year_of(np.random.default_rng([options.seed, number, year_number]), world)
            for name, promote in rules().items():
                outcomes.setdefault((world.name, name), []).append(play(year, promote))
        print(f"\n**{world.name}**, {options.years} years of {WEEKS} weeks\n", flush=True)
        print("| rule | accuracy served, % | promotions a year | truly no better | worse by more than 1 point |")
        print("|---|---|---|---|---|")
        for name in rules():
            print(f"| {name} | {' | '.join(row_of(outcomes[world.name, name]))} |")
    print(f"\n{time.perf_counter() - start:.0f} s")
    return 0 if options.world else report(outcomes)


def report(outcomes: dict[tuple[str, str], list[YearOutcome]]) -> int:
    """Say whether the claims hold: more is served at no more wrong promotions, and the budget is kept."""

    def values(world: str, name: str, what: str) -> Array:
        return np.array([getattr(outcome, what) for outcome in outcomes[world, name]], dtype=float)

    now, before_ = "today's rule", "rule before (3, 4)"
    gained = values("aging 0.05", now, "accuracy").mean() - values("aging 0.05", before_, "accuracy").mean()
    wrong = [values("aging 0.05", name, "worse") for name in (now, before_)]
    equal, budget = values("equal contenders", now, "worse"), Gate().false_promotions_a_year
    print(f"served: {100 * gained:+.2f} points; truly no better: {wrong[0].mean():.2f} (before: {wrong[1].mean():.2f})")
    print(f"equal contenders promoted a year: {equal.mean():.2f} (budget: {budget:g})")
    error = 1.96 * equal.std() / len(equal) ** 0.5
    held = gained >= 0.007 and wrong[0].mean() <= wrong[1].mean() and equal.mean() <= budget + error
    print("The claims hold." if held else "FAILED: a claim does not hold.")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
