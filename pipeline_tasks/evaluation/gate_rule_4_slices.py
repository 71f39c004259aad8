"""Rules 3 and 4 on slices, for replays: floors, and margins against the champion, on parts of the current exam. Pure.

Every value with enough items must hold, whatever the score on the whole. The margins need no correction for their
number: a contender has to pass all of them, so more slices never make a false promotion likelier.
"""

from __future__ import annotations

from pipeline_tasks.evaluation.evidence import ExamEvidence
from pipeline_tasks.evaluation.gate_rule_slices import Found, slice_reasons
from pipeline_tasks.evaluation.reasons import Reason, compared, percent, points, rounded
from pipeline_tasks.evaluation.slices import SliceScore
from pipeline_tasks.evaluation.statistics import PairedGain, more_items_needed
from pipeline_tasks.project.gate_schema import Gate, Slice


def check_slices(policy: Gate, exam: ExamEvidence) -> list[Reason]:
    """Return what the slices say: the worst value first, at most ten."""
    return slice_reasons(policy, exam, name="the current exam", check=_check_value)


def _check_value(chosen: Slice, score: SliceScore) -> list[Found]:
    where = f"slice {chosen.name} = {score.value}"
    floor, share = chosen.floors.accuracy, score.contender.estimate
    reasons = []
    if not share >= floor:
        champion = f", where the champion has {percent(score.champion.estimate)}" if score.champion is not None else ""
        text = (
            f"accuracy on {where} must be at least {percent(floor)} (gate.slices.floors; got {percent(share)} of "
            f"{score.num_items} items{champion})."
        )
        reasons.append((share - floor, Reason("SLICE_FLOOR", "against", text)))
    if chosen.max_loss is not None and score.champion is not None:
        reasons += _check_loss(score.gain, where=f"on {where} of {score.num_items} items", margin=chosen.max_loss)
    return reasons


def _check_loss(gain: PairedGain | None, *, where: str, margin: float) -> list[Found]:
    if gain is None or not gain.is_finite:
        text = f"the difference of the two models {where} cannot be computed."
        return [(-1.0, Reason("METRIC_INVALID", "against", text))]
    if gain.low >= -margin:
        return []
    allowed = f"a loss of {points(margin)} is allowed (gate.slices.max_loss)"
    shown = f"{where} the contender is {compared(gain.difference)}"
    if gain.difference < -margin:
        return [(gain.difference + margin, Reason("SLICE_WORSE", "against", f"{shown}; {allowed}."))]
    bound = f"it may be {points(-gain.low)} worse with {percent(1 - gain.alpha)} confidence"
    more = more_items_needed(gain, threshold=-margin)
    asked = f" About {rounded(more)} more of its items would decide this." if more else " More of its items would help."
    text = f"{shown}, but {bound}; {allowed}.{asked}"
    return [(gain.low + margin, Reason("SLICE_UNCERTAIN", "open", text))]
