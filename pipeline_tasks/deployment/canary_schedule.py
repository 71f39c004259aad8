"""The time that a rollout takes at the traffic of the newest day, and the settings with which it can end. Pure.

It is the least time: of a candidate that fails nothing. Traffic has its hours, so the day is walked minute by minute
from now on, as it was a day ago.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from pipeline_tasks.deployment.canary_analysis import Phase, due_seconds, judge, phases_of, rule_of
from pipeline_tasks.deployment.canary_mirrors import faultless, judge_mirrors, least_number
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.project.serving_schema import RolloutConfig

NUM_EDGES = 243  # of the gateway's accounts; a test compares the two
LONGEST_DEADLINE = 86_400.0
SPARE = 3.0  # times the least time, for a deadline that is proposed: a good candidate may fail once or twice
ROUND_SECONDS = 600
WIDER_LIMITS = (0.05, 0.1, 0.2)


@dataclasses.dataclass(frozen=True, slots=True)
class Traffic:
    """Answered requests by minute up to now: of a day, or of the younger life of a service; one at least."""

    per_minute: tuple[float, ...]

    def __post_init__(self) -> None:
        if not sum(self.per_minute) > 0:
            raise ValueError("per_minute must count one request at least (got none).")

    @property
    def text(self) -> str:
        return f"{sum(self.per_minute):,.0f} requests in {span(60.0 * len(self.per_minute))}"

    def seconds_until(self, num_requests: float, *, begin: float) -> float:
        """Return when, in seconds from now, so many requests have come since `begin`; minutes repeat themselves."""
        minute, left = int(begin // 60), num_requests
        whole = sum(self.per_minute)
        rounds = max(0, math.ceil(left / whole) - 1)
        minute, left = minute + rounds * len(self.per_minute), left - rounds * whole
        passed = begin + rounds * 60.0 * len(self.per_minute)
        while True:
            rate = self.per_minute[minute % len(self.per_minute)] / 60
            ends = 60.0 * (minute + 1)
            if rate * (ends - passed) >= left:
                return passed + (left / rate if rate else 0.0)
            left, passed, minute = left - rate * (ends - passed), ends, minute + 1


@dataclasses.dataclass(frozen=True, slots=True)
class Forecast:
    """The least time of a rollout by phase: until when, in seconds from its start, and after how many requests."""

    phases: tuple[tuple[Phase, float, int], ...]
    deadline_seconds: float

    @property
    def seconds(self) -> float:
        return self.phases[-1][1]

    @property
    def can_end(self) -> bool:
        """True where each phase leaves those after it their time."""
        left = [sum(phase.seconds for phase, _, _ in self.phases[place + 1 :]) for place in range(len(self.phases))]
        ends = zip(self.phases, left, strict=True)
        return all(until + after <= self.deadline_seconds for (_, until, _), after in ends)


def least_requests(rollout: RolloutConfig, phase: Phase) -> int:
    """Return how many requests of a candidate that fails nothing a phase needs.

    Raises:
        ConfigError: ten million are not enough.
    """
    alpha, phases, edges = 1 - rollout.confidence, phases_of(rollout), tuple(float(n) for n in range(1, NUM_EDGES + 1))

    def passes(num: int) -> bool:
        mine = faultless(num, num_edges=NUM_EDGES)
        if phase.is_shadow:
            facts: dict[str, Any] = {"alpha": alpha, "num_phases": len(phases)}
            look = judge_mirrors(mine, mine, phase=phase, limits=rollout.limits, edges_ms=edges, **facts)
        else:
            others = faultless(num * (100 - phase.share) // phase.share, num_edges=NUM_EDGES)
            facts = {"alpha": alpha / len(phases), "rule": "steps/2"}
            look = judge(mine, others, phase=phase, limits=rollout.limits, edges_ms=edges, **facts)
        return look.answer == "pass"

    if not phase.is_shadow and rule_of(rollout) == "mirrors/1":
        return phase.min_requests
    least = least_number(passes)
    if least is None:
        raise ConfigError(
            "serving.rollout.limits must be such that ten million requests can show them "
            f"(got max_error_rate_increase {rollout.limits.max_error_rate_increase:g}, max_disagreement "
            f"{rollout.limits.max_disagreement:g}). Allow more.",
            code="ROLLOUT_CANNOT_END",
        )
    return least


def forecast(rollout: RolloutConfig, traffic: Traffic) -> Forecast:
    """Return the least time of a rollout that begins now."""
    phases, now = phases_of(rollout), 0.0
    on_mirrors = rule_of(rollout) == "mirrors/1"
    phase_ends: list[tuple[Phase, float, int]] = []
    for phase in phases:
        needed = least_requests(rollout, phase)
        until = traffic.seconds_until(needed * 100 / (phase.share or 100), begin=now)
        if on_mirrors and not phase.is_shadow:  # ends without them, too
            left = max(0.0, rollout.deadline_seconds - now)
            until = min(until, now + due_seconds(phases, phase, seconds_left=left))
        now = max(now + phase.seconds, until)
        phase_ends.append((phase, now, needed))
    return Forecast(tuple(phase_ends), rollout.deadline_seconds)


def require_end(rollout: RolloutConfig, traffic: Traffic) -> Forecast:
    """Return the forecast of a rollout.

    Raises:
        ConfigError: it cannot end at this traffic; the message says with which settings it would.
    """
    expected = forecast(rollout, traffic)
    if expected.can_end:
        return expected
    late = next(phase_end for phase_end in expected.phases if phase_end[1] > 0 and _is_late(expected, phase_end))
    phase, until, needed = late
    name = "mirrors" if phase.is_shadow else f"requests at the step of {phase.share} %"
    other = next((f"{settings}; or " for settings in _settings_that_do(rollout, traffic)), "")
    raise ConfigError(
        f"serving.rollout must be able to end by its deadline_seconds (got {rollout.deadline_seconds:g}; at the "
        f"traffic of the newest day, {traffic.text}, the {needed:,} {name} it needs are there after {span(until)}). "
        f"Settings that would do: {other}strategy: all_at_once.",
        code="ROLLOUT_CANNOT_END",
    )


def _is_late(expected: Forecast, phase_end: tuple[Phase, float, int]) -> bool:
    place = expected.phases.index(phase_end)
    after = sum(phase.seconds for phase, _, _ in expected.phases[place + 1 :])
    return phase_end[1] + after > expected.deadline_seconds


def _settings_that_do(rollout: RolloutConfig, traffic: Traffic) -> Iterator[str]:
    """Yield settings under which a rollout can end, those that change least first."""
    limit = rollout.limits.max_error_rate_increase
    for wider in (limit, *(increase for increase in WIDER_LIMITS if increase > limit)):
        limits = rollout.limits.model_copy(update={"max_error_rate_increase": wider})
        for fewer in (False, True):
            changed: dict[str, Any] = {"limits": limits, "deadline_seconds": LONGEST_DEADLINE}
            if fewer:
                bare = rollout.model_copy(update=changed | {"shadow_requests": 1})
                changed["shadow_requests"] = least_requests(bare, phases_of(bare)[0])
            tried = rollout.model_copy(update=changed)
            expected = forecast(tried, traffic)
            if not expected.can_end:
                continue
            proposed = _deadline(tried, expected)
            said = {"shadow_requests": changed["shadow_requests"]} if fewer else {}
            said |= {"deadline_seconds": f"{max(proposed, rollout.deadline_seconds):g}"}
            said |= {"limits.max_error_rate_increase": f"{wider:g}"} if wider != limit else {}
            yield ", ".join(f"{name}: {value}" for name, value in said.items())


def _deadline(rollout: RolloutConfig, expected: Forecast) -> float:
    """Return a deadline for a rollout that can end by the longest one: the time of its proof, and some to spare."""
    proofs = [until for phase, until, _ in expected.phases if phase.is_shadow or rule_of(rollout) != "mirrors/1"]
    steps = sum(phase.seconds for phase, _, _ in expected.phases if not phase.is_shadow)
    needed = SPARE * (proofs[-1] + steps)
    return min(LONGEST_DEADLINE, ROUND_SECONDS * math.ceil(needed / ROUND_SECONDS))


def span(seconds: float) -> str:
    """Return a time in words: seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
