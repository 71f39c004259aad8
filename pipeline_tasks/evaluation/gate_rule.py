"""The rule by which a contender dethrones the champion: evidence in, answer and reasons out. Pure.

The exam is the items of the newest epochs together (`gate.exam.window_items`), and items that come in groups count as
groups. A figure speaks against a contender where it is shown, not where it is seen.
"""

from __future__ import annotations

import math
from functools import partial

from pipeline_tasks.evaluation import power
from pipeline_tasks.evaluation.constant import beside, check_above
from pipeline_tasks.evaluation.evidence import LOSS_ALPHA, EpochEvidence, Evidence, ExamEvidence, alpha_for_use
from pipeline_tasks.evaluation.exam_parts import PartShare
from pipeline_tasks.evaluation.gate_metrics import METRICS
from pipeline_tasks.evaluation.gate_rule_checks import (
    Decision,
    check_champion_leaks,
    check_classes,
    check_missing,
    check_validity,
    conclude,
    note_alarm,
    note_former,
    note_left_out,
)
from pipeline_tasks.evaluation.gate_rule_slices import check_slices
from pipeline_tasks.evaluation.groups import MAX_GROUP_SHARE
from pipeline_tasks.evaluation.open_items import note_labels
from pipeline_tasks.evaluation.reasons import MAX_NAMED, Reason, compared, names, percent, points
from pipeline_tasks.evaluation.statistics import PairedGain, shows_gain
from pipeline_tasks.project.gate_schema import ABOVE_CONSTANT, EAGER_MODE, MIN_GROUPS, Gate

RARE_CLASS_ITEMS = 5  # below it a bootstrap of macro F1 has too few items of the class to vary
# Reasons whose numbers say nothing about the models' answers to the exam: told while its epoch is open.
PLAIN = frozenset({"CLASS_SMALL", "EXAM_FEW_GROUPS", "EXAM_TOO_SMALL", "GROUP_LARGE", "LIMITS", "NO_PREVIOUS_EXAM"})
PLAIN |= {"LATENCY_LIMIT", "LATENCY_UNCERTAIN", "SIZE_LIMIT"}
LATENCIES = (("p50", "latency_p50_ms"), ("p99", "latency_p99_ms"))


def decide(policy: Gate, evidence: Evidence) -> Decision:
    """Return the answer on one contender. Whatever cannot be computed speaks against it."""
    is_first = evidence.champion is None
    invalid = check_validity(evidence)
    if invalid:
        return conclude([*invalid, *note_left_out(evidence), *note_alarm(evidence)], first=is_first)
    reasons = _check_floors(policy, evidence) if is_first else compare(policy, evidence)
    reasons += _check_exam(policy, evidence)
    reasons += check_classes(policy, evidence, exam="the exam", hold=partial(_non_inferior, policy))
    reasons += _check_limits(policy, evidence)
    reasons += check_slices(policy, evidence.current)
    model = evidence.current.contender.figures[policy.metric].estimate
    reasons += beside(policy, evidence.current.constant, model=model, exam=exam_text(evidence), is_first=is_first)
    reasons += [*check_champion_leaks(evidence), *note_left_out(evidence), *note_alarm(evidence)]
    reasons += [*note_labels(evidence.labels, evidence.current), *note_former(evidence)]
    return conclude(reasons, first=is_first)


def compare(policy: Gate, evidence: Evidence) -> list[Reason]:
    """Return what the two models' answers say: the gain on the exam, then each epoch by itself."""
    return [*_check_gain(policy, evidence), *_check_epochs(policy, evidence)]


