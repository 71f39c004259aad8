"""The rule on slices: floors, and margins against the champion, on parts of the exam. Pure.

Every value with enough items is judged, whatever the score on the whole: a floor or margin that is shown to be missed
keeps the champion, one that is likely to be missed leaves the answer open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from pipeline_tasks.evaluation.evidence import ExamEvidence
from pipeline_tasks.evaluation.reasons import MAX_NAMED, Reason, compared, names, percent, points
from pipeline_tasks.evaluation.slices import SliceEvidence, SliceScore
from pipeline_tasks.project.gate_schema import Gate, Slice

PLAIN = frozenset({"SLICES", "SLICES_MORE", "SLICE_MISSING", "SLICE_SMALL"})  # as in gate_rule
Found = tuple[float, Reason]
CheckValue = Callable[[Slice, SliceScore], list[Found]]


def check_slices(policy: Gate, exam: ExamEvidence) -> list[Reason]:
    """Return what the slices say: the worst value first, at most ten."""
    return slice_reasons(policy, exam, name="the exam", check=_check_value)


def slice_reasons(policy: Gate, exam: ExamEvidence, *, name: str, check: CheckValue) -> list[Reason]:
    """Return the findings of `check` on each value with enough items; `name` is what the rule calls the exam."""
    by_name = {evidence.name: evidence for evidence in exam.slices}
    pairs = [(chosen, by_name.get(chosen.name)) for chosen in policy.slices]
    lost = [
        Reason("METRIC_INVALID", "against", f"slice {chosen.name} was not computed.")
        for chosen, evidence in pairs
        if not evidence
    ]
    known = [(chosen, evidence) for chosen, evidence in pairs if evidence is not None]
    failed = [reason for chosen, evidence in known for score in evidence.scores for reason in check(chosen, score)]
    reasons = [*lost, *_worst(failed)]
    judged = [evidence for chosen, evidence in known if _is_judged(chosen)]
    num_values = sum(len(evidence.scores) for evidence in judged)
    if num_values and not reasons:
        reasons.append(Reason("SLICES", "note", f"every slice that was judged holds: {num_values} of them."))
    return [*reasons, *(reason for chosen, evidence in known for reason in _left_out(chosen, evidence, name=name))]


def _is_judged(chosen: Slice) -> bool:
    return chosen.floors.accuracy > 0 or chosen.max_loss is not None


def _worst(failed: Sequence[Found]) -> list[Reason]:
    rank = {"against": 0, "open": 1, "note": 2}
    ordered = [reason for _, reason in sorted(failed, key=lambda value: (rank[value[1].stand], value[0]))]
    reasons = ordered[:MAX_NAMED]
    if len(ordered) > MAX_NAMED:
        text = f"{len(ordered) - MAX_NAMED} more findings on slices are in the report's table."
        reasons.append(Reason("SLICES_MORE", "note", text))
    return reasons


def _check_value(chosen: Slice, score: SliceScore) -> list[Found]:
    where = f"slice {chosen.name} = {score.value}"
    reasons = _check_floor(chosen.floors.accuracy, score, where=where)
    if chosen.max_loss is not None and score.champion is not None:
        reasons += _check_loss(score, where=f"on {where} of {score.num_items} items", margin=chosen.max_loss)
    return reasons


def _check_floor(floor: float, score: SliceScore, *, where: str) -> list[Found]:
    """Check a floor: against where it is shown to be missed, open where it is likely to be."""
    high, shrunk = score.share_high, score.shrunk
    if not floor:
        return []
    if high is None or shrunk is None or not math.isfinite(high):
        return [(-1.0, Reason("METRIC_INVALID", "against", f"the accuracy on {where} cannot be computed."))]
    if shrunk >= floor and high >= floor:
        return []
    champion = f", where the champion has {percent(score.champion.estimate)}" if score.champion is not None else ""
    text = (
        f"accuracy on {where} must be at least {percent(floor)} (gate.slices.floors; got "
        f"{percent(score.contender.estimate)} of {score.num_items} items, at most {percent(high)} at the gate's "
        f"confidence{champion})"
    )
    if high < floor:
        return [(high - floor, Reason("SLICE_FLOOR", "against", f"{text}."))]
    text += f". Drawn to the other values by as much as it is noise it is {percent(shrunk)}; more of its items decide."
    return [(shrunk - floor, Reason("SLICE_UNCERTAIN", "open", text))]


def _check_loss(score: SliceScore, *, where: str, margin: float) -> list[Found]:
    """Check a margin: against where a greater loss is shown, open where it is likely, a note where it may be."""
    gain, shrunk = score.gain, score.shrunk_gain
    if gain is None or not gain.is_finite or shrunk is None:
        text = f"the difference of the two models {where} cannot be computed."
        return [(-1.0, Reason("METRIC_INVALID", "against", text))]
    if gain.low >= -margin:
        return []
    allowed = f"a loss of {points(margin)} is allowed (gate.slices.max_loss)"
    shown = f"{where} the contender is {compared(gain.difference)}"
    sure = f"with {percent(1 - gain.alpha)} confidence"
    if gain.high < -margin:
        text = f"{shown}, at least {points(-gain.high)} worse {sure}; {allowed}."
        return [(gain.high + margin, Reason("SLICE_WORSE", "against", text))]
    text = f"{shown}, but it may be {points(-gain.low)} worse {sure}; {allowed}."
    if shrunk < -margin:
        text += f" Drawn to the other values by as much as it is noise it is {compared(shrunk)}."
        return [(shrunk + margin, Reason("SLICE_UNCERTAIN", "open", f"{text} More of its items decide."))]
    return [(gain.low + margin, Reason("SLICE_NOT_SHOWN", "note", text))]


def _left_out(chosen: Slice, evidence: SliceEvidence, *, name: str) -> list[Reason]:
    if not evidence.scores and not evidence.num_small:
        text = f"no item of {name} has a value of slice {chosen.name} (gate.slices, by {chosen.by})."
        if not _is_judged(chosen):
            return [Reason("SLICE_MISSING", "note", text)]
        text += " The rule speaks of it: correct its pattern, or label such exam items."
        return [Reason("SLICE_MISSING", "open", text)]
    if not evidence.num_small:
        return []
    listed = names([f"{value} ({count})" for value, count in evidence.small])
    beyond = evidence.num_small - len(evidence.small)
    more = f" and {beyond} more" if beyond else ""
    text = f"slice {chosen.name} is not judged where it has fewer than {chosen.min_items} items: {listed}{more}."
    return [Reason("SLICE_SMALL", "note", text)]
