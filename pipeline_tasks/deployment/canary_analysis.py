"""The phases of a rollout and the verdict on a candidate beside the champion by its share: pure decisions.

Rules: `mirrors/1` judges on mirrors first (`rollout_mirrors`) and is what a project has that mirrors anything;
`steps/2` judges at each step, where a project mirrors nothing; `steps/1` is what rollouts began with before there were
the others: a mirror counts like any request there, and the limit on latency is rounded up to an edge.

At a step both are watched at the same time under the same route, so that a busy hour hits both. Every bound holds at
every look (`sequential`): one may look each second and stop when it is decided, and the chance of ever failing a
candidate that is within its limits, or passing one that is not, stays below 1 - confidence.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

from pipeline_tasks.contracts import DeploymentAccount, Route
from pipeline_tasks.core.confidence_sequences import Rate, bounds, compare
from pipeline_tasks.project.serving_schema import RolloutConfig, RolloutLimits

Answer = Literal["pass", "fail", "inconclusive"]
Step = Literal["hold", "next", "fail", "give_up"]
Stand = Literal["good", "bad", "open"]
Rule = Literal["steps/1", "steps/2", "mirrors/1"]

TYPICAL = 0.9  # the latency that a ratio speaks of: nine in ten of the champion's requests are faster
SLOW_SHARE = 1 - TYPICAL  # so many more may be slower than the bound: then the candidate's nine in ten are within it
WAITS, SHORTEST_WAIT = 10, 60.0
EMPTY = DeploymentAccount(asked=0, errors=0, latency_counts=())


@dataclasses.dataclass(frozen=True, slots=True)
class Phase:
    """A part of a rollout: a share of the traffic in percent (0: mirrors only), how long and how many at least."""

    share: int
    seconds: float
    min_requests: int

    @property
    def is_shadow(self) -> bool:
        return self.share == 0


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """The answer of one look at the accounts, with its reasons."""

    answer: Answer
    reasons: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One criterion of a look."""

    stand: Stand
    text: str


def phases_of(rollout: RolloutConfig) -> list[Phase]:
    """Return the phases of a rollout in order; none where everything goes at once."""
    if rollout.strategy == "all_at_once":
        return []
    shadow = rollout.shadow_seconds > 0 or rollout.shadow_requests > 0
    first = [Phase(0, rollout.shadow_seconds, max(1, rollout.shadow_requests))] if shadow else []
    return first + [Phase(share, rollout.bake_seconds, rollout.min_requests) for share in rollout.steps]


def rule_of(rollout: RolloutConfig) -> Rule:
    """Return the rule that a rollout begins with now."""
    return "mirrors/1" if any(phase.is_shadow for phase in phases_of(rollout)) else "steps/2"


def share_of(route: Route, deployment_id: str) -> int | None:
    """Return a deployment's share in percent, 0 as a shadow; None where the route does not name it."""
    if any(entry.deployment_id == deployment_id for entry in route.shadows):
        return 0
    return next((entry.weight for entry in route.entries if entry.deployment_id == deployment_id), None)


def phase_at(phases: Sequence[Phase], share: int) -> Phase:
    """Return the phase that a share belongs to, also when project.yaml has other steps by now."""
    exact = next((phase for phase in phases if phase.share == share), None)
    return exact or dataclasses.replace(phases[-1], share=share)


def next_phase(phases: Sequence[Phase], share: int | None) -> Phase | None:
    """Return what follows a share (None: nothing yet); None after the last step: all traffic."""
    return next((phase for phase in phases if share is None or phase.share > share), None)


def judge(
    candidate: DeploymentAccount,
    champion: DeploymentAccount,
    *,
    phase: Phase,
    limits: RolloutLimits,
    alpha: float,
    edges_ms: Sequence[float],
    rule: Rule,
) -> Look:
    """Compare a candidate with the champion beside it, by `steps/1` or `steps/2`; `alpha` is this phase's share.

    Failing needs no minimum: the bounds on a few requests are as wide as they have to be. Passing does.
    """
    each = alpha / (3 if phase.is_shadow else 2)
    findings = [
        _judge_errors(candidate, champion, limit=limits.max_error_rate_increase, alpha=each),
        _judge_latency(candidate, champion, limits.max_latency_ratio, alpha=each, edges_ms=edges_ms, rule=rule),
    ]
    if phase.is_shadow:
        findings.append(_judge_disagreement(candidate, limit=limits.max_disagreement, alpha=each))
    bad = tuple(finding.text for finding in findings if finding.stand == "bad")
    if bad:
        return Look("fail", bad)
    missing = phase.min_requests - candidate.asked
    still = tuple(finding.text for finding in findings if finding.stand == "open")
    if missing > 0:
        still = (f"{candidate.asked:,} of the {phase.min_requests:,} requests that it needs", *still)
    return Look("inconclusive", still) if still else Look("pass", tuple(finding.text for finding in findings))


