"""The report of an experiment: each arm's rate of a business metric and the difference, safe to look at any time. Pure.

The unit is the user (by a hash of the key), or the prediction where the caller gave none: what the share drew, whoever
answered in the end. A unit counts with the first outcome that was told of it, so that one person is one trial.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pipeline_tasks.contracts import content_id
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.sequential import Rate, bounds, compare

Arm = Literal["a", "b"]
ARMS: tuple[Arm, Arm] = ("a", "b")
CORRECT, OUTCOME = "correct", "outcome:"
SHARE_ALPHA = 0.001  # a draw that does not fit its share spoils everything: told only when it is all but sure


@dataclasses.dataclass(frozen=True, slots=True)
class Experiment:
    """The terms of an experiment: `a` is the champion, `b` got `share` percent, under one generation of the route."""

    experiment_id: str
    project: str
    generation: int
    a: str
    b: str
    deployments: Mapping[str, Arm]
    share: int
    metric: str
    confidence: float


@dataclasses.dataclass(frozen=True, slots=True)
class Exposure:
    """One request whose share drew `assigned`; `label` is what the caller was told, None without an answer."""

    request_id: str
    prediction_id: str | None
    user_key: str | None
    business_key: str | None
    assigned: str
    label: str | None
    at_ms: int


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """The true outcome, by prediction id or business key."""

    request_id: str
    prediction_id: str | None
    business_key: str | None
    label: str
    at_ms: int


def check_metric(metric: str, *, classes: Sequence[str]) -> str:
    """Return a metric that can be computed from feedback.

    Raises:
        ConfigError: it is none.
    """
    if metric == CORRECT or (metric.startswith(OUTCOME) and metric.removeprefix(OUTCOME) in classes):
        return metric
    raise ConfigError(
        f"--metric must be {CORRECT} (the answer was right) or {OUTCOME}<class> (that class was told); one of "
        f"{', '.join(classes)} (got {metric[:80]!r})."
    )


def compare_arms(experiment: Experiment, exposures: Iterable[Exposure], outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Return the report; the same log gives the same report, in whatever order it was read."""
    seen = sorted({_name(one): one for one in exposures}.values(), key=lambda one: (one.at_ms, _name(one)))
    units = {_unit(one): experiment.deployments[one.assigned] for one in reversed(seen)}
    told = _first_outcomes(seen, sorted(set(outcomes), key=lambda one: (one.at_ms, one.request_id)))
    won = {unit: _is_success(experiment.metric, exposure, outcome) for unit, (exposure, outcome) in told.items()}
    sizes = Counter(units.values())
    rates = {
        arm: Rate(sum(won[unit] for unit in won if units[unit] == arm), sum(units[unit] == arm for unit in won))
        for arm in ARMS
    }
    alpha = 1 - experiment.confidence
    found = compare(rates["b"], rates["a"], alpha=alpha)
    answer = "b" if found.low > 0 else "a" if found.high < 0 else "undecided"
    return {
        "experiment_id": experiment.experiment_id,
        "project": experiment.project,
        "generation": experiment.generation,
        "metric": experiment.metric,
        "confidence": experiment.confidence,
        "arms": {
            arm: {
                "model_version": getattr(experiment, arm),
                "num_requests": sum(experiment.deployments[one.assigned] == arm for one in seen),
                "num_exposed": sizes[arm],
                "num_outcomes": rates[arm].num_trials,
                "num_successes": rates[arm].num_events,
                "rate": rates[arm].share if rates[arm].num_trials else None,
                "bounds": list(bounds(rates[arm], alpha=alpha / 2)),
            }
            for arm in ARMS
        },
        "difference": {
            "b_minus_a": found.difference if all(rate.num_trials for rate in rates.values()) else None,
            "bounds": [found.low, found.high],
        },
        "answer": answer,
        "warning": _share_warning(experiment, sizes),
    }


def as_text(report: Mapping[str, Any]) -> str:
    """Return a report for people."""
    arms, difference = report["arms"], report["difference"]
    head = f"experiment {report['experiment_id']} of {report['project']} on {report['metric']}"
    lines = [f"{head}, confidence {report['confidence']:.0%}, {report['state']}"]
    for name, arm in arms.items():
        rate = "no outcome yet" if arm["rate"] is None else f"{arm['rate']:.2%}"
        low, high = arm["bounds"]
        lines.append(
            f"  {name}  {arm['model_version']}: {rate} ({low:.2%} to {high:.2%}), {arm['num_successes']:,} of "
            f"{arm['num_outcomes']:,} outcomes of {arm['num_exposed']:,} exposed ({arm['num_requests']:,} requests)"
        )
    low, high = (100 * one for one in difference["bounds"])
    between = f"between {low:+.2f} and {high:+.2f} points"
    told = "unknown" if difference["b_minus_a"] is None else f"{100 * difference['b_minus_a']:+.2f} points"
    lines.append(f"  b minus a: {told}, {between}")
    lines.append(f"answer: {report['answer']}")
    return "\n".join([*lines, *([f"warning: {report['warning']}"] if report["warning"] else [])])


def _name(exposure: Exposure) -> str:
    """Return what a request is known by: a part of the log can be shipped twice."""
    return exposure.prediction_id or f"request/{exposure.request_id}"


def _unit(exposure: Exposure) -> str:
    return _name(exposure) if exposure.user_key is None else content_id(["user", exposure.user_key])


def _first_outcomes(exposures: Sequence[Exposure], outcomes: Sequence[Outcome]) -> dict[str, tuple[Exposure, Outcome]]:
    """Return each unit's first outcome with the answer that it speaks of: by id, else its business key's newest."""
    by_id = {one.prediction_id: one for one in exposures if one.prediction_id is not None}
    by_key: dict[str, list[Exposure]] = {}
    for one in exposures:
        if one.business_key is not None:
            by_key.setdefault(one.business_key, []).append(one)
    found: dict[str, tuple[Exposure, Outcome]] = {}
    for outcome in outcomes:
        exposure = by_id.get(outcome.prediction_id) if outcome.prediction_id is not None else None
        if exposure is None and outcome.business_key is not None:
            earlier = [one for one in by_key.get(outcome.business_key, ()) if one.at_ms <= outcome.at_ms]
            exposure = earlier[-1] if earlier else None
        if exposure is not None:
            found.setdefault(_unit(exposure), (exposure, outcome))
    return found


def _is_success(metric: str, exposure: Exposure, outcome: Outcome) -> bool:
    if metric == CORRECT:
        return exposure.label == outcome.label
    return outcome.label == metric.removeprefix(OUTCOME)


def _share_warning(experiment: Experiment, sizes: Mapping[Arm, int]) -> str | None:
    drawn = Rate(sizes.get("b", 0), sizes.get("a", 0) + sizes.get("b", 0))
    low, high = bounds(drawn, alpha=SHARE_ALPHA)
    if low <= experiment.share / 100 <= high:
        return None
    return (
        f"b must be about {experiment.share} % of the exposed (got {drawn.share:.1%} of {drawn.num_trials:,}): the log "
        "is not whole, or the arms were not drawn by chance. Do not believe the answer."
    )
