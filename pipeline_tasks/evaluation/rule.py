"""The rule by which a contender dethrones the champion: evidence in, answer and reasons out. Pure.

Each check gives reasons that speak for the contender, against it, or leave the matter open. One reason against
keeps the champion; else one open question makes the answer inconclusive; only then a promotion is possible.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

from pipeline_tasks.contracts import Answer, Leak
from pipeline_tasks.evaluation import constant
from pipeline_tasks.evaluation.evidence import Evidence, ExamEvidence, ModelFacts, ModelScores, alpha_for_use
from pipeline_tasks.evaluation.reasons import (
    MAX_NAMED,
    METRIC_NAMES,
    Reason,
    Stand,
    compared,
    names,
    percent,
    points,
    rounded,
)
from pipeline_tasks.evaluation.slice_rule import check_slices
from pipeline_tasks.evaluation.statistics import PairedGain, detectable_gain, more_items_needed
from pipeline_tasks.project import ABOVE_CONSTANT, Gate

WORDS = {"promote": "Promote the contender", "keep": "Keep the champion", "inconclusive": "Inconclusive"}
FIRST_WORDS = {"promote": "Promote the first model", "keep": "No champion yet", "inconclusive": "Inconclusive"}
RETIRED = "RETIRED"


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """The gate's answer; `code` is that of the reason that decided."""

    answer: Answer
    code: str
    headline: str
    reasons: tuple[Reason, ...]


def decide(policy: Gate, evidence: Evidence) -> Decision:
    """Return the answer on one contender. Whatever cannot be computed speaks against it."""
    invalid = _check_validity(evidence)
    if invalid:
        return _conclude([*invalid, *_note_left_out(evidence)], first=evidence.champion is None)
    if evidence.champion is None:
        reasons = _check_floors(policy, evidence)
    else:
        reasons = [*_check_gain(policy, evidence), *_check_previous(policy, evidence)]
    reasons += [*_check_exam(policy, evidence), *_check_classes(policy, evidence), *_check_limits(policy, evidence)]
    reasons += check_slices(policy, evidence.current)
    reasons += _beside_constant(policy, evidence)
    reasons += [*_check_champion_leaks(evidence), *_note_left_out(evidence)]
    return _conclude(reasons, first=evidence.champion is None)


def _conclude(reasons: Sequence[Reason], *, first: bool) -> Decision:
    rank: dict[Stand, int] = {"against": 0, "open": 1, "for": 2, "note": 3}
    ordered = tuple(sorted(reasons, key=lambda reason: rank[reason.stand]))
    deciding = ordered[0]
    answers: dict[Stand, Answer] = {"against": "keep", "open": "inconclusive", "for": "promote", "note": "keep"}
    answer = answers[deciding.stand]
    return Decision(answer, deciding.code, f"{(FIRST_WORDS if first else WORDS)[answer]}: {deciding.text}", ordered)


def _check_champion_leaks(evidence: Evidence) -> list[Reason]:
    if not evidence.champion_leaks:
        return []
    text = f"{_leaked(evidence.champion_leaks, whose='champion')}: it answers them with an unfair advantage."
    return [Reason("CHAMPION_EXAM_LEAK", "note", text)]


def _note_left_out(evidence: Evidence) -> list[Reason]:
    """Tell of exam items that neither model is judged on; the rule counts the others alone."""
    if not evidence.left_out:
        return []
    kinds = Counter("retired" if one.code == RETIRED else "cannot be decoded" for one in evidence.left_out)
    counts = " and ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    named = names([one.item_id[:12] for one in evidence.left_out])
    text = f"{len(evidence.left_out)} exam items are left out for every model ({counts}): {named}."
    return [Reason("ITEMS_LEFT_OUT", "note", text)]


def _leaked(leaks: Sequence[Leak], *, whose: str) -> str:
    """Return how many exam items a model was trained on, exactly and nearly, and the first of them."""
    num_exact = sum(leak.kind == "exact" for leak in leaks)
    counts = [f"{num_exact} exactly"] * bool(num_exact)
    counts += [f"{len(leaks) - num_exact} as near duplicates"] * (num_exact < len(leaks))
    named = names([leak.item_id[:12] for leak in leaks])
    return f"{len(leaks)} exam items are in the {whose}'s training snapshot, {' and '.join(counts)} ({named})"


