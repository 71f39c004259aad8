"""The verdict on mirrors, by which a candidate is judged, and on the steps after them: pure decisions (`mirrors/1`).

On mirrors both models answer the same requests, so that users of unequal kinds, hours of the day and a share of few
users make no difference: what counts is where only one of the two failed, or took long. Every bound holds at every look
(`sequential`). To pass, each limit has to be shown, so each has the whole of alpha; to fail, one is enough, so they
share it.

The steps give the candidate real load. Its users are other people than the champion's there, so that a step only ever
fails, for what no mix of users explains, and ends after its time and requests without a proof.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pipeline_tasks.contracts import DeploymentAccount
from pipeline_tasks.core.confidence_sequences import Paired, Rate, bounds, paired_high, paired_low
from pipeline_tasks.deployment.canary_analysis import (
    SLOW_SHARE,
    Finding,
    Look,
    Phase,
    Rule,
    Stand,
    edge_below,
    increase,
    judge,
    slower,
)
from pipeline_tasks.project.serving_schema import RolloutLimits

FAILED_SHARE = 0.2  # a step fails where so many more of its requests fail than the champion's,
MOSTLY, SLOWER_STILL = 0.5, 2.0  # or so many more take this much longer than a mirror may


def judge_by(
    rule: Rule,
    candidate: DeploymentAccount,
    champion: DeploymentAccount,
    *,
    phase: Phase,
    limits: RolloutLimits,
    alpha: float,
    num_phases: int,
    edges_ms: Sequence[float],
    is_due: bool,
) -> Look:
    """Judge a phase by the rule that its rollout began with; `alpha` is the whole rollout's."""
    shared: dict[str, Any] = {"phase": phase, "limits": limits, "edges_ms": edges_ms}
    if rule != "mirrors/1":
        return judge(candidate, champion, alpha=alpha / num_phases, rule=rule, **shared)
    shared |= {"alpha": alpha, "num_phases": num_phases}
    if phase.is_shadow:
        return judge_mirrors(candidate, champion, **shared)
    return judge_step(candidate, champion, is_due=is_due, **shared)


def judge_mirrors(
    candidate: DeploymentAccount,
    champion: DeploymentAccount,
    *,
    phase: Phase,
    limits: RolloutLimits,
    alpha: float,
    num_phases: int,
    edges_ms: Sequence[float],
) -> Look:
    """Judge a shadow on the requests that it and the champion were asked alike; `alpha` is the whole rollout's."""
    to_fail = alpha / num_phases / 3
    num = candidate.paired
    only_here = f"of {num:,} mirrors failed here only, {candidate.only_champion_failed:,} at the champion only"
    errors = _paired(
        f"{candidate.only_it_failed:,} {only_here}",
        Paired(candidate.only_it_failed, candidate.only_champion_failed, num),
        limit=limits.max_error_rate_increase,
        to_fail=to_fail,
        to_pass=alpha,
    )
    findings = [errors, _latency(candidate, champion, limits, edges_ms, to_fail=to_fail, to_pass=alpha)]
    findings.append(_disagreement(candidate, limit=limits.max_disagreement, to_fail=to_fail, to_pass=alpha))
    return _look(findings, num=num, needed=phase.min_requests, what="mirrors")


