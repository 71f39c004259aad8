"""Rules 3 and 4, for the replay of verdicts that were given under them: two exams, each by itself, item by item.

No new verdict is given by it; `rule.decide` is today's rule. Pure.
"""

from __future__ import annotations

import math
from functools import partial

from pipeline_tasks.evaluation import constant
from pipeline_tasks.evaluation.evidence import Evidence, alpha_for_use
from pipeline_tasks.evaluation.gate_metrics import METRICS
from pipeline_tasks.evaluation.gate_rule_4_slices import check_slices
from pipeline_tasks.evaluation.gate_rule_checks import (
    Decision,
    check_champion_leaks,
    check_classes,
    check_missing,
    check_validity,
    conclude,
    note_left_out,
)
from pipeline_tasks.evaluation.reasons import MAX_NAMED, Reason, compared, names, percent, points, rounded
from pipeline_tasks.evaluation.statistics import PairedGain, detectable_gain, more_items_needed, shows_gain
from pipeline_tasks.project.gate_schema import ABOVE_CONSTANT, Gate


def decide(policy: Gate, evidence: Evidence) -> Decision:
    """Return the answer on one contender. Whatever cannot be computed speaks against it."""
    invalid = check_validity(evidence)
    if invalid:
        return conclude([*invalid, *note_left_out(evidence)], first=evidence.champion is None)
    if evidence.champion is None:
        reasons = _check_floors(policy, evidence)
    else:
        reasons = [*_check_gain(policy, evidence), *_check_previous(policy, evidence)]
    reasons += _check_exam(policy, evidence)
    reasons += check_classes(policy, evidence, exam="the current exam", hold=partial(non_inferior, policy))
    reasons += _check_limits(policy, evidence)
    reasons += check_slices(policy, evidence.current)
    exam, is_first = evidence.current, evidence.champion is None
    model, name = exam.contender.figures[policy.metric].estimate, f"the {exam.num_items} items of the current exam"
    reasons += constant.beside(policy, exam.constant, model=model, exam=name, is_first=is_first)
    reasons += [*check_champion_leaks(evidence), *note_left_out(evidence)]
    return conclude(reasons, first=evidence.champion is None)


def _check_exam(policy: Gate, evidence: Evidence) -> list[Reason]:
    reasons = []
    exam = evidence.current
    if exam.num_items < policy.exam.min_items:
        text = (
            f"the current exam has {exam.num_items} items, and the rule (gate.exam.min_items) needs "
            f"{policy.exam.min_items}. Label {policy.exam.min_items - exam.num_items} more exam items."
        )
        reasons.append(Reason("EXAM_TOO_SMALL", "open", text))
    reasons += check_missing(policy, evidence, exam="the current exam")
    return reasons


def _check_limits(policy: Gate, evidence: Evidence) -> list[Reason]:
    limits, scores, facts = policy.limits, evidence.current.contender, evidence.contender
    size_mb = facts.size_bytes / 1e6
    reasons = []
    latencies = (
        ("p50", facts.latency_p50_ms, limits.latency_p50_ms),
        ("p99", facts.latency_p99_ms, limits.latency_p99_ms),
    )
    for name, latency_ms, limit_ms in latencies:
        if limit_ms is not None and latency_ms > limit_ms:
            text = f"{name} latency must be at most {limit_ms:g} ms (got {latency_ms:.1f} ms)."
            reasons.append(Reason("LATENCY_LIMIT", "against", text))
    if size_mb > limits.size_mb:
        text = f"the model's size must be at most {limits.size_mb:g} MB (got {size_mb:.1f} MB)."
        reasons.append(Reason("SIZE_LIMIT", "against", text))
    if scores.calibration_error > limits.max_calibration_error:
        text = (
            f"calibration error must be at most {limits.max_calibration_error:g} "
            f"(got {scores.calibration_error:.3f}): its confidence does not follow its accuracy."
        )
        reasons.append(Reason("CALIBRATION_LIMIT", "against", text))
    reasons += _recall_floor(limits.recall_per_class, evidence, min_items=limits.min_class_items, key="gate.limits")
    if not any(reason.stand == "against" for reason in reasons):
        recall = ", recall per class" if limits.recall_per_class else ""
        reasons.append(Reason("LIMITS", "note", f"every limit holds: latency, size, calibration{recall}."))
    return reasons


def _recall_floor(floor: float, evidence: Evidence, *, min_items: int, key: str) -> list[Reason]:
    if not floor:
        return []
    classes = evidence.current.contender.classes
    judged = [score for score in classes if score.num_items >= min_items]
    low = sorted(
        (score for score in judged if score.recall.estimate < floor), key=lambda recall: recall.recall.estimate
    )
    reasons = [
        Reason(
            "RECALL_FLOOR",
            "against",
            f"recall of {score.label} must be at least {percent(floor)} ({key}.recall_per_class; "
            f"got {percent(score.recall.estimate)} of {score.num_items} items).",
        )
        for score in low[:MAX_NAMED]
    ]
    small = [f"{score.label} ({score.num_items})" for score in classes if 0 < score.num_items < min_items]
    if small:
        text = f"{key}.recall_per_class is not judged for classes of fewer than {min_items} items: {names(small)}."
        reasons.append(Reason("CLASS_SMALL", "note", text))
    return reasons


