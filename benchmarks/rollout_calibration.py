"""False rollbacks, undecided rollouts and delays of canaries over whole deadlines, beside the rule before, same worlds.

    python benchmarks/rollout_calibration.py [--rollouts 40]

What decides is the production code: `rollout_mirrors.judge_by`, `rollout.decide` and `rollout_time.require_end`.
Requests are simulated: Poisson arrivals of users who keep to one side, of unequal activity (Zipf: the n-th sends 1/n),
with a part of them whose requests fail under either model. Both models fail a request independently of each other,
which is the worst case for mirrors. One looks each second at first, then after each further tenth of a phase's time.
Prints Markdown tables with 95 % errors of the simulation. Exits 1 where a rate of `mirrors/1` exceeds what it may.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import statistics
import sys
import time
from collections import Counter
from typing import Any

import numpy as np
from scipy.special import ndtr

from bento_services.gateway.routing.deployment_counters import EDGES_MS
from pipeline_tasks.contracts import DeploymentAccount
from pipeline_tasks.deployment.canary_analysis import (
    EMPTY,
    Phase,
    Rule,
    decide,
    due_seconds,
    phases_of,
    seconds_for_steps,
)
from pipeline_tasks.deployment.canary_mirrors import judge_by
from pipeline_tasks.deployment.canary_schedule import Traffic, require_end
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.project.serving_schema import RolloutConfig

Array = np.ndarray[Any, np.dtype[Any]]

FORMER_EDGES_MS = tuple(round(0.5 * 1.25**number, 3) for number in range(54))
GRID = tuple(sorted({*EDGES_MS, *FORMER_EDGES_MS}))
DAY = 86_400.0
PLACES = {edges: np.searchsorted(GRID, edges) for edges in (EDGES_MS, FORMER_EDGES_MS)}  # in the grid
LEAST_STEP, GROWTH = 1.0, 0.1
BAD_USERS, BAD_RATE, GOOD_RATE = 0.05, 0.2, 0.001
USER_SPREAD, NOISE = 0.8, 0.3
TYPICAL_MS = 20.0
ALPHA = 0.05
STANDARD_ERRORS = 3


@dataclasses.dataclass(frozen=True, slots=True)
class RolloutWorld:
    """Users with their part of the traffic, error rate and latency, and what the candidate adds to either."""

    activity: Array
    error_rates: Array
    latency_ms: Array
    draws: Array  # by which a share takes its users
    per_second: float
    more_errors: float = 0.0
    times_slower: float = 1.0
    swing: float = 0.0  # of the traffic, and of the errors, over a day
    noise: float = NOISE

    def level(self, at: float) -> float:
        return 1 + self.swing * math.sin(2 * math.pi * at / DAY)


def sticky(rng: np.random.Generator, *, users: int, per_second: float, **changes: Any) -> RolloutWorld:
    """Return users of unequal activity (Zipf), some of whom fail under any model."""
    activity = 1 / rng.permutation(np.arange(1, users + 1))
    errors = np.where(rng.random(users) < BAD_USERS, BAD_RATE, GOOD_RATE)
    latency = TYPICAL_MS * np.exp(USER_SPREAD * rng.standard_normal(users))
    facts: dict[str, Any] = {"activity": activity / activity.sum(), "error_rates": errors, "latency_ms": latency}
    return RolloutWorld(**facts, draws=rng.random(users), per_second=per_second, **changes)


def alike(
    rng: np.random.Generator, *, errors: float, per_second: float, users: int = 5000, **changes: Any
) -> RolloutWorld:
    """Return users who are all alike, and so many that requests are independent."""
    even, ones = np.full(users, 1 / users), np.ones(users)
    facts: dict[str, Any] = {"activity": even, "error_rates": errors * ones, "latency_ms": TYPICAL_MS * ones}
    return RolloutWorld(**facts, draws=rng.random(users), per_second=per_second, **changes)


class Side:
    """One deployment's expected requests in a second: how many fail, and how many by the grid of latencies."""

    def __init__(self, world: RolloutWorld, taken: Array, *, is_candidate: bool) -> None:
        activity = world.per_second * world.activity * taken
        rates = np.minimum(1, world.error_rates + world.more_errors * is_candidate)
        self.requests = float(activity.sum())
        self.error_rate = float((activity * rates).sum() / self.requests) if self.requests else 0.0
        medians, group = np.unique(world.latency_ms, return_inverse=True)
        by_group = np.bincount(group, weights=activity, minlength=len(medians))
        self.bins = bins_of(world, medians, is_candidate=is_candidate).T @ by_group


