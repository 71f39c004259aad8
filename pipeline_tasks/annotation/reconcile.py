"""Which tasks of Label Studio are the right ones, when it holds others than the catalog says; pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """Tasks to delete, tasks to record as an item's own, and items whose task is gone."""

    delete: tuple[int, ...]
    adopt: Mapping[str, int]
    lost: tuple[str, ...]


def plan_reconciliation(
    *, found: Mapping[str, Sequence[int]], recorded: Mapping[str, int], annotated: Collection[int]
) -> Plan:
    """Compare the tasks found of each item with the recorded ones.

    Of several tasks of one item those with an annotation stay; without any, the recorded one or the oldest.
    Items that are not in `recorded` are of no concern, but their doubles are.
    """
    delete: list[int] = []
    adopt: dict[str, int] = {}
    for item_id, task_ids in found.items():
        kept = _kept(task_ids, recorded.get(item_id), annotated) if item_id else list(task_ids)
        delete += [task_id for task_id in task_ids if task_id not in kept]
        if item_id in recorded and recorded[item_id] not in kept:
            adopt[item_id] = kept[0]
    lost = sorted(item_id for item_id in recorded if item_id not in found)
    return Plan(delete=tuple(sorted(delete)), adopt=adopt, lost=tuple(lost))


def _kept(task_ids: Sequence[int], recorded: int | None, annotated: Collection[int]) -> list[int]:
    answered = sorted(task_id for task_id in task_ids if task_id in annotated)
    if answered:
        return answered
    return [recorded] if recorded is not None and recorded in task_ids else [min(task_ids)]
