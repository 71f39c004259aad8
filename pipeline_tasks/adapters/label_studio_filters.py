"""Filters of Label Studio's data manager, as its list of tasks takes them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any


def column_filter(column: str, operator: str, kind: str, value: Any) -> dict[str, Any]:
    """Tasks whose column compares so; `kind` says how the server reads the value."""
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


def all_of(*filters: Mapping[str, Any]) -> dict[str, Any]:
    """Tasks that every filter takes."""
    return {"conjunction": "and", "items": list(filters)}


def named(task_ids: Sequence[int]) -> dict[str, Any]:
    """Tasks of these ids."""
    return column_filter("id", "in_list", "List", list(task_ids))


def is_annotated() -> dict[str, Any]:
    """Tasks that have an annotation or a skip.

    The server's own counters (total_annotations) miss an annotation whose request was killed halfway. As a String
    this filter is an HTTP 500 on a project without tasks.
    """
    return column_filter("annotations_ids", "empty", "Number", "False")


def annotated_since(since: dt.datetime) -> dict[str, Any]:
    """Tasks changed at or after a time that have an annotation or a skip; those only pushed need no look."""
    moment = since.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return all_of(column_filter("updated_at", "greater_or_equal", "Datetime", moment), is_annotated())