def _check_validity(evidence: Evidence) -> list[Reason]:
    reasons = []
    if evidence.leaks:
        text = (
            f"{_leaked(evidence.leaks, whose='contender')}. "
            "Its score on them is worth nothing; find out how they got there."
        )
        reasons.append(Reason("EXAM_LEAK", "against", text))
    for exam in _exams(evidence):
        if exam.num_items == 0:
            reasons.append(Reason("METRIC_INVALID", "against", f"exam {exam.epoch} has no items."))
            continue
        reasons += _invalid_scores(exam.contender, who="contender", epoch=exam.epoch)
        if evidence.champion is None:
            continue
        if exam.champion is None:
            text = f"the champion has no scores on exam {exam.epoch}, so there is nothing to compare with."
            reasons.append(Reason("METRIC_INVALID", "against", text))
            continue
        reasons += _invalid_scores(exam.champion, who="champion", epoch=exam.epoch)
        if not reasons and (exam.gain is None or not exam.gain.is_finite):
            text = f"the difference of the two models on exam {exam.epoch} cannot be computed."
            reasons.append(Reason("METRIC_INVALID", "against", text))
    return [*reasons, *_invalid_facts(evidence.contender)]


def _invalid_scores(scores: ModelScores, *, who: str, epoch: int) -> list[Reason]:
    health = scores.health
    findings = []
    if health.num_non_finite:
        findings.append(f"gives NaN or infinity for {health.num_non_finite} items")
    if health.num_not_probabilities:
        findings.append(f"gives no probabilities (0 to 1, sum 1) for {health.num_not_probabilities} items")
    if health.constant and who == "contender":
        findings.append("gives one and the same output for every item")
    figures = (scores.accuracy.estimate, scores.macro_f1.estimate, scores.calibration_error)
    if not findings and not all(math.isfinite(figure) for figure in figures):
        findings.append("has a metric that is not a finite number")
    code = "METRIC_INVALID" if who == "contender" else "CHAMPION_INVALID"
    return [Reason(code, "against", f"the {who} {finding} of exam {epoch}.") for finding in findings]


def _invalid_facts(contender: ModelFacts) -> list[Reason]:
    measured = {
        "p50 latency": contender.latency_p50_ms,
        "p99 latency": contender.latency_p99_ms,
        "size": contender.size_bytes,
    }
    return [
        Reason("METRIC_INVALID", "against", f"the contender's {name} must be a finite number above 0 (got {value}).")
        for name, value in measured.items()
        if not math.isfinite(value) or value <= 0
    ]


def _exams(evidence: Evidence) -> list[ExamEvidence]:
    return [evidence.current] + ([evidence.previous] if evidence.previous is not None else [])


def _check_exam(policy: Gate, evidence: Evidence) -> list[Reason]:
    reasons = []
    exam = evidence.current
    if exam.num_items < policy.exam.min_items:
        text = (
            f"the current exam has {exam.num_items} items, and the rule (gate.exam.min_items) needs "
            f"{policy.exam.min_items}. Label {policy.exam.min_items - exam.num_items} more exam items."
        )
        reasons.append(Reason("EXAM_TOO_SMALL", "open", text))
    counts = {score.label: score.num_items for score in exam.contender.classes}
    missing = [label for label in evidence.project_classes if not counts.get(label)]
    if missing:
        floor = policy.floors.recall_per_class if evidence.champion is None else 0.0
        asked = policy.metric == "macro_f1" or max(policy.limits.recall_per_class, floor) > 0
        text = f"the current exam has no item of {names(missing)}"
        text += ", and the rule speaks of every class. Label some." if asked else ": nobody knows how they do."
        reasons.append(Reason("EXAM_CLASS_MISSING", "open" if asked else "note", text))
    return reasons


def _check_classes(policy: Gate, evidence: Evidence) -> list[Reason]:
    asked = {score.label for score in evidence.current.contender.classes if score.num_items}
    reasons = []
    unknown = sorted(asked - set(evidence.contender.classes))
    if unknown:
        text = f"the contender has never learned {names(unknown)}, which the current exam asks for. Train it on them."
        reasons.append(Reason("CONTENDER_CLASSES", "against", text))
    if evidence.champion is None:
        return reasons
    unknown = sorted(asked - set(evidence.champion.classes))
    if unknown and policy.new_classes == "keep":
        text = (
            f"the champion has never learned {names(unknown)}, which the current exam asks for, so a higher score "
            "says nothing about the other classes."
        )
        reasons.append(Reason("CHAMPION_CLASSES", "against", text))
    elif unknown:
        text = f"the champion has never learned {names(unknown)}; its answers there count as wrong."
        reasons.append(Reason("CHAMPION_CLASSES", "note", text))
        reasons += _check_shared(policy, evidence.current)
    return reasons