def _check_exam(policy: Gate, evidence: Evidence) -> list[Reason]:
    reasons = []
    exam = evidence.current
    if exam.num_items < policy.exam.min_items:
        text = (
            f"the exam has {exam.num_items} items, and the rule (gate.exam.min_items) needs "
            f"{policy.exam.min_items}. Label {policy.exam.min_items - exam.num_items} more exam items."
        )
        reasons.append(Reason("EXAM_TOO_SMALL", "open", text))
    num_groups, needed = exam.num_groups or 0, min(MIN_GROUPS, policy.exam.min_items)
    if num_groups < needed:
        text = (
            f"the {exam.num_items} items of the exam are of {num_groups} groups, and the rule needs {needed}: items of "
            "one group resemble each other. Label exam items of other groups."
        )
        reasons.append(Reason("EXAM_FEW_GROUPS", "open", text))
    if exam.gain is not None and (exam.gain.largest_group or 0.0) > MAX_GROUP_SHARE and num_groups < exam.num_items:
        text = (
            f"one group holds {percent(exam.gain.largest_group or 0.0)} of the exam's items: bounds that rest on it "
            "are left open, and only the gain itself is judged."
        )
        reasons.append(Reason("GROUP_LARGE", "note", text))
    reasons += check_missing(policy, evidence, exam="the exam")
    return reasons


def _check_limits(policy: Gate, evidence: Evidence) -> list[Reason]:
    limits, facts = policy.limits, evidence.contender
    reasons = _check_latency(policy, evidence)
    size_mb = facts.size_bytes / 1e6
    if size_mb > limits.size_mb:
        text = f"the model's size must be at most {limits.size_mb:g} MB (got {size_mb:.1f} MB)."
        reasons.append(Reason("SIZE_LIMIT", "against", text))
    reasons += _check_calibration(policy, evidence.current)
    reasons += _recall_floor(policy, limits.recall_per_class, evidence, key="gate.limits")
    if not any(reason.stand in {"against", "open"} for reason in reasons):
        recall = ", recall per class" if limits.recall_per_class else ""
        reasons.append(Reason("LIMITS", "note", f"every limit holds: latency, size, calibration{recall}."))
    return reasons


def _check_latency(policy: Gate, evidence: Evidence) -> list[Reason]:
    """Check the limits; where the champion, timed in turn with the contender, is beyond one too, nothing is shown."""
    reasons = []
    facts, champion = evidence.contender, evidence.champion
    load = f"; the machine had {facts.load:g} tasks waiting a core" if facts.load is not None else ""
    for name, key in LATENCIES:
        limit_ms, latency_ms = getattr(policy.limits, key), getattr(facts, key)
        if limit_ms is None or latency_ms <= limit_ms:
            continue
        rival_ms = getattr(champion, key) if champion is not None else None
        beside_it = f", the champion {rival_ms:.1f} ms" if rival_ms is not None else ""
        times = f" at the best of {facts.repeats} measurements" if facts.repeats is not None else ""
        text = f"{name} latency must be at most {limit_ms:g} ms (got {latency_ms:.1f} ms{times}{beside_it}{load})"
        if rival_ms is not None and rival_ms > limit_ms:
            text += ". The champion, timed in turn with it, is beyond the limit too: judge again on a quieter machine."
            reasons.append(Reason("LATENCY_UNCERTAIN", "open", text))
        else:
            reasons.append(Reason("LATENCY_LIMIT", "against", f"{text}."))
    return reasons


def _check_calibration(policy: Gate, exam: ExamEvidence) -> list[Reason]:
    limit, scores = policy.limits.max_calibration_error, exam.contender
    expected = scores.calibration_expected or 0.0
    excess = scores.calibration_error - expected
    if excess <= limit:
        return []
    text = (
        f"calibration error must be at most {limit:g} above that of a model whose confidences are true (got "
        f"{scores.calibration_error:.3f}, and {expected:.3f} is expected on {exam.num_items} items): its confidence "
        "does not follow its accuracy."
    )
    return [Reason("CALIBRATION_LIMIT", "against", text)]


