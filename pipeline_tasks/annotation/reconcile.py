"""Plan of the tasks to keep where Label Studio holds others than the catalog says; pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """Tasks to delete, tasks to record as an item's own, and items whose task is gone."""

    delete: tuple[int, ...]
    adopt: Mapping[str, int]
    lost: tuple[str, ...]


def changed_tasks(present: Mapping[str, Sequence[int]], recorded: Mapping[str, int]) -> dict[int, list[str]]:
    """Return the recorded tasks that say that they show another item, with the items they are recorded for.

    Somebody has edited them, or removed them and imported others: Label Studio gives a number again.
    """
    owners: dict[int, list[str]] = {}
    for item_id, task_id in recorded.items():
        owners.setdefault(task_id, []).append(item_id)
    return {
        task_id: owners[task_id]
        for item_id, task_ids in present.items()
        for task_id in task_ids
        if item_id not in owners.get(task_id, [item_id])
    }


def plan_reconciliation(
    *, present: Mapping[str, Sequence[int]], recorded: Mapping[str, int], annotated: Collection[int]
) -> Plan:
    """Compare the tasks found of each item with the recorded ones.

    Of several tasks of one item those with an annotation stay; without any, the recorded one or the oldest. Items that
    are not in `recorded`, and recorded tasks that show another item, are of no concern: they are somebody else's.
    """
    changed = changed_tasks(present, recorded)
    delete: list[int] = []
    adopt: dict[str, int] = {}
    lost: list[str] = []
    for item_id, own in recorded.items():
        task_ids = [task_id for task_id in present.get(item_id, ()) if task_id not in changed]
        if not task_ids:
            lost.append(item_id)
            continue
        kept = _kept(task_ids, own, annotated)
        delete += [task_id for task_id in task_ids if task_id not in kept]
        if own not in kept:
            adopt[item_id] = kept[0]
    return Plan(delete=tuple(sorted(delete)), adopt=adopt, lost=tuple(sorted(lost)))


def _kept(task_ids: Sequence[int], recorded: int, annotated: Collection[int]) -> list[int]:
    answered = sorted(task_id for task_id in task_ids if task_id in annotated)
    if answered:
        return answered
    return [recorded] if recorded in task_ids else [min(task_ids)]