def bins_of(world: RolloutWorld, medians: Array, *, is_candidate: bool) -> Array:
    """Return the chance of a latency by the grid, the rest last, of users with these medians."""
    centers = np.log(medians * (world.times_slower if is_candidate else 1.0))
    below = ndtr((np.log(GRID)[None, :] - centers[:, None]) / world.noise)
    return np.diff(below, axis=1, prepend=0.0, append=1.0)


class Steps:
    """The accounts of a step: two groups of users."""

    def __init__(self, world: RolloutWorld, share: int) -> None:
        mine = world.draws < share / 100
        self.sides = Side(world, mine, is_candidate=True), Side(world, ~mine, is_candidate=False)
        self.counts = [np.zeros(len(GRID) + 1, dtype=np.int64) for _ in self.sides]
        self.errors = [0, 0]

    def add(self, rng: np.random.Generator, seconds: float, level: float) -> None:
        for number, side in enumerate(self.sides):
            requests = rng.poisson(side.bins * seconds * level)
            self.counts[number] += requests
            self.errors[number] += int(rng.binomial(requests.sum(), min(1.0, side.error_rate * level)))

    def accounts(self, edges: tuple[float, ...]) -> tuple[DeploymentAccount, DeploymentAccount]:
        sides = (account(bins, errors, edges) for bins, errors in zip(self.counts, self.errors, strict=True))
        candidate, champion = sides
        return candidate, champion


class Mirrors:
    """The accounts of mirrors: each request is asked of both."""

    def __init__(self, world: RolloutWorld) -> None:
        medians, group = np.unique(world.latency_ms, return_inverse=True)
        weights = world.per_second * np.bincount(group, weights=world.activity, minlength=len(medians))
        mine, champions = (bins_of(world, medians, is_candidate=is_candidate) for is_candidate in (True, False))
        self.cells = (champions * weights[:, None]).T @ mine
        worse, better = np.minimum(1, world.error_rates + world.more_errors), world.error_rates
        share = world.activity
        self.only_it = float((share * worse * (1 - better)).sum())
        self.only_champion = float((share * better * (1 - worse)).sum())
        self.both = float((share * better * worse).sum())
        self.counts = np.zeros(self.cells.shape, dtype=np.int64)
        self.failed = np.zeros(3, dtype=np.int64)

    def add(self, rng: np.random.Generator, seconds: float, level: float) -> None:
        requests = rng.poisson(self.cells * seconds * level)
        self.counts += requests
        chances = np.array([self.only_it, self.only_champion, self.both]) * level
        self.failed += rng.multinomial(requests.sum(), [*chances, max(0.0, 1 - chances.sum())])[:3]

    def accounts(self, edges: tuple[float, ...]) -> tuple[DeploymentAccount, DeploymentAccount]:
        places = PLACES[edges]
        below = self.counts.cumsum(axis=0)  # champion at or below a grid edge, by the candidate's bin
        both = below.cumsum(axis=1)
        totals, candidates = self.counts.sum(axis=1).cumsum(), self.counts.sum(axis=0).cumsum()
        both = both[places, places]
        slower, faster = (tuple((cumulated[places] - both).tolist()) for cumulated in (totals, candidates))
        only_it, only_champion, in_both = (int(line) for line in self.failed)
        mine = account(self.counts.sum(axis=0), only_it + in_both, edges)
        champion = account(self.counts.sum(axis=1), only_champion + in_both, edges)
        pairs: dict[str, Any] = {"paired": mine.asked, "only_it_failed": only_it, "only_champion_failed": only_champion}
        pairs |= {"compared": mine.asked, "slower": slower, "faster": faster}
        return dataclasses.replace(mine, **pairs), champion


def account(counts: Array, errors: int, edges: tuple[float, ...]) -> DeploymentAccount:
    """Return an account by a gateway's edges, which are a part of the grid."""
    if not counts.sum():
        return EMPTY
    totals = counts.cumsum()
    by_edge = np.diff(totals[PLACES[edges]], prepend=0, append=totals[-1])
    return DeploymentAccount(int(totals[-1]), errors, tuple(by_edge.tolist()))


