"""The side of each group of items, exam or training: one for all of its items, whoever writes them and when."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import slices, wait_for_turn
from pipeline_tasks.contracts import Item, Split

GROUPS_PER_QUERY = 8192  # all of a chunk of new items; below the limits of both databases


def sides_of(connection: sa.Connection, project: str, group_keys: Iterable[str]) -> dict[str, Split]:
    """Return the side of each of these groups that has an item; one that is on both (of an old release): the exam."""
    item = t.items.c
    sides: dict[str, Split] = {}
    for some in slices(sorted(set(group_keys)), GROUPS_PER_QUERY):
        query = sa.select(item.group_key, sa.func.min(item.split))  # "exam" comes before "train"
        query = query.where(item.project == project, item.group_key.in_(some)).group_by(item.group_key)
        sides.update({row[0]: row[1] for row in connection.execute(query)})
    return sides


def on_their_sides(connection: sa.Connection, project: str, items: Sequence[Item]) -> list[Item]:
    """Return the items, each on the side that its group has; called in the transaction that writes them.

    One writer of a project's new items at a time looks and writes, the others wait until it has committed: two that
    come at once with a new group cannot put it on both sides.
    """
    if not items:
        return []
    wait_for_turn(connection, f"dethrone/sides/{project}")
    sides = sides_of(connection, project, {item.group_key for item in items})
    return [dataclasses.replace(item, split=sides.get(item.group_key, item.split)) for item in items]
