"""Versions of a table's declared columns: what a row's item was under those that were declared before. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from pipeline_tasks.contracts import keyed_item_id, sha256_hex
from pipeline_tasks.errors import InputError
from pipeline_tasks.guards.cells import Column, columns_of, row_content
from pipeline_tasks.project.schema import Project

READING_VERSION = 2  # by declared columns; 1: the type of each cell is guessed
Columns = tuple[Column, ...]


class Former(NamedTuple):
    """The item that an earlier reading makes of a row, and the content that it gives it."""

    item_id: str
    content_id: str


def reading_of(project: Project) -> list[Any]:
    """Return how a project's rows are read: the columns, but for what says nothing about their content."""
    return [{key: value for key, value in column.as_json().items() if key != "unit"} for column in project.columns]


def next_reading(before: Mapping[str, Any] | None, columns: list[Any]) -> dict[str, Any]:
    """Return the cursor `reading` for these columns: those that were declared before stay in it, the oldest first."""
    if before is None:
        return {"version": READING_VERSION, "columns": columns}
    if _is_same(before["columns"], columns):
        return dict(before)
    earlier = [
        declared for declared in (*before.get("earlier", ()), before["columns"]) if not _is_same(declared, columns)
    ]
    return {"version": READING_VERSION, "columns": columns, **({"earlier": earlier} if earlier else {})}


def earlier_columns(reading: Mapping[str, Any]) -> tuple[Columns, ...]:
    """Return the columns that were declared before, the oldest first."""
    return tuple(columns_of(columns) for columns in reading.get("earlier", ()))


def former_items(
    values: Mapping[str, Any],
    *,
    key: str,
    guessed: Callable[[], bytes],
    earlier: Sequence[Columns],
    max_characters: int,
) -> tuple[Former, ...]:
    """Return what reading version 1 (`guessed`) and columns of before make of a row, but for those that refuse it."""
    digests = _digests([guessed])
    readers = [partial(row_content, values, columns=columns, max_characters=max_characters) for columns in earlier]
    formers = [Former(digest, digest) for digest in digests]
    return tuple(formers + [Former(keyed_item_id(key, digest), digest) for digest in _digests(readers)])


def _digests(readers: Sequence[Callable[[], bytes]]) -> Iterator[str]:
    for read in readers:
        try:
            yield sha256_hex(read())
        except InputError:
            continue


def _is_same(columns: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether two lists of columns read a row alike: their order says nothing."""
    return sorted(columns, key=_name) == sorted(other, key=_name)


def _name(column: Mapping[str, Any]) -> str:
    return str(column["name"])