def judge_step(
    candidate: DeploymentAccount,
    champion: DeploymentAccount,
    *,
    phase: Phase,
    limits: RolloutLimits,
    alpha: float,
    num_phases: int,
    edges_ms: Sequence[float],
    is_due: bool,
) -> Look:
    """Judge a step after the mirrors: failed by a catastrophe only, passed with its requests, or once it is due."""
    each = alpha / num_phases / 2
    failed = increase(
        "failed",
        Rate(candidate.errors, candidate.asked),
        Rate(champion.errors, champion.asked),
        limit=max(limits.max_error_rate_increase, FAILED_SHARE),
        alpha=each,
    )
    findings = [failed]
    if champion.asked and candidate.asked:
        bound = edge_below(champion, edges_ms, ratio=SLOWER_STILL * limits.max_latency_ratio)
        findings.append(
            increase(
                f"slower than {edges_ms[bound]:.3g} ms",
                Rate(slower(candidate, bound), candidate.asked),
                Rate(slower(champion, bound), champion.asked),
                limit=MOSTLY,
                alpha=each / len(edges_ms),
            )
        )
    bad = tuple(finding.text for finding in findings if finding.stand == "bad")
    if bad:
        return Look("fail", bad)
    said = (
        f"{candidate.errors:,} of {candidate.asked:,} failed, the champion's {champion.errors:,} of {champion.asked:,}"
    )
    if is_due or candidate.asked >= phase.min_requests:
        return Look("pass", (said,))
    return Look("inconclusive", (f"{candidate.asked:,} of the {phase.min_requests:,} requests that it waits for", said))


def least_number(is_enough: Callable[[int], bool], *, most: int = 10_000_000) -> int | None:
    """Return the least number from which on something is enough, by bisection; None where `most` is not."""
    if not is_enough(most):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def faultless(num: int, *, num_edges: int) -> DeploymentAccount:
    """Return the account of so many mirrors, all answered, alike and as fast as the champion's."""
    counts, none = (num, *[0] * num_edges), (0,) * num_edges
    return DeploymentAccount(num, 0, counts, num, 0, num, 0, 0, none, none)


def _latency(
    candidate: DeploymentAccount,
    champion: DeploymentAccount,
    limits: RolloutLimits,
    edges_ms: Sequence[float],
    *,
    to_fail: float,
    to_pass: float,
) -> Finding:
    """Compare how many took longer than `max_latency_ratio` times the champion's own 90 % latency here and there.

    The bound is chosen from the numbers that it is applied to, so the test pays for every edge that it could have been.
    """
    if not candidate.paired or not champion.asked:
        return Finding("open", "latency: no request yet that both were asked")
    bound = edge_below(champion, edges_ms, ratio=limits.max_latency_ratio)
    pairs = Paired(candidate.slower[bound], candidate.faster[bound], candidate.paired)
    return _paired(
        f"{pairs.only_one:,} of {candidate.paired:,} slower than {edges_ms[bound]:.3g} ms here only, "
        f"{pairs.only_other:,} at the champion only",
        pairs,
        limit=SLOW_SHARE,
        to_fail=to_fail / len(edges_ms),
        to_pass=to_pass / len(edges_ms),
    )


def _disagreement(candidate: DeploymentAccount, *, limit: float, to_fail: float, to_pass: float) -> Finding:
    rate = Rate(candidate.disagreed, candidate.compared)
    low, high = bounds(rate, alpha=to_fail)[0], bounds(rate, alpha=to_pass)[1]
    said = f"{rate.num_events:,} of {rate.num_trials:,} mirrored answers differ from the champion's"
    return Finding(_stand(low, high, limit), f"{said}: {low:.1%} to {high:.1%} ({limit:.1%} allowed)")


def _paired(name: str, paired: Paired, *, limit: float, to_fail: float, to_pass: float) -> Finding:
    low, high = paired_low(paired, alpha=to_fail), paired_high(paired, alpha=to_pass)
    points = f"{low * 100:+.1f} to {high * 100:+.1f} points ({limit * 100:.1f} allowed)"
    return Finding(_stand(low, high, limit), f"{name}: {points}")


def _stand(low: float, high: float, limit: float) -> Stand:
    return "bad" if low > limit else "good" if high <= limit else "open"


def _look(findings: Sequence[Finding], *, num: int, needed: int, what: str) -> Look:
    bad = tuple(finding.text for finding in findings if finding.stand == "bad")
    if bad:
        return Look("fail", bad)
    still = tuple(finding.text for finding in findings if finding.stand == "open")
    if num < needed:
        still = (f"{num:,} of the {needed:,} {what} that it needs", *still)
    return Look("inconclusive", still) if still else Look("pass", tuple(finding.text for finding in findings))
