"""Exam items on which no model is judged: retired ones, and those that cannot be decoded. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from pipeline_tasks.contracts import UNDECODABLE
from pipeline_tasks.errors import GateClosed
from pipeline_tasks.evaluation.evidence import LeftOut
from pipeline_tasks.evaluation.gate_rule_checks import RETIRED
from pipeline_tasks.evaluation.scoring import Answered, Exam

MAX_ONE_SIDED_SHARE = 0.01


def without_retired(exam: Exam, retired: Mapping[str, str]) -> tuple[Exam, list[LeftOut]]:
    """Return the exam without the items that were taken out of use, and those."""
    gone = [item.item_id for item in exam.items if item.item_id in retired]
    kept = tuple(item for item in exam.items if item.item_id not in retired)
    left_out = [LeftOut(exam.ref.exam_id, item_id, RETIRED, retired[item_id]) for item_id in gone]
    return dataclasses.replace(exam, items=kept), left_out


def undecodable(exam: Exam, answered: Answered, *, roles: Sequence[str]) -> list[LeftOut]:
    """Return the items that a model cannot decode, left out for all.

    Raises:
        GateClosed: UNDECODABLE, more than 1 % of the items decode for one model and not for the other: a recipe that
            refuses what is hard would be judged on the rest.
    """
    one_sided = {row: said for row, said in answered.problems.items() if None in said}
    if len(one_sided) > MAX_ONE_SIDED_SHARE * len(exam.items):
        row, said = next(iter(one_sided.items()))
        role, problem = next((role, text) for role, text in zip(roles, said, strict=True) if text is not None)
        raise GateClosed(
            f"contender and champion must decode the same items of exam {exam.ref.epoch}, but for "
            f"{MAX_ONE_SIDED_SHARE:.0%} (got {len(one_sided)} of {len(exam.items)} that only one of them decodes; the "
            f"{role} on {exam.items[row].item_id[:16]}: {problem}). Change the recipe, or take the items out with "
            "`dethrone item retire`. The champion stays.",
            code=UNDECODABLE,
        )
    return [
        LeftOut(exam.ref.exam_id, exam.items[row].item_id, UNDECODABLE, next(text for text in said if text is not None))
        for row, said in answered.problems.items()
    ]