def roll(
    rng: np.random.Generator, world: RolloutWorld, rollout: RolloutConfig, rule: Rule, *, began: float
) -> tuple[str, float]:
    """Return how one rollout ends and when, in seconds, as the shipping task drives it."""
    edges = FORMER_EDGES_MS if rule == "steps/1" else EDGES_MS
    phases, now = phases_of(rollout), 0.0
    for place, phase in enumerate(phases):
        seen, start = Mirrors(world) if phase.is_shadow else Steps(world, phase.share), now
        while True:
            seconds = max(LEAST_STEP, GROWTH * (now - start), 1 / world.per_second)
            seen.add(rng, seconds, world.level(began + now))
            now += seconds
            step = look(seen.accounts(edges), phases, place, rollout, rule, now=now, start=start)
            if step == "next":
                break
            if step != "hold":
                return ("failed" if step == "fail" else "undecided"), now
    return "passed", now


def look(
    accounts: tuple[DeploymentAccount, DeploymentAccount],
    phases: list[Phase],
    place: int,
    rollout: RolloutConfig,
    rule: Rule,
    *,
    now: float,
    start: float,
) -> str:
    """Judge and decide as `rolling` does."""
    phase, left, elapsed = phases[place], rollout.deadline_seconds - now, now - start
    due = due_seconds(phases, phase, seconds_left=elapsed + left)
    judged = judge_by(
        rule,
        *accounts,
        phase=phase,
        limits=rollout.limits,
        alpha=1 - rollout.confidence,
        num_phases=len(phases),
        edges_ms=FORMER_EDGES_MS if rule == "steps/1" else EDGES_MS,
        is_due=elapsed >= due,
    )
    for_steps = seconds_for_steps(phases, phase) if phase.is_shadow else 0.0
    return decide(judged, phase, elapsed_seconds=elapsed, seconds_left=left - for_steps)


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """The endings of so many rollouts, and the seconds of those that were decided."""

    endings: Counter[str]
    seconds: float | None

    @property
    def num(self) -> int:
        return self.endings.total()

    def text(self) -> str:
        shares = " / ".join(f"{100 * self.endings[name] / self.num:.0f}" for name in ("passed", "failed", "undecided"))
        return f"{shares} (±{100 * self.error():.0f}{'' if self.seconds is None else f'; {span(self.seconds)}'})"

    def error(self) -> float:
        """Return the 95 % error of the least certain of the shares; of none or all, by the rule of three."""
        shares = [count / self.num for count in self.endings.values()]
        return max(*(1.96 * math.sqrt(p * (1 - p) / self.num) for p in shares), 3 / self.num)


def run(seed: int, make: Any, rollout: RolloutConfig | None, rule: Rule, *, num: int) -> Result:
    """Roll out in `num` worlds, the same for every rule; without settings, with those that are proposed."""
    endings = []
    for number in range(num):
        rng = np.random.default_rng([seed, number])
        world, began = make(rng), rng.random() * DAY
        settings = rollout or able(world.per_second, world.swing, round(began / 7200))
        endings.append(roll(rng, world, settings, rule, began=began))
    decided = [seconds for ending, seconds in endings if ending != "undecided"]
    return Result(Counter(ending for ending, _ in endings), statistics.median(decided) if decided else None)


def span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 3600:.1f} h"


CROWDS = tuple((rate, users, more) for rate in (500.0, 20.0) for users in (30, 200, 2000) for more in (0.0, 0.05))
QUIET = (("20 an hour", 20 / 3600), ("0.1/s", 0.1), ("1/s", 1.0), ("5/s", 5.0))
MIRRORS = RolloutConfig(strategy="canary")
FORMER = RolloutConfig(strategy="canary", shadow_requests=0)


def users_table(seed: int, *, num: int, failed: list[str]) -> str:
    """Return what happens to equal candidates, and to ones five points worse, with users who keep to one side."""
    rows = []
    for per_second, users, more in CROWDS:

        def make(rng: np.random.Generator, facts: Any = (users, per_second, more)) -> RolloutWorld:
            return sticky(rng, users=facts[0], per_second=facts[1], more_errors=facts[2])

        former = run(seed, make, FORMER, "steps/1", num=num)
        now = run(seed, make, MIRRORS, "mirrors/1", num=num)
        name = f"{users:,} users, {per_second:g}/s, {'equal' if not more else '5 points worse'}"
        check(name, now, "passed" if more else "failed", failed)
        rows.append([name, former.text(), now.text()])
    return table(["sticky users", "at steps (before)", "on mirrors"], rows)