def _check_shared(policy: Gate, exam: ExamEvidence) -> list[Reason]:
    where = "on the classes that both know"
    if exam.shared_gain is None or not exam.shared_gain.is_finite:
        return [Reason("METRIC_INVALID", "against", f"the difference {where} cannot be computed.")]
    return [_non_inferior(policy, exam.shared_gain, where=where, code="SHARED_CLASSES")]


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
    low = sorted((score for score in judged if score.recall.estimate < floor), key=lambda one: one.recall.estimate)
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
    found = f"{percent(accuracy.estimate)} of {exam.num_items} items"
    reasons = []
    if policy.floors.accuracy == ABOVE_CONSTANT:
        model = exam.contender.metric(policy.metric).estimate
        reasons.append(constant.check_above(policy, exam.constant, model=model, num_items=exam.num_items))
    elif accuracy.estimate < policy.floors.accuracy:
        text = f"a first model's accuracy must be at least {percent(policy.floors.accuracy)} (got {found})."
        reasons.append(Reason("ACCURACY_FLOOR", "against", text))
    min_items, floor = policy.limits.min_class_items, policy.floors.recall_per_class
    reasons += _recall_floor(floor, evidence, min_items=min_items, key="gate.floors")
    if policy.floors.accuracy != ABOVE_CONSTANT and not any(reason.stand == "against" for reason in reasons):
        text = (
            f"it is the first model, and it meets the floors: it is right on {found}, "
            f"at least {percent(policy.floors.accuracy)} were asked for."
        )
        reasons.append(Reason("FLOORS_MET", "for", text))
    return reasons


def _beside_constant(policy: Gate, evidence: Evidence) -> list[Reason]:
    """Return what the constant answer is worth, where no floor has said so; verdicts before rule 4 lack it."""
    exam = evidence.current
    told = evidence.champion is None and policy.floors.accuracy == ABOVE_CONSTANT
    if exam.constant is None or told:
        return []
    model = exam.contender.metric(policy.metric).estimate
    return [constant.beside(exam.constant, metric=policy.metric, model=model, num_items=exam.num_items)]


def _check_gain(policy: Gate, evidence: Evidence) -> list[Reason]:
    exam = evidence.current
    if exam.gain is None or exam.champion is None:
        return [Reason("METRIC_INVALID", "against", "the two models were not compared on the current exam.")]
    gain = exam.gain
    level = alpha_for_use(policy, evidence.exam_use)
    if not math.isclose(gain.alpha, level):
        raise ValueError(f"the gain must be computed at the level {level} of this use (got {gain.alpha}).")
    scores = (
        f"{METRIC_NAMES[policy.metric]} on the current exam of {exam.num_items} items is "
        f"{percent(exam.contender.metric(policy.metric).estimate)} for the contender and "
        f"{percent(exam.champion.metric(policy.metric).estimate)} for the champion"
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


def shows_gain(gain: PairedGain, *, min_gain: float) -> bool:
    """Return whether the gain is real, and at least `min_gain`, at the gain's level."""
    real = gain.difference > 0 and gain.p_value <= gain.alpha
    return real and (min_gain == 0 or gain.low >= min_gain)


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
    return [_non_inferior(policy, exam.gain, where=f"on the previous exam of {exam.num_items} items", code="PREVIOUS")]


def _non_inferior(policy: Gate, gain: PairedGain, *, where: str, code: str) -> Reason:
    margin = policy.previous_margin
    allowed = f"a loss of {points(margin)} is allowed (gate.previous_margin)"
    found = f"{where} the contender is {compared(gain.difference)}"
    bound = f"at worst {points(max(-gain.low, 0.0))} worse with {percent(1 - gain.alpha)} confidence"
    if gain.low >= -margin:
        return Reason(f"{code}_HELD", "for", f"{found}, {bound}; {allowed}.")
    if gain.difference < -margin:
        return Reason(f"{code}_WORSE", "against", f"{found}; {allowed}. It forgets what it knew.")
    return Reason(f"{code}_UNCERTAIN", "open", f"{found}, but it may be {bound.removeprefix('at worst ')}; {allowed}.")
