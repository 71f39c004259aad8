"""False answers, sizes and delays of experiments, beside the rule before on the same draws.

    python benchmarks/experiment_calibration.py [--experiments 60]

What decides is the production code: `comparison.compare_arms` under `intervals/1` and `pairs/1`, and for the sizes its
parts (`matching.match`, `sequential.compare`). Users are simulated: they come at rates that move with the day, meet one
arm, ask again (Zipf: some often), and what became of the first answer is told late or not at all, by rules that can
depend on the arm and on the answer. Prints Markdown tables with 95 % errors of the simulation. Exits 1 where `pairs/1`
answers more often than it may though the arms do not differ; where they are not told alike, at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Mapping

import numpy as np

from pipeline_tasks.core.confidence_sequences import Rate, compare
from pipeline_tasks.deployment.experiment_analysis import INTERVALS, PAIRS, Experiment, Exposure, Outcome, compare_arms
from pipeline_tasks.deployment.experiment_pairs import Arm, match

ALPHA = 0.05
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
STANDARD_ERRORS = 3
GROWTH = 1.1
EVER_USERS = 20_000
SIZES = ((0.5, 0.55), (0.9, 0.92), (0.9, 0.95), (0.1, 0.12), (0.02, 0.03))
MOST_USERS = 80_000
ARMS: tuple[Arm, Arm] = ("a", "b")


@dataclasses.dataclass(frozen=True, slots=True)
class Telling:
    """Telling of outcomes, by arm and by whether the answer was right: how often, and after how many hours."""

    share: Mapping[tuple[str, bool], float]
    hours: Mapping[tuple[str, bool], float]


@dataclasses.dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of experiment: the true rates, how many come in an hour for how many days, and the telling."""

    name: str
    a: float
    b: float
    per_hour: float
    days: int
    telling: Telling
    is_fair: bool = True  # told alike: then a true difference is to be found, and no answer withheld

    @property
    def truth(self) -> str:
        return "b" if self.b > self.a else "undecided"


def telling(
    share: Mapping[tuple[str, bool], float] | None = None, late: Mapping[tuple[str, bool], float] | None = None
) -> Telling:
    each = [(arm, right) for arm in ARMS for right in (True, False)]
    return Telling(dict.fromkeys(each, 1.0) | dict(share or {}), dict.fromkeys(each, 2.0) | dict(late or {}))


ODD = {("a", True): 0.2, ("b", True): 0.2}  # wrong answers are told five times as often, in both arms
OF_B = {**ODD, ("a", False): 0.5, ("a", True): 0.5, ("b", True): 0.5}  # wrong ones twice as often, in b only
SCENARIOS = (
    Scenario("all told in hours", 0.7, 0.7, 4, 14, telling()),
    Scenario("all told in hours", 0.7, 0.8, 4, 14, telling()),
    Scenario("20 an hour, all told in hours", 0.9, 0.95, 20, 5, telling()),
    Scenario("wrong ones told 5 times as often, in both arms", 0.7, 0.7, 4, 14, telling(ODD)),
    Scenario("wrong ones told twice as often in `b`", 0.7, 0.7, 4, 14, telling(OF_B), is_fair=False),
    Scenario(
        "wrong ones told late in `b` (3 days)", 0.7, 0.7, 4, 14, telling(late={("b", False): 72.0}), is_fair=False
    ),
    Scenario(
        "wrong ones told late in both (12 hours)", 0.7, 0.8, 4, 14, telling(late={("a", False): 12, ("b", False): 12})
    ),
    Scenario("half of `b` never told", 0.7, 0.7, 4, 14, telling({("b", True): 0.5, ("b", False): 0.5}), is_fair=False),
)


