"""The report of an experiment: each arm's rate of a business metric and which is ahead, safe to look at any time. Pure.

The unit is the user (by a hash of the key), or the prediction where the caller gave none: what the share drew, whoever
answered in the end. A unit counts with the first outcome that was told of it, so that one person is one trial.

Rules: `intervals/1` subtracts two intervals and counts whatever was told so far. `pairs/1` counts a unit once its
exposure is older than the maturation window, with what was told within it: so no outcome comes late, and which units
count does not depend on when one looks. It answers by matched pairs, and not at all where the arms were not told alike.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline_tasks.contracts import content_id
from pipeline_tasks.core.confidence_sequences import Rate, bounds, compare
from pipeline_tasks.deployment.experiment_pairs import FAIR, Arm, Pairs, match
from pipeline_tasks.errors import ConfigError

ARMS: tuple[Arm, Arm] = ("a", "b")
CORRECT, OUTCOME = "correct", "outcome:"
INTERVALS, PAIRS = "intervals/1", "pairs/1"
UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST_WINDOW = 90 * 86_400
LATE_SHARE = 0.1  # of the outcomes: from here on the window is said to be too short
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
    rule: str = INTERVALS  # of the experiments that began before there was another
    matures_after_seconds: float = 0.0


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


def check_window(text: str) -> float:
    """Return the seconds of a maturation window: a number and one of s, m, h, d.

    Raises:
        ConfigError: it is none.
    """
    number, unit = text[:-1], text[-1:]
    if unit in UNIT_SECONDS and number.isascii() and number.isdecimal():
        seconds = float(int(number[:9]) * UNIT_SECONDS[unit])
        if 0 < seconds <= LONGEST_WINDOW:
            return seconds
    raise ConfigError(
        f"--matures-after must be a whole number and s, m, h or d, 90d at most (got {text[:80]!r}). Give the time "
        "within which you are told nearly every outcome. Example: 24h."
    )


def compare_arms(
    experiment: Experiment, exposures: Iterable[Exposure], outcomes: Iterable[Outcome], *, as_of_ms: int
) -> dict[str, Any]:
    """Return the report at a time; the same log gives the same report, in whatever order it was read."""
    seen = sorted(
        {_name(exposure): exposure for exposure in exposures}.values(),
        key=lambda exposure: (exposure.at_ms, _name(exposure)),
    )
    first: dict[str, Exposure] = {}
    for exposure in seen:
        first.setdefault(_unit(exposure), exposure)
    units = {unit: experiment.deployments[exposure.assigned] for unit, exposure in first.items()}
    told = _first_outcomes(seen, sorted(set(outcomes), key=lambda outcome: (outcome.at_ms, outcome.request_id)))
    won = {unit: _is_success(experiment.metric, exposure, outcome) for unit, (exposure, outcome) in told.items()}
    if experiment.rule == INTERVALS:
        return _by_intervals(experiment, seen, units, won)
    window_ms = 1000 * experiment.matures_after_seconds
    matured = [unit for unit in first if first[unit].at_ms + window_ms <= as_of_ms]
    on_time = {unit: won[unit] for unit in won if told[unit][1].at_ms <= first[unit].at_ms + window_ms}
    return _by_pairs(experiment, seen, units, won, matured=matured, on_time=on_time, as_of_ms=as_of_ms)


def _by_intervals(
    experiment: Experiment, seen: Sequence[Exposure], units: Mapping[str, Arm], won: Mapping[str, bool]
) -> dict[str, Any]:
    rates = _rates(units, won)
    difference = compare(rates["b"], rates["a"], alpha=1 - experiment.confidence)
    answer = "b" if difference.low > 0 else "a" if difference.high < 0 else "undecided"
    return {
        **_shown(experiment, seen, units, rates),
        "answer": answer,
        "warning": _share_warning(experiment, Counter(units.values())),
    }


def _by_pairs(
    experiment: Experiment,
    seen: Sequence[Exposure],
    units: Mapping[str, Arm],
    won: Mapping[str, bool],
    *,
    matured: Sequence[str],
    on_time: Mapping[str, bool],
    as_of_ms: int,
) -> dict[str, Any]:
    """Return the report of units in the order of their exposures, of which only the matured ones count."""
    alpha = 1 - experiment.confidence
    counted = {unit: on_time[unit] for unit in matured if unit in on_time}
    pairs = match((units[unit], success) for unit, success in counted.items())
    told = match((units[unit], unit in on_time) for unit in matured)
    shown = _shown(experiment, seen, units, _rates(units, counted))
    num_matured, num_late = (
        Counter(units[unit] for unit in matured),
        Counter(units[unit] for unit in won.keys() - on_time),
    )
    for arm in ARMS:
        shown["arms"][arm] |= {"num_matured": num_matured[arm], "num_late": num_late[arm]}
    warning = _share_warning(experiment, Counter(units.values()))
    withheld = warning or _told_unlike(told, shown["arms"])
    return {
        **shown,
        "rule": experiment.rule,
        "as_of_ms": as_of_ms,
        "matures_after_seconds": experiment.matures_after_seconds,
        "pairs": {
            "num": pairs.num,
            "only_a": pairs.only_a,
            "only_b": pairs.only_b,
            "bounds": list(bounds(pairs.discordant, alpha=alpha)),
        },
        "answer": "withheld" if withheld else pairs.ahead(alpha=alpha) or "undecided",
        "withheld": withheld,
        "warning": warning or _late_warning(on_time=len(on_time), late=num_late.total()),
    }


def _rates(units: Mapping[str, Arm], won: Mapping[str, bool]) -> dict[Arm, Rate]:
    return {
        arm: Rate(sum(won[unit] for unit in won if units[unit] == arm), sum(units[unit] == arm for unit in won))
        for arm in ARMS
    }


def _shown(
    experiment: Experiment, seen: Sequence[Exposure], units: Mapping[str, Arm], rates: Mapping[Arm, Rate]
) -> dict[str, Any]:
    alpha, sizes = 1 - experiment.confidence, Counter(units.values())
    difference = compare(rates["b"], rates["a"], alpha=alpha)
    return {
        "experiment_id": experiment.experiment_id,
        "project": experiment.project,
        "generation": experiment.generation,
        "metric": experiment.metric,
        "confidence": experiment.confidence,
        "arms": {
            arm: {
                "model_version": getattr(experiment, arm),
                "num_requests": sum(experiment.deployments[exposure.assigned] == arm for exposure in seen),
                "num_exposed": sizes[arm],
                "num_outcomes": rates[arm].num_trials,
                "num_successes": rates[arm].num_events,
                "rate": rates[arm].share if rates[arm].num_trials else None,
                "bounds": list(bounds(rates[arm], alpha=alpha / 2)),
            }
            for arm in ARMS
        },
        "difference": {
            "b_minus_a": difference.difference if all(rate.num_trials for rate in rates.values()) else None,
            "bounds": [difference.low, difference.high],
        },
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
    low, high = (100 * bound for bound in difference["bounds"])
    between = f"between {low:+.2f} and {high:+.2f} points"
    told = "unknown" if difference["b_minus_a"] is None else f"{100 * difference['b_minus_a']:+.2f} points"
    lines.append(f"  b minus a: {told}, {between}")
    if "pairs" in report:
        lines += _pairs_lines(report)
    lines.append(f"answer: {report['answer']}")
    if report.get("withheld"):
        lines[-1] += f": {report['withheld']}"
    elif report["warning"]:
        lines.append(f"warning: {report['warning']}")
    return "\n".join(lines)


def _pairs_lines(report: Mapping[str, Any]) -> list[str]:
    pairs, arms = report["pairs"], report["arms"]
    matured = " and ".join(f"{arm['num_matured']:,} of {name}" for name, arm in arms.items())
    low, high = pairs["bounds"]
    counted = f"  counted: units exposed {report['matures_after_seconds'] / 3600:g} h ago or earlier ({matured})"
    differ = f"  of {pairs['num']:,} matched pairs {pairs['only_a'] + pairs['only_b']:,} differ"
    won = f"{pairs['only_b']:,} of them for b: {low:.1%} to {high:.1%}"
    return [
        f"{counted}, with what was told within that time",
        f"{differ}, {won} (the answer is given once {FAIR:.0%} lies outside)",
    ]


def _name(exposure: Exposure) -> str:
    """Return what a request is known by: a part of the log can be shipped twice."""
    return exposure.prediction_id or f"request/{exposure.request_id}"


def _unit(exposure: Exposure) -> str:
    return _name(exposure) if exposure.user_key is None else content_id(["user", exposure.user_key])


def _first_outcomes(exposures: Sequence[Exposure], outcomes: Sequence[Outcome]) -> dict[str, tuple[Exposure, Outcome]]:
    """Return each unit's first outcome with the answer that it speaks of: by id, else its business key's newest."""
    by_id = {exposure.prediction_id: exposure for exposure in exposures if exposure.prediction_id is not None}
    by_key: dict[str, list[Exposure]] = {}
    for exposure in exposures:
        if exposure.business_key is not None:
            by_key.setdefault(exposure.business_key, []).append(exposure)
    first: dict[str, tuple[Exposure, Outcome]] = {}
    for outcome in outcomes:
        answer = by_id.get(outcome.prediction_id) if outcome.prediction_id is not None else None
        if answer is None and outcome.business_key is not None:
            answers = by_key.get(outcome.business_key, ())
            earlier = [exposure for exposure in answers if exposure.at_ms <= outcome.at_ms]
            answer = earlier[-1] if earlier else None
        if answer is not None:
            first.setdefault(_unit(answer), (answer, outcome))
    return first


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


def _told_unlike(told: Pairs, arms: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return why the answer is withheld where outcomes were told of one arm more often than of the other."""
    if not told.is_uneven:
        return None
    shares = ", ".join(
        f"{arm['num_outcomes']:,} of {arm['num_matured']:,} of {name}"
        for name, arm in arms.items()
        if arm["num_matured"]
    )
    return (
        f"outcomes must be told of both arms alike (got {shares}). Who is told of may be chosen by how it went, and "
        "then the rates speak of the telling. Tell the outcome of every user, or of a random part, and start anew."
    )


def _late_warning(*, on_time: int, late: int) -> str | None:
    if late <= LATE_SHARE * (on_time + late):
        return None
    return (
        f"{late:,} of {on_time + late:,} outcomes were told after the maturation window, and do not count. Start the "
        "next experiment with a longer --matures-after."
    )