def _recall_floor(policy: Gate, floor: float, evidence: Evidence, *, key: str) -> list[Reason]:
    """Check the floor on each class: against where it is shown to be missed, open where it is likely to be."""
    if not floor:
        return []
    reasons = []
    least = policy.limits.min_class_items
    judged = [recall for recall in evidence.current.recalls if recall.num_items >= least]
    for recall in sorted(judged, key=lambda recall: (recall.shrunk, recall.name)):
        share, high = percent(recall.estimate), percent(recall.high)
        figures = f"{share} of {recall.num_items} items, at most {high} at the gate's confidence"
        asked = f"recall of {recall.name} must be at least {percent(floor)} ({key}.recall_per_class; got {figures})"
        if recall.high < floor:
            reasons.append(Reason("RECALL_FLOOR", "against", f"{asked}."))
        elif recall.shrunk < floor:
            reasons.append(Reason("RECALL_UNCERTAIN", "open", f"{asked}{_drawn(recall)}. More of its items decide."))
    shown = sorted(reasons, key=lambda reason: reason.stand != "against")[:MAX_NAMED]
    if len(reasons) > MAX_NAMED:
        text = f"{len(reasons) - MAX_NAMED} more classes are in the report's table."
        shown.append(Reason("RECALL_MORE", "note", text))
    small = [f"{recall.name} ({recall.num_items})" for recall in evidence.current.recalls if recall.num_items < least]
    if small:
        text = f"{key}.recall_per_class is not judged for classes of fewer than {least} items: {names(small)}."
        shown.append(Reason("CLASS_SMALL", "note", text))
    return shown


def _drawn(share: PartShare) -> str:
    """Return the estimate that decides, where it is not the one that was seen."""
    if percent(share.shrunk) == percent(share.estimate):
        return ""
    return f"; {percent(share.shrunk)} drawn to the whole by as much as it is noise"


def _check_floors(policy: Gate, evidence: Evidence) -> list[Reason]:
    exam, accuracy, floor = evidence.current, evidence.current.contender.accuracy, policy.floors.accuracy
    reasons = []
    if floor == ABOVE_CONSTANT:
        model = exam.contender.figures[policy.metric].estimate
        advice = partial(_next_epoch, policy, evidence)
        reasons.append(check_above(policy, exam.constant, model=model, exam=exam_text(evidence), advice=advice))
    shown = (
        f"{percent(accuracy.estimate)} of {exam.num_items} items, {percent(accuracy.low)} to {percent(accuracy.high)}"
    )
    if floor != ABOVE_CONSTANT and accuracy.estimate < floor:
        text = f"a first model's accuracy must be at least {percent(floor)} (got {shown})."
        reasons.append(Reason("ACCURACY_FLOOR", "against" if accuracy.high < floor else "open", text))
    reasons += _recall_floor(policy, policy.floors.recall_per_class, evidence, key="gate.floors")
    if floor != ABOVE_CONSTANT and not any(reason.stand in {"against", "open"} for reason in reasons):
        text = (
            f"it is the first model, and it meets the floors: it is right on {shown}, at least {percent(floor)} were "
            "asked for (of the estimate)."
        )
        reasons.append(Reason("FLOORS_MET", "for", text))
    return reasons


def exam_text(evidence: Evidence) -> str:
    """Return what the exam is: its items, its groups where they are fewer, and its epochs."""
    exam = evidence.current
    groups = exam.num_groups if exam.num_groups is not None else exam.num_items
    of_groups = f" in {groups:,} groups" if groups < exam.num_items else ""
    oldest = evidence.epochs[-1].epoch if evidence.epochs else exam.epoch
    epochs = f"epoch {exam.epoch}" if oldest == exam.epoch else f"epochs {oldest} to {exam.epoch}"
    return f"the {exam.num_items:,} items{of_groups} of {epochs}"


