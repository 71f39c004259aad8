"""The constant answer: the commonest class of an exam, given to every item, beside what a model is worth. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from pipeline_tasks.evaluation.gate_metrics import METRICS
from pipeline_tasks.evaluation.reasons import Reason, percent, points
from pipeline_tasks.evaluation.statistics import PairedGain
from pipeline_tasks.project.gate_schema import ABOVE_CONSTANT, Gate


@dataclasses.dataclass(frozen=True, slots=True)
class ConstantAnswer:
    """The worth of always answering `label` on an exam, by the name of the metric.

    `gain` is the contender's over it by the gate's metric; None beside a champion, or where outputs are unusable.
    """

    label: str
    figures: Mapping[str, float]
    gain: PairedGain | None = None


def beside(policy: Gate, constant: ConstantAnswer | None, *, model: float, exam: str, is_first: bool) -> list[Reason]:
    """Return the constant answer's figure beside a contender's, where no floor has said it; none before rule 4."""
    if constant is None or (is_first and policy.floors.accuracy == ABOVE_CONSTANT):
        return []
    figure, noun = constant.figures[policy.metric], METRICS[policy.metric].noun
    text = f"on {exam} always answering {constant.label} has {percent(figure)} {noun}, the contender {percent(model)}"
    warning = "" if model > figure else ": it is worth no more than one answer to everything"
    return [Reason("CONSTANT_ANSWER", "note", f"{text}{warning}.")]


def check_above(
    policy: Gate, constant: ConstantAnswer | None, *, model: float, exam: str, advice: Callable[[PairedGain], str]
) -> Reason:
    """Ask that a first model is better than the constant answer, at the level of its gain.

    `exam` names the items in words; `advice` says what would decide where the gain may be chance.
    """
    gain = constant.gain if constant is not None else None
    if constant is None or gain is None or not gain.is_finite:
        return Reason("METRIC_INVALID", "against", "the contender was not compared with the constant answer.")
    said = (
        f"{METRICS[policy.metric].noun} on {exam} is {percent(model)}, and "
        f"{percent(constant.figures[policy.metric])} for always answering {constant.label}"
    )
    key, sure = f"gate.floors.accuracy: {ABOVE_CONSTANT}", f"{percent(1 - gain.alpha)} confidence"
    if gain.difference <= 0:
        return Reason("CONSTANT_FLOOR", "against", f"{said}: a first model has to be better ({key}).")
    if gain.p_value > gain.alpha:
        text = f"{said}: {points(gain.difference)} more, which can be chance at {sure} ({key}){advice(gain)}."
        return Reason("CONSTANT_UNCERTAIN", "open", text)
    more = f"{points(gain.difference)} more, at least {points(gain.low)} with {sure}"
    text = f"it is the first model, and better than the constant answer: {said}: {more} ({key})."
    return Reason("FLOORS_MET", "for", text)