def seconds_for_steps(phases: Sequence[Phase], phase: Phase) -> float:
    """Return the least time that the phases after this one take."""
    return sum(other.seconds for other in phases if other.share > phase.share)


def due_seconds(phases: Sequence[Phase], phase: Phase, *, seconds_left: float) -> float:
    """Return how long a step after mirrors waits for its requests, of the time that was left at its beginning.

    Ten times `bake_seconds`, a minute at least, and no more than its equal part: to wait longer teaches nothing.
    """
    part = seconds_left / sum(other.share >= phase.share for other in phases)
    return max(phase.seconds, min(part, max(SHORTEST_WAIT, WAITS * phase.seconds)))


def decide(look: Look, phase: Phase, *, elapsed_seconds: float, seconds_left: float) -> Step:
    """Return what to do after a look: `elapsed_seconds` in this phase, `seconds_left` until it has to be decided."""
    if look.answer == "fail":
        return "fail"
    if look.answer == "pass" and elapsed_seconds >= phase.seconds:
        return "next"
    return "give_up" if seconds_left <= 0 else "hold"


def _judge_errors(candidate: DeploymentAccount, champion: DeploymentAccount, *, limit: float, alpha: float) -> Finding:
    return increase(
        "failed",
        Rate(candidate.errors, candidate.asked),
        Rate(champion.errors, champion.asked),
        limit=limit,
        alpha=alpha,
    )


def _judge_latency(
    candidate: DeploymentAccount,
    champion: DeploymentAccount,
    ratio: float,
    *,
    alpha: float,
    edges_ms: Sequence[float],
    rule: Rule,
) -> Finding:
    """Compare how many are slower than `ratio` times the champion's own 90 % latency of the same time.

    The bound is chosen from the numbers that it is applied to, so the test pays for every edge that it could have been.
    """
    if not champion.asked or not candidate.asked:
        return Finding("open", "latency: not yet seen on both sides")
    if rule == "steps/1":
        typical = _edge_of(champion, edges_ms)
        bound = min(bisect.bisect_left(edges_ms, edges_ms[typical] * ratio), len(edges_ms) - 1)
    else:
        bound = edge_below(champion, edges_ms, ratio=ratio)
    return increase(
        f"slower than {edges_ms[bound]:.3g} ms",
        Rate(slower(candidate, bound), candidate.asked),
        Rate(slower(champion, bound), champion.asked),
        limit=SLOW_SHARE,
        alpha=alpha / len(edges_ms),
    )


def _judge_disagreement(candidate: DeploymentAccount, *, limit: float, alpha: float) -> Finding:
    rate = Rate(candidate.disagreed, candidate.compared)
    low, high = bounds(rate, alpha=alpha)
    stand: Stand = "bad" if low > limit else "good" if high <= limit else "open"
    said = f"{_percent(rate)} of {rate.num_trials:,} mirrored answers differ from the champion's"
    return Finding(stand, f"{said}: {low:.1%} to {high:.1%} ({limit:.1%} allowed)")


def edge_below(account: DeploymentAccount, edges_ms: Sequence[float], *, ratio: float) -> int:
    """Return the last edge that is no more than `ratio` times the 90 % latency of an account, interpolated."""
    edge = _edge_of(account, edges_ms)
    lower = edges_ms[edge - 1] if edge else 0.0
    inside = account.latency_counts[edge]
    before = sum(account.latency_counts[:edge])
    part = min(1.0, max(0.0, (TYPICAL * account.asked - before) / inside)) if inside else 1.0
    typical = lower + part * (edges_ms[edge] - lower)
    return max(0, bisect.bisect_right(edges_ms, typical * ratio) - 1)


def increase(name: str, candidate: Rate, champion: Rate, *, limit: float, alpha: float) -> Finding:
    """Return whether a rate is shown to be higher than the champion's by more than a limit, or by no more."""
    difference = compare(candidate, champion, alpha=alpha)
    stand: Stand = "bad" if difference.low > limit else "good" if difference.high <= limit else "open"
    sides = (
        f"{_percent(candidate)} of {candidate.num_trials:,} {name}, "
        f"the champion's {_percent(champion)} of {champion.num_trials:,}"
    )
    points = f"{difference.low * 100:+.1f} to {difference.high * 100:+.1f} points ({limit * 100:.1f} allowed)"
    return Finding(stand, f"{sides}: {points}")


def _edge_of(account: DeploymentAccount, edges_ms: Sequence[float]) -> int:
    """Return the first edge that nine in ten requests do not exceed; the last one where there is none."""
    needed = TYPICAL * account.asked
    reached = (number for number, total in enumerate(accumulate(account.latency_counts)) if total >= needed)
    return min(next(reached, len(edges_ms) - 1), len(edges_ms) - 1)


def slower(account: DeploymentAccount, edge: int) -> int:
    """Return how many requests took longer than an edge."""
    return sum(account.latency_counts[edge + 1 :])


def _percent(rate: Rate) -> str:
    return f"{rate.share:.1%}" if rate.num_trials else "nothing"
