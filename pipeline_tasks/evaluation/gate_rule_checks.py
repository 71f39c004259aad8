"""Checks that every version of the rule shares: outputs that are figures at all, leaks, items left out; the answer.

Each check gives reasons that speak for the contender, against it, or leave the matter open. One reason against
keeps the champion; else one open question makes the answer inconclusive; only then a promotion is possible.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence

from pipeline_tasks.contracts import Answer, Leak
from pipeline_tasks.evaluation.evidence import Evidence, ExamEvidence, ModelFacts
from pipeline_tasks.evaluation.gate_metrics import METRICS
from pipeline_tasks.evaluation.reasons import Reason, Stand, names
from pipeline_tasks.evaluation.scores import ModelScores
from pipeline_tasks.evaluation.statistics import PairedGain
from pipeline_tasks.project.gate_schema import LEAVE_OUT, Gate

WORDS = {"promote": "Promote the contender", "keep": "Keep the champion", "inconclusive": "Inconclusive"}
FIRST_WORDS = {"promote": "Promote the first model", "keep": "No champion yet", "inconclusive": "Inconclusive"}
RETIRED = "RETIRED"
PLAIN = frozenset({"ALARM_STANDS", "CHAMPION_CLASSES", "CHAMPION_EXAM_LEAK", "CONTENDER_CLASSES"})  # as in gate_rule
PLAIN |= {"EXAM_CLASS_MISSING", "EXAM_LEAK", "ITEMS_LEFT_OUT"}
CLASS_REMOVED = "CLASS_REMOVED"
LEFT_OUT_WORDS = {RETIRED: "retired", CLASS_REMOVED: "of a removed class"}
Hold = Callable[[PairedGain, str, str], Reason]  # of a gain, where it was seen, and the code of the finding


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """The gate's answer; `code` is that of the reason that decided."""

    answer: Answer
    code: str
    headline: str
    reasons: tuple[Reason, ...]


def conclude(reasons: Sequence[Reason], *, first: bool) -> Decision:
    """Return the answer that the reasons give together, those that decide first."""
    rank: dict[Stand, int] = {"against": 0, "open": 1, "for": 2, "note": 3}
    ordered = tuple(sorted(reasons, key=lambda reason: rank[reason.stand]))
    deciding = ordered[0]
    answers: dict[Stand, Answer] = {"against": "keep", "open": "inconclusive", "for": "promote", "note": "keep"}
    answer = answers[deciding.stand]
    return Decision(answer, deciding.code, f"{(FIRST_WORDS if first else WORDS)[answer]}: {deciding.text}", ordered)


def check_champion_leaks(evidence: Evidence) -> list[Reason]:
    """Tell of exam items that the champion was trained on."""
    if not evidence.champion_leaks:
        return []
    text = f"{_leaked(evidence.champion_leaks, whose='champion')}: it answers them with an unfair advantage."
    return [Reason("CHAMPION_EXAM_LEAK", "note", text)]


def note_left_out(evidence: Evidence) -> list[Reason]:
    """Tell of exam items that neither model is judged on; the rule counts the others alone."""
    if not evidence.left_out:
        return []
    kinds = Counter(LEFT_OUT_WORDS.get(item.code, "cannot be decoded") for item in evidence.left_out)
    counts = " and ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    named = names([item.item_id[:12] for item in evidence.left_out])
    text = f"{len(evidence.left_out)} exam items are left out for every model ({counts}): {named}."
    return [Reason("ITEMS_LEFT_OUT", "note", text)]


def note_former(evidence: Evidence) -> list[Reason]:
    """Tell which classes the exam or the champion has under names from before a migration."""
    if not evidence.former:
        return []
    told = names([f"{name} as {to}" if to else f"{name} as removed" for name, to in evidence.former.items()])
    text = f"the classes were changed since: exam and champion are read through that, {told}."
    return [Reason("CLASSES_MIGRATED", "note", text)]


def note_alarm(evidence: Evidence) -> list[Reason]:
    """Tell of an alarm that stands, and how much of the exam is from after it."""
    return [Reason("ALARM_STANDS", "note", f"{evidence.alarm}.")] if evidence.alarm else []


def _leaked(leaks: Sequence[Leak], *, whose: str) -> str:
    """Return how many exam items a model was trained on, exactly and nearly, and the first of them."""
    num_exact = sum(leak.kind == "exact" for leak in leaks)
    counts = [f"{num_exact} exactly"] * bool(num_exact)
    counts += [f"{len(leaks) - num_exact} as near duplicates"] * (num_exact < len(leaks))
    named = names([leak.item_id[:12] for leak in leaks])
    return f"{len(leaks)} exam items are in the {whose}'s training snapshot, {' and '.join(counts)} ({named})"


def check_validity(evidence: Evidence) -> list[Reason]:
    """Return what leaves nothing to judge: leaks, exams without items, figures that are no numbers."""
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
    figures = [*(figure.estimate for figure in scores.figures.values()), scores.calibration_error]
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


def check_missing(policy: Gate, evidence: Evidence, *, exam: str) -> list[Reason]:
    """Return which classes of the project the exam has no item of; `exam` is what the rule calls it."""
    counts = {score.label: score.num_items for score in evidence.current.contender.classes}
    missing = [label for label in evidence.project_classes if not counts.get(label)]
    if not missing:
        return []
    floor = policy.floors.recall_per_class if evidence.champion is None else 0.0
    asked = METRICS[policy.metric].by_class or max(policy.limits.recall_per_class, floor) > 0
    text = f"{exam} has no item of {names(missing)}"
    text += ", and the rule speaks of every class. Label some." if asked else ": nobody knows how they do."
    return [Reason("EXAM_CLASS_MISSING", "open" if asked else "note", text)]


def check_classes(policy: Gate, evidence: Evidence, *, exam: str, hold: Hold) -> list[Reason]:
    """Return which classes of the exam a model never learned; `hold` checks the margin on the others."""
    asked = {score.label for score in evidence.current.contender.classes if score.num_items}
    reasons = []
    unknown = sorted(asked - set(evidence.contender.classes))
    if unknown:
        text = f"the contender has never learned {names(unknown)}, which {exam} asks for. Train it on them."
        reasons.append(Reason("CONTENDER_CLASSES", "against", text))
    if evidence.champion is None:
        return reasons
    unknown = sorted(asked - set(evidence.champion.classes))
    if unknown and policy.new_classes == "keep":
        text = (
            f"the champion has never learned {names(unknown)}, which {exam} asks for, so a higher score says nothing "
            "about the other classes."
        )
        reasons.append(Reason("CHAMPION_CLASSES", "against", text))
    elif unknown and policy.new_classes == LEAVE_OUT:
        text = f"the champion has never learned {names(unknown)}; the two are compared on the other classes alone."
        reasons.append(Reason("CHAMPION_CLASSES", "note", text))
    elif unknown:
        text = f"the champion has never learned {names(unknown)}; its answers there count as wrong."
        reasons.append(Reason("CHAMPION_CLASSES", "note", text))
        reasons.append(_check_shared(evidence.current.shared_gain, hold=hold))
    return reasons


def _check_shared(gain: PairedGain | None, *, hold: Hold) -> Reason:
    where = "on the classes that both know"
    if gain is None or not gain.is_finite:
        return Reason("METRIC_INVALID", "against", f"the difference {where} cannot be computed.")
    return hold(gain, where, "SHARED_CLASSES")