def _check_gain(policy: Gate, evidence: Evidence) -> list[Reason]:
    exam = evidence.current
    if exam.gain is None or exam.champion is None:
        return [Reason("METRIC_INVALID", "against", "the two models were not compared on the exam.")]
    gain = exam.gain
    level = alpha_for_use(policy, evidence.exam_use, epoch_level=evidence.epoch_level)
    if not math.isclose(gain.alpha, level):
        raise ValueError(f"the gain must be computed at the level {level} of this use (got {gain.alpha}).")
    scores = (
        f"{METRICS[policy.metric].noun} on {exam_text(evidence)} is "
        f"{percent(exam.contender.figures[policy.metric].estimate)} for the contender and "
        f"{percent(exam.champion.figures[policy.metric].estimate)} for the champion"
    )
    if gain.num_items < exam.num_items:
        scores += f" (compared on the {gain.num_items:,} items of classes that the champion knows)"
    if policy.mode == EAGER_MODE:
        return [_eager(policy, gain, scores=scores)]
    sure = f"{_confidence(gain)} confidence (use {evidence.exam_use} of this exam)"
    if shows_gain(gain, min_gain=policy.min_gain):
        text = f"{scores}: {points(gain.difference)} more, at least {points(max(gain.low, 0.0))} with {sure}."
        return [Reason("GAIN_SHOWN", "for", text)]
    if gain.difference <= policy.min_gain:
        asked = f"the rule asks for more than {points(policy.min_gain)}" if policy.min_gain else "it is not better"
        text = f"{scores}: a difference of {points(gain.difference)}, {asked}. {_power(gain)}"
        return [Reason("NO_GAIN", "against", text)]
    text = f"{scores}: {points(gain.difference)} more, which can be chance at {sure}. {_power(gain)}"
    text += _next_epoch(policy, evidence, gain)
    return [Reason("GAIN_UNCERTAIN", "open", text)]


def _confidence(gain: PairedGain) -> str:
    return f"{100 * (1 - gain.alpha):.2f} %" if gain.alpha < 0.01 else percent(1 - gain.alpha)


def _eager(policy: Gate, gain: PairedGain, *, scores: str) -> Reason:
    """Return the answer of the eager mode: how likely the contender is better, which is no error level."""
    chance = power.chance_better(gain, min_gain=policy.min_gain)
    more = f"more than {points(policy.min_gain)} better" if policy.min_gain else "better"
    text = (
        f"{scores}: with {percent(chance)} posterior probability it is {more} (gate.mode: eager asks for "
        f"{percent(policy.confidence)}; a posterior probability, with gains usually within {points(power.PRIOR_GAIN)} "
        "of 0, and no bound on false promotions)."
    )
    if gain.difference <= policy.min_gain:
        return Reason("NO_GAIN", "against", text)
    likely = chance >= policy.confidence
    return Reason("GAIN_LIKELY" if likely else "GAIN_UNCERTAIN", "for" if likely else "open", text)


def _power(gain: PairedGain) -> str:
    """Return what an exam of this size shows by the test that is used; nothing for metrics of unknown power."""
    if not METRICS[gain.metric].counts_items:
        return ""
    items, differ = power.independent_items(gain), power.disagreement_of(gain)
    least = power.detectable_gain(num_items=items, disagreement=differ, alpha=gain.alpha)
    worth = f" (worth {items:,.0f} independent ones)" if items < gain.num_items else ""
    if least is None:
        return f"An exam of {gain.num_items:,} items{worth} shows no gain at this level, however large."
    return f"An exam of {gain.num_items:,} items{worth} shows true gains of {points(least)} in 8 of 10 cases."


def _next_epoch(policy: Gate, evidence: Evidence, gain: PairedGain) -> str:
    """Return how likely one more epoch shows the gain; empty where the window is full, or a minimum gain is asked."""
    if not METRICS[gain.metric].counts_items or policy.min_gain > 0 or gain.num_items >= policy.exam.window_items:
        return ""
    more = policy.exam.min_items
    first = evidence.champion is None
    level = 1 - policy.confidence if first else alpha_for_use(policy, 1, epoch_level=evidence.epoch_level)
    chance = power.chance_with_more(gain, more_items=more, alpha=level)
    said = f"With {more} more exam items it would be shown with a chance of {percent(chance)}"
    return f"; {said[0].lower()}{said[1:]}" if first else f" {said}."