def _check_floors(policy: Gate, evidence: Evidence) -> list[Reason]:
    exam, accuracy = evidence.current, evidence.current.contender.accuracy
    shown = f"{percent(accuracy.estimate)} of {exam.num_items} items"
    reasons = []
    if policy.floors.accuracy == ABOVE_CONSTANT:
        model = exam.contender.figures[policy.metric].estimate
        name = f"the current exam of {exam.num_items} items"
        reasons.append(constant.check_above(policy, exam.constant, model=model, exam=name, advice=_items_that_decide))
    elif accuracy.estimate < policy.floors.accuracy:
        text = f"a first model's accuracy must be at least {percent(policy.floors.accuracy)} (got {shown})."
        reasons.append(Reason("ACCURACY_FLOOR", "against", text))
    min_items, floor = policy.limits.min_class_items, policy.floors.recall_per_class
    reasons += _recall_floor(floor, evidence, min_items=min_items, key="gate.floors")
    if policy.floors.accuracy != ABOVE_CONSTANT and not any(reason.stand == "against" for reason in reasons):
        text = (
            f"it is the first model, and it meets the floors: it is right on {shown}, "
            f"at least {percent(policy.floors.accuracy)} were asked for."
        )
        reasons.append(Reason("FLOORS_MET", "for", text))
    return reasons


def _items_that_decide(gain: PairedGain) -> str:
    needed = more_items_needed(gain, threshold=0.0)
    return f"; about {rounded(needed)} more exam items would decide this" if needed else ""


def _check_gain(policy: Gate, evidence: Evidence) -> list[Reason]:
    exam = evidence.current
    if exam.gain is None or exam.champion is None:
        return [Reason("METRIC_INVALID", "against", "the two models were not compared on the current exam.")]
    gain = exam.gain
    level = alpha_for_use(policy, evidence.exam_use)
    if not math.isclose(gain.alpha, level):
        raise ValueError(f"the gain must be computed at the level {level} of this use (got {gain.alpha}).")
    scores = (
        f"{METRICS[policy.metric].noun} on the current exam of {exam.num_items} items is "
        f"{percent(exam.contender.figures[policy.metric].estimate)} for the contender and "
        f"{percent(exam.champion.figures[policy.metric].estimate)} for the champion"
    )
    sure = f"{percent(1 - gain.alpha)} confidence (use {evidence.exam_use} of this exam)"
    if shows_gain(gain, min_gain=policy.min_gain):
        text = f"{scores}: {points(gain.difference)} more, at least {points(gain.low)} with {sure}."
        return [Reason("GAIN_SHOWN", "for", text)]
    if gain.difference <= policy.min_gain:
        asked = f"the rule asks for more than {points(policy.min_gain)}" if policy.min_gain else "it is not better"
        text = f"{scores}: a difference of {points(gain.difference)}, {asked}. {_power(gain, policy)}"
        return [Reason("NO_GAIN", "against", text)]
    text = f"{scores}: {points(gain.difference)} more, which can be chance at {sure}. {_power(gain, policy)}"
    return [Reason("GAIN_UNCERTAIN", "open", text)]


def _power(gain: PairedGain, policy: Gate) -> str:
    smallest = detectable_gain(gain, min_gain=policy.min_gain)
    if smallest is None:
        return "The two models never differ on it."
    more = more_items_needed(gain, threshold=policy.min_gain)
    shown = f"An exam of {gain.num_items} items reliably shows true gains of {points(smallest)} or more"
    return f"{shown}; about {rounded(more)} more exam items would decide this." if more else f"{shown}."


def _check_previous(policy: Gate, evidence: Evidence) -> list[Reason]:
    exam = evidence.previous
    if exam is None:
        return [
            Reason("NO_PREVIOUS_EXAM", "note", "there is no earlier exam, so nothing old could be forgotten on it.")
        ]
    if exam.gain is None:
        return [Reason("METRIC_INVALID", "against", "the two models were not compared on the previous exam.")]
    return [non_inferior(policy, exam.gain, f"on the previous exam of {exam.num_items} items", "PREVIOUS")]


def non_inferior(policy: Gate, gain: PairedGain, where: str, code: str) -> Reason:
    """Return whether a loss beyond the margin is ruled out."""
    margin = policy.previous_margin
    allowed = f"a loss of {points(margin)} is allowed (gate.previous_margin)"
    shown = f"{where} the contender is {compared(gain.difference)}"
    bound = f"at worst {points(max(-gain.low, 0.0))} worse with {percent(1 - gain.alpha)} confidence"
    if gain.low >= -margin:
        return Reason(f"{code}_HELD", "for", f"{shown}, {bound}; {allowed}.")
    if gain.difference < -margin:
        return Reason(f"{code}_WORSE", "against", f"{shown}; {allowed}. It forgets what it knew.")
    return Reason(f"{code}_UNCERTAIN", "open", f"{shown}, but it may be {bound.removeprefix('at worst ')}; {allowed}.")