def log_of(rng: np.random.Generator, scenario: Scenario) -> tuple[list[Exposure], list[Outcome]]:
    """Return what a gateway would have logged; users are as good as their hour, and some ask often."""
    number = rng.poisson(24 * scenario.per_hour * scenario.days)
    times = np.sort(rng.random(number) * scenario.days * DAY_MS)
    times = times[rng.random(number) < 0.5 + 0.5 * np.sin(2 * np.pi * times / DAY_MS) ** 2]
    exposures, outcomes = [], []
    for user, at in enumerate(times):
        arm = ARMS[int(rng.random() < 0.5)]
        swing = 0.15 * math.sin(2 * math.pi * at / DAY_MS)
        right = bool(rng.random() < min(1.0, max(0.0, getattr(scenario, arm) + swing * (1 - getattr(scenario, arm)))))
        for again in range(min(5, int(rng.zipf(2.0)))):
            name = f"{user}-{again}"
            later = int(at + again * HOUR_MS)
            exposures.append(Exposure(f"r{name}", f"p{name}", f"u{user}", None, f"d{arm}", "x", later))
        if rng.random() < scenario.telling.share[arm, right]:
            told = int(at + rng.exponential(scenario.telling.hours[arm, right]) * HOUR_MS)
            outcomes.append(Outcome(f"f{user}", f"p{user}-0", None, "x" if right else "y", told))
    return exposures, outcomes


def answers_of(exposures: list[Exposure], outcomes: list[Outcome], *, rule: str, days: int) -> list[str]:
    """Return what one is told at a look a day, and two days after the end."""
    terms = Experiment("e", "p", 1, "va", "vb", {"da": "a", "db": "b"}, 50, "correct", 1 - ALPHA, rule, 86_400.0)
    answers = []
    for day in range(1, days + 3):
        now = day * DAY_MS
        logged = (
            [exposure for exposure in exposures if exposure.at_ms <= now],
            [outcome for outcome in outcomes if outcome.at_ms <= now],
        )
        answers.append(str(compare_arms(terms, *logged, as_of_ms=now)["answer"]))
    return answers


def told_table(seed: int, *, num: int, failed: list[str]) -> str:
    rows = []
    for scenario in SCENARIOS:
        logs = [log_of(np.random.default_rng([seed, number]), scenario) for number in range(num)]
        row = [scenario.name, f"{scenario.a:g} / {scenario.b:g}"]
        for rule in (INTERVALS, PAIRS):
            answers = [answers_of(*log, rule=rule, days=scenario.days) for log in logs]
            row += cells_of(answers)
            counted = [each if scenario.is_fair else each[-1:] for each in answers]  # told unlike: seen by the end
            wrong = [any(decision in ARMS and decision != scenario.truth for decision in each) for each in counted]
            if rule == PAIRS:
                check(scenario.name, sum(wrong), num, failed)
        rows.append(row)
    head = ["outcomes", "true rates a / b", "answered ever, at the end (before)", "days (before)"]
    return table(
        [*head, "withheld at the end (before)", "answered ever, at the end", "days", "withheld at the end"], rows
    )


def cells_of(answers: list[list[str]]) -> list[str]:
    """Return how many of the experiments were answered at some look and at the last, when, and how many withheld."""
    ever = [next((day for day, decision in enumerate(each, start=1) if decision in ARMS), None) for each in answers]
    days = [day for day in ever if day is not None]
    last = [each[-1] for each in answers]
    num = len(answers)
    shares = f"{percent(len(days), num)}, {percent(sum(decision in ARMS for decision in last), num)}"
    return [shares, f"{statistics.median(days):g}" if days else "-", percent(last.count("withheld"), num)]


def sizes_table(seed: int, *, num: int) -> str:
    """Return how many outcomes an arm needs."""
    rows = []
    for a, b in SIZES:
        needed: dict[str, list[float]] = {INTERVALS: [], PAIRS: []}
        for number in range(num):
            units = units_of(np.random.default_rng([seed, number]), {"a": a, "b": b}, number=MOST_USERS)
            for rule, sizes in needed.items():
                sizes.append(next((size for size in looks() if decided(units[:size], rule=rule)), math.inf) / 2)
        medians = [statistics.median(sizes) for sizes in needed.values()]
        shown = [f"{median:,.0f}" if math.isfinite(median) else f"over {MOST_USERS // 2:,}" for median in medians]
        rows.append([f"{a:g} to {b:g}", *shown, f"{medians[0] / medians[1]:.1f}" if math.isfinite(medians[0]) else "-"])
    return table(["rates", "intervals (before)", "matched pairs", "times"], rows)


