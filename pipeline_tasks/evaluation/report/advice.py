"""Changes that would turn a verdict's answer, in words. Pure; reads the verdict's document."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline_tasks.evaluation import power
from pipeline_tasks.evaluation.evidence import alpha_for_use
from pipeline_tasks.evaluation.gate_metrics import METRICS
from pipeline_tasks.evaluation.reasons import percent, points
from pipeline_tasks.evaluation.statistics import PairedGain, mcnemar_p_value, tango_bound
from pipeline_tasks.project.gate_schema import ABOVE_CONSTANT, EAGER_MODE, Gate

Document = Mapping[str, Any]


def what_would_change(document: Document) -> list[str]:
    """Return sentences on what would turn the answer, the nearest first."""
    question, decision = document["question"], document["decision"]
    policy = Gate.model_validate(question["policy"])
    gain = _gain(document["evidence"]["current"]["gain"])
    lines = []
    if decision["answer"] == "promote":
        lines += _promotion_would_fall(document, policy=policy, gain=gain)
    else:
        blocking = [reason for reason in decision["reasons"] if reason["stand"] in {"against", "open"}]
        if len(blocking) > 1:
            lines.append(f"All {len(blocking)} findings that speak against or are open would have to change.")
        lines += _limits_in_reach(document, policy=policy)
        codes = {reason["code"] for reason in blocking}
        if gain is not None and codes & {"NO_GAIN", "GAIN_UNCERTAIN"}:
            lines += _gain_in_reach(gain, policy=policy)
        if codes & {"PREVIOUS_WORSE", "PREVIOUS_UNCERTAIN"}:
            lines.append(_margin_in_reach(document["evidence"]["epochs"][1]["gain"]))
    if gain is not None and policy.mode != EAGER_MODE:
        lines.append(_next_use(policy, question))
    return lines


def _gain(fields: Mapping[str, Any] | None) -> PairedGain | None:
    if fields is None or any(value is None for value in fields.values()):
        return None
    return PairedGain(**fields)


def _promotion_would_fall(document: Document, *, policy: Gate, gain: PairedGain | None) -> list[str]:
    if gain is None:
        return [_floor_would_refuse(document, policy=policy)]
    lines = []
    if METRICS[gain.metric].counts_items:
        flips = flips_to_lose(gain, min_gain=policy.min_gain)
        lines.append(
            f"{flips} of the {gain.num_wins} labels by which the contender wins would have to be wrong, each in the "
            "champion's favour, before the gain were no longer sure."
        )
    lines.append(f"gate.min_gain above {points(max(gain.low, 0.0))} would ask for more than this exam can show.")
    return lines


def _floor_would_refuse(document: Document, *, policy: Gate) -> str:
    current = document["evidence"]["current"]
    accuracy, floor = current["contender"]["accuracy"]["estimate"], policy.floors.accuracy
    if floor == ABOVE_CONSTANT:
        spare = points(current["constant"]["gain"]["difference"])
        return f"The first model is {spare} above the constant answer; a floor above {percent(accuracy)} refuses it."
    spare = points(accuracy - floor)
    return f"The first model is {spare} above the floor; a floor above {percent(accuracy)} refuses it."


def flips_to_lose(gain: PairedGain, *, min_gain: float) -> int:
    """Return how many wins would have to turn into losses before the gain is no longer shown."""
    for flips in range(gain.num_wins + 1):
        wins, losses = gain.num_wins - flips, gain.num_losses + flips
        shown = mcnemar_p_value(wins, losses) <= gain.alpha
        if shown and min_gain > 0:
            shown = tango_bound(wins, losses, gain.num_items, alpha=gain.alpha) >= min_gain
        if not shown:
            return flips
    return gain.num_wins


def _limits_in_reach(document: Document, *, policy: Gate) -> list[str]:
    contender = document["evidence"]["current"]["contender"]
    floor = policy.limits.recall_per_class
    lines = []
    for scores in contender["classes"]:
        recall = scores["recall"]["estimate"]
        if recall is not None and scores["num_items"] >= policy.limits.min_class_items and recall < floor:
            missing = math.ceil(floor * scores["num_items"] - 1e-9) - round(recall * scores["num_items"])
            lines.append(
                f"{scores['label']}: {missing} more of its {scores['num_items']} items right would meet the floor."
            )
    return lines[:10] + _slices_in_reach(document, policy=policy)[:10]


def _slices_in_reach(document: Document, *, policy: Gate) -> list[str]:
    floors = {rule.name: rule.floors.accuracy for rule in policy.slices}
    lines = []
    for scored in document["evidence"]["current"]["slices"]:
        for score in scored["scores"]:
            share, num_items = score["contender"]["estimate"], score["num_items"]
            missing = math.ceil(floors[scored["name"]] * num_items - 1e-9) - round(share * num_items)
            if missing > 0:
                where = f"Slice {scored['name']} = {score['value']}"
                lines.append(f"{where}: {missing} more of its {num_items} items right would meet the floor.")
    return lines


def _gain_in_reach(gain: PairedGain, *, policy: Gate) -> list[str]:
    if not METRICS[gain.metric].counts_items:
        return []
    items, differ = power.independent_items(gain), power.disagreement_of(gain)
    lines = []
    for true_gain in (0.03, 0.05, 0.10):
        chance = power.power(true_gain, num_items=items, disagreement=differ, alpha=gain.alpha)
        lines.append(
            f"A contender that truly is {points(true_gain)} better is seen here with a chance of {chance:.0%}."
        )
    if gain.num_items < policy.exam.window_items:
        more = policy.exam.window_items
        chance = power.power(0.03, num_items=more / (gain.design_effect or 1.0), disagreement=differ, alpha=gain.alpha)
        lines.append(
            f"The exam holds {gain.num_items:,} of the {more:,} items that are judged together "
            f"(gate.exam.window_items); once it is full, 3.0 points are seen with a chance of {chance:.0%}."
        )
    return lines


def _margin_in_reach(gain: Mapping[str, Any]) -> str:
    asked = math.ceil(-1000 * gain["low"]) / 1000
    return f"A gate.previous_margin of {asked:g} would allow what was seen on the previous epoch."


def _next_use(policy: Gate, question: Mapping[str, Any]) -> str:
    whole = question["epoch_level"]
    level = 1 - alpha_for_use(policy, question["exam_use"] + 1, epoch_level=whole)
    return (
        f"The next contender on this exam has to be sure at {100 * level:.2f} %: each use costs, so that however often "
        f"it is used, one that is no better has at most {100 * whole:.2f} % chance in all. New exam items open a new "
        "epoch."
    )