def quiet_table(seed: int, *, num: int, failed: list[str]) -> str:
    """Return what happens at services of few requests: at the defaults, and with the settings that are proposed."""
    rows = []
    for name, per_second in QUIET:
        for errors, more in ((0.001, 0.0), (0.01, 0.0), (0.01, 0.05)):

            def make(rng: np.random.Generator, facts: Any = (errors, per_second, more)) -> RolloutWorld:
                return alike(rng, errors=facts[0], per_second=facts[1], more_errors=facts[2], swing=0.5)

            former = run(seed, make, FORMER, "steps/1", num=num)
            now = run(seed, make, None, "mirrors/1", num=num)
            kind = f"errors {100 * errors:g} %{', 5 points more' if more else ''}"
            check(f"{name}, {kind}", now, "passed" if more else "failed", failed)
            used = able(per_second, 0.5, 0)
            said = f"{used.shadow_requests}, {used.deadline_seconds:g} s"
            rows.append([name, kind, former.text(), said, now.text()])
    return table(
        ["requests", "candidate", "at steps (before)", "proposed: mirrors, deadline", "on mirrors, with these"], rows
    )


@functools.cache
def able(per_second: float, swing: float, two_hours: int) -> RolloutConfig:
    """Return the default settings, or those that are proposed in their place at the traffic of the day before."""
    at = [2 * math.pi * (7200 * two_hours + 60 * minute) / DAY for minute in range(1440)]
    traffic = Traffic(tuple(60 * per_second * (1 + swing * math.sin(moment)) for moment in at))
    try:
        require_end(MIRRORS, traffic)
    except ConfigError as error:
        said = str(error).partition("would do: ")[2].partition("; or")[0]
        fields = {name: int(value) for name, value in (part.split(": ") for part in said.split(", "))}
        return MIRRORS.model_copy(update=fields)
    return MIRRORS


def latency_table(seed: int, *, num: int, failed: list[str]) -> str:
    """Return what happens to candidates that are slower throughout, at `max_latency_ratio: 2.0`."""
    rows = []
    for times in (1.0, 1.5, 1.9, 2.2, 2.5, 3.0):

        def make(rng: np.random.Generator, times: float = times) -> RolloutWorld:
            base = TYPICAL_MS * rng.uniform(1, 4)  # wherever the champion's 90 % falls between two edges
            world = alike(rng, errors=0.001, per_second=500.0, users=400, times_slower=times, noise=0.1)
            return dataclasses.replace(world, latency_ms=np.full(400, base))

        former = run(seed, make, FORMER, "steps/1", num=num)
        now = run(seed, make, MIRRORS, "mirrors/1", num=num)
        check(f"{times:g} times slower", now, "passed" if times > 2 else "failed", failed)
        rows.append([f"{times:g}", former.text(), now.text()])
    return table(["times slower", "at steps (before)", "on mirrors"], rows)


def check(name: str, result: Result, wrong: str, failed: list[str]) -> None:
    """Note a rate of wrong endings above what it may be: alpha and three standard errors of the simulation."""
    allowed = ALPHA + STANDARD_ERRORS * math.sqrt(ALPHA * (1 - ALPHA) / result.num)
    if result.endings[wrong] / result.num > allowed:
        failed.append(f"{name}: {wrong} {result.endings[wrong]} of {result.num}")


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def main() -> int:
    """Print the tables; exit 1 if a rate exceeds what it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=40, help="of each cell (default: 40)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.rollouts < 1:
        parser.error(f"--rollouts must be at least 1 (got {options.rollouts}).")
    start, failed = time.perf_counter(), list[str]()
    print("Passed / failed / undecided in % (95 % error; median time of the decided ones).\n")
    for make in (users_table, quiet_table, latency_table):
        print(make(options.seed, num=options.rollouts, failed=failed), flush=True)
        print(f"\n{time.perf_counter() - start:.0f} s so far.\n", flush=True)
    print("\n".join(f"FAILED, too often: {line}" for line in failed) or "No rate exceeds what it may.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