def _check_epochs(policy: Gate, evidence: Evidence) -> list[Reason]:
    """Check each epoch by itself: the newest by its estimate, no one shown worse, the one before within its margin."""
    newest, *older = evidence.epochs
    reasons = []
    for epoch in evidence.epochs:
        if epoch.gain is None or not epoch.gain.is_finite:
            text = f"the difference of the two models on epoch {epoch.epoch} cannot be computed."
            return [Reason("METRIC_INVALID", "against", text)]
    if older and newest.gain is not None and newest.gain.difference < 0:
        text = (
            f"on epoch {newest.epoch}, the newest, the contender is {compared(newest.gain.difference)} on "
            f"{newest.num_items} items: what was gained is on older data."
        )
        reasons.append(Reason("NEWEST_BELOW", "open", text))
    reasons += [reason for epoch in evidence.epochs for reason in _shown_worse(epoch)]
    if not older:
        text = "there is no earlier exam, so nothing old could be forgotten on it."
        return [*reasons, Reason("NO_PREVIOUS_EXAM", "note", text)]
    return [*reasons, _check_previous(policy, older[0])]


def _shown_worse(epoch: EpochEvidence) -> list[Reason]:
    gain, at_most = epoch.gain, epoch.gain_at_most
    if gain is None:
        return []
    high, alpha = (gain.high, gain.alpha) if at_most is None else (at_most, min(gain.alpha, LOSS_ALPHA))
    if high >= 0:
        return []
    text = (
        f"on the {epoch.num_items} items of epoch {epoch.epoch} the contender is {compared(gain.difference)}, at least "
        f"{points(-high)} with {percent(1 - alpha)} confidence: it forgets what it knew."
    )
    return [Reason("EPOCH_WORSE", "against", text)]


def _check_previous(policy: Gate, previous: EpochEvidence) -> Reason:
    gain, margin = previous.gain, policy.previous_margin
    if gain is None:
        return Reason("METRIC_INVALID", "against", "the two models were not compared on the previous epoch.")
    where = f"on the previous epoch of {previous.num_items} items"
    needed = power.items_that_show(margin, disagreement=power.disagreement_of(gain))
    rare = METRICS[policy.metric].by_class and previous.least_class < RARE_CLASS_ITEMS
    grouped = previous.num_groups < min(MIN_GROUPS, previous.num_items)
    if power.independent_items(gain) >= needed and not rare and not grouped:
        return _non_inferior(policy, gain, where, "PREVIOUS")
    reason = (
        f"has a class of {previous.least_class} items"
        if rare
        else f"has {previous.num_groups} groups"
        if grouped
        else f"cannot show it (about {needed:,} independent items can)"
    )
    text = (
        f"{where} the contender is {compared(gain.difference)}, at worst {points(max(-gain.low, 0.0))} worse with "
        f"{percent(1 - gain.alpha)} confidence; gate.previous_margin of {points(margin)} is not asked for, since the "
        f"epoch {reason}."
    )
    return Reason("PREVIOUS_NOTED", "note", text)


def _non_inferior(policy: Gate, gain: PairedGain, where: str, code: str) -> Reason:
    margin = policy.previous_margin
    allowed = f"a loss of {points(margin)} is allowed (gate.previous_margin)"
    shown = f"{where} the contender is {compared(gain.difference)}"
    bound = f"at worst {points(max(-gain.low, 0.0))} worse with {percent(1 - gain.alpha)} confidence"
    if gain.low >= -margin:
        return Reason(f"{code}_HELD", "for", f"{shown}, {bound}; {allowed}.")
    if gain.high < -margin:
        return Reason(f"{code}_WORSE", "against", f"{shown}, {bound}; {allowed}. It forgets what it knew.")
    return Reason(f"{code}_UNCERTAIN", "open", f"{shown}, but it may be {bound.removeprefix('at worst ')}; {allowed}.")
