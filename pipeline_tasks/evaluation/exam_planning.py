"""Foresight: what a project's exams can show before there is one, by the exact test; settings that cannot be met."""

from __future__ import annotations

import datetime as dt
import math

from pipeline_tasks.evaluation import power
from pipeline_tasks.evaluation.error_budget import epoch_levels
from pipeline_tasks.evaluation.evidence import alpha_for_use
from pipeline_tasks.evaluation.reasons import percent, points
from pipeline_tasks.project.gate_schema import EAGER_MODE, MIN_GROUPS, Gate
from pipeline_tasks.project.schema import Project

GAINS = (0.03, 0.05, 0.10)
HARDLY_EVER = 0.1
SPARE_GROUPS = 1.25  # the split draws groups: a share that gives the least number on average misses it every other time
MAX_EXAM_SHARE = 0.5


def first_level(gate: Gate) -> float:
    """Return the error level of the first use of a project's first epoch."""
    opened = [dt.datetime(2000, 1, 1, tzinfo=dt.UTC)]
    (level,) = epoch_levels(opened, a_year=gate.false_promotions_a_year, confidence=gate.confidence)
    return alpha_for_use(gate, 1, epoch_level=level)


def chances(gate: Gate, *, num_items: int) -> list[float]:
    """Return the chance that an exam of so many independent items shows each of GAINS, at its first use."""
    level, differ = first_level(gate), power.USUAL_DISAGREEMENT
    return [power.power(gain, num_items=num_items, disagreement=differ, alpha=level) for gain in GAINS]


def exam_text(project: Project) -> str:
    """Return what the exams of a project can show, in items and chances."""
    gate = project.gate
    if gate.mode == EAGER_MODE:
        return "Its gate is eager: it promotes by a posterior probability, and bounds no false promotions."
    parts = []
    for name, num_items in (("one epoch", gate.exam.min_items), ("a full window", gate.exam.window_items)):
        shown = " / ".join(f"{100 * chance:.0f} %" for chance in chances(gate, num_items=num_items))
        parts.append(f"{name} of {num_items:,} items with {shown}")
    wanted = " / ".join(points(gain).removesuffix(" points") for gain in GAINS)
    budget = (
        f"At most {gate.false_promotions_a_year:g} promotions a year of models that are no better are to be expected"
    )
    return (
        f"Where two models differ on {percent(power.USUAL_DISAGREEMENT)} of the items, a true gain of {wanted} points "
        f"is shown by {' and by '.join(parts)}. One epoch of {gate.exam.min_items} takes about "
        f"{gate.exam.min_items / project.split.exam_share:,.0f} labeled items. "
        f"{budget} (as many again in the first)."
    )


def exam_warnings(project: Project) -> list[str]:
    """Return what the settings ask for and the exams cannot show, with settings that would do."""
    gate, warnings = project.gate, []
    best = chances(gate, num_items=gate.exam.window_items)[-1]
    if gate.mode != EAGER_MODE and best < HARDLY_EVER:
        warnings.append(
            f"{project.name}: gate.exam.window_items of {gate.exam.window_items:,} shows even a gain of "
            f"{points(GAINS[-1])} with a chance of {percent(best)} only, so hardly any model is ever promoted. Raise "
            "it to 1000, or lower gate.confidence."
        )
    return warnings


def few_groups(project: Project, *, num_exam: int, num_all: int, num_items: int) -> str:
    """Return that the groups of items that arrived are too few for an exam, with what would do; "" where they are not.

    `num_exam` and `num_all` are groups of the exam and of the project, `num_items` its items. What arrived keeps
    its side, so another share is for a new project; pure.
    """
    needed = min(MIN_GROUPS, project.gate.exam.min_items)
    if not num_all or num_all == num_items or num_exam >= needed:
        return ""
    share = project.split.exam_share
    more = math.ceil((needed - num_exam) / share)
    enough = math.ceil(20 * SPARE_GROUPS * needed / num_all) / 20
    text = (
        f"{project.name}: the {num_items:,} items are of {num_all:,} groups, {num_exam:,} of them in the exam, and the "
        f"gate promotes nothing on fewer than {needed}. Bring items of about {more:,} more groups"
    )
    if share < enough <= MAX_EXAM_SHARE:
        text += f", or begin anew under another name, with split.exam_share: {enough:g}"
    return f"{text}."