def ever_table(seed: int, *, num: int, failed: list[str]) -> str:
    """Return how often an answer is given at some look where the arms do not differ."""
    rows = []
    for rate, share, swing in (
        (0.5, 0.5, 0.0),
        (0.1, 0.5, 0.0),
        (0.02, 0.5, 0.0),
        (0.1, 0.2, 0.0),
        (0.5, 0.5, 0.3),
        (0.5, 0.2, 0.3),
    ):
        wrong = dict.fromkeys((INTERVALS, PAIRS), 0)
        for number in range(num):
            rng = np.random.default_rng([seed, number])
            units = units_of(rng, {"a": rate, "b": rate}, number=EVER_USERS, share=share, swing=swing)
            for rule in wrong:
                wrong[rule] += any(decided(units[:size], rule=rule) for size in looks(EVER_USERS))
        name = f"{rate:g}{f' ±{swing:g} over the day' if swing else ''}, share {100 * share:g} %"
        check(name, wrong[PAIRS], num, failed)
        rows.append([name, *(percent(count, num) for count in wrong.values())])
    return table(["rate of both", "intervals (before)", "matched pairs"], rows)


def units_of(
    rng: np.random.Generator, rates: Mapping[str, float], *, number: int, share: float = 0.5, swing: float = 0.0
) -> list[tuple[Arm, bool]]:
    """Return users in the order of their exposures: their arm, and whether they had the event. 1,000 come in a day."""
    of_b = rng.random(number) < share
    level = swing * np.sin(2 * np.pi * np.arange(number) / 1000)
    events = rng.random(number) < np.where(of_b, rates["b"], rates["a"]) + level
    return [(ARMS[int(arm)], bool(event)) for arm, event in zip(of_b.tolist(), events.tolist(), strict=True)]


def looks(most: int = MOST_USERS) -> list[int]:
    """Return the sizes at which one looks, each a tenth above the last."""
    return [round(50 * GROWTH**number) for number in range(int(math.log(most / 50) / math.log(GROWTH)) + 1)]


def decided(units: list[tuple[Arm, bool]], *, rule: str) -> bool:
    if rule == PAIRS:
        return match(units).ahead(alpha=ALPHA) is not None
    counts = {arm: [event for unit, event in units if unit == arm] for arm in ARMS}
    rates = {arm: Rate(sum(events), len(events)) for arm, events in counts.items()}
    difference = compare(rates["b"], rates["a"], alpha=ALPHA)
    return difference.low > 0 or difference.high < 0


def check(name: str, wrong: int, num: int, failed: list[str]) -> None:
    """Note a rate above alpha and three standard errors of the simulation."""
    if wrong / num > ALPHA + STANDARD_ERRORS * math.sqrt(ALPHA * (1 - ALPHA) / num):
        failed.append(f"{name}: {wrong} of {num}")


def percent(count: int, num: int) -> str:
    share = count / num
    error = 1.96 * math.sqrt(share * (1 - share) / num) if 0 < count < num else 3 / num
    return f"{100 * share:.0f} ±{100 * error:.0f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def main() -> int:
    """Print the tables; exit 1 if a rate exceeds what it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=60, help="of each row (default: 60)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.experiments < 1:
        parser.error(f"--experiments must be at least 1 (got {options.experiments}).")
    start, failed, num = time.process_time(), list[str](), options.experiments
    print("Median outcomes an arm until the answer.\n")
    print(sizes_table(options.seed, num=num), flush=True)
    print(f"\nAnswered at some look of {EVER_USERS:,} users though the arms do not differ, %.\n")
    print(ever_table(options.seed, num=num, failed=failed), flush=True)
    print("\nOutcomes that are told late or selectively, one look a day, %.\n")
    print(told_table(options.seed, num=num, failed=failed), flush=True)
    print(f"\n{time.process_time() - start:.0f} s of one core.")
    print("\n".join(f"FAILED, too often: {line}" for line in failed) or "No rate exceeds what it may.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
