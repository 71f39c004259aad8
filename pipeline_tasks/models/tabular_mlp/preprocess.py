"""From a JSON row to numbers; shared by training, evaluation and the gateway. No torch."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline_tasks.errors import InputError
from pipeline_tasks.guards.cells import shown_cell, spelled
from pipeline_tasks.guards.row import cell_value, require_value
from pipeline_tasks.models.base import Array

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MAX_ROW_BYTES = 1_000_000
MAX_NUMBER = float(np.finfo(np.float32).max)


def preprocessing_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decoding needs, in lists: their order is the order in the vector, whatever the order in the file."""
    found: dict[str, Any] = {"numbers": list(params["numbers"])}
    if params["dates"]:
        found["dates"] = list(params["dates"])
    return found | {"categories": [[name, list(values)] for name, values in sorted(params["categories"].items())]}


def decode_row(data: bytes, *, preprocessing: Mapping[str, Any]) -> Array:
    """Return the row as float32 (width,): numbers, days since 1970-01-01, then one column per known category value.

    A missing number or date is NaN.

    Raises:
        InputError: EMPTY_FILE, ROW_TOO_LONG, ROW_NOT_JSON, COLUMN_MISSING or VALUE_INVALID.
    """
    row = _parse(data)
    numbers = [_number(row, name) for name in preprocessing["numbers"]]
    numbers.extend(_days(row, name) for name in preprocessing.get("dates", ()))
    categories = preprocessing["categories"]
    if isinstance(categories, dict):  # a model version from before: it goes on as it was trained
        for name, values in categories.items():
            got = str(require_value(row, name))
            numbers.extend(float(got == value) for value in values)
        return np.array(numbers, dtype=np.float32)
    for name, values in categories:
        position = category_position(require_value(row, name), values)
        numbers.extend(float(position == index) for index in range(len(values)))
    return np.array(numbers, dtype=np.float32)


def category_position(value: Any, values: Sequence[str]) -> int | None:
    """Return which of the values a cell is, None for none of them: texts as written, 2 and 2.0 as the value 2."""
    if value is None:
        return None
    text = value if isinstance(value, str) else spelled(value)
    if text in values:
        return values.index(text)
    if isinstance(value, str):
        return None
    # A row without declared columns has 1.1 where its file has 1.10, and true where a person writes True.
    guessed = [_guessed(one) for one in values]
    return guessed.index(text) if text in guessed else None


def _guessed(text: str) -> str:
    folded = text.casefold()
    return folded if folded in ("true", "false") else spelled(cell_value(text))


def unmatched_categories(rows: Iterable[bytes], *, preprocessing: Mapping[str, Any]) -> dict[str, Counter[str]]:
    """Return by category how often each value came that is none of its known ones; rows that are none are left out."""
    found: dict[str, Counter[str]] = {}
    categories = preprocessing["categories"]
    for data in rows:
        try:
            row = _parse(data)
        except InputError:
            continue
        for name, values in categories.items() if isinstance(categories, dict) else categories:
            value = row.get(name)
            if value not in (None, "") and category_position(value, values) is None:
                found.setdefault(name, Counter())[shown_cell(value)] += 1
    return found


def row_width(params: Mapping[str, Any]) -> int:
    """Return the length of a decoded row."""
    return len(params["numbers"]) + len(params.get("dates", ())) + sum(map(len, params["categories"].values()))


def _parse(data: bytes) -> dict[str, Any]:
    if not data:
        raise InputError("a row must be a JSON object (got no bytes).", code="EMPTY_FILE")
    if len(data) > MAX_ROW_BYTES:
        raise InputError(f"a row must have at most {MAX_ROW_BYTES} bytes (got {len(data)}).", code="ROW_TOO_LONG")
    try:
        row = json.loads(data)
    except (ValueError, RecursionError):
        raise InputError("a row must be a JSON object (got other bytes).", code="ROW_NOT_JSON") from None
    if not isinstance(row, dict):
        raise InputError(f"a row must be a JSON object (got {type(row).__name__}).", code="ROW_NOT_JSON")
    return row


def _number(row: Mapping[str, Any], name: str) -> float:
    value = require_value(row, name)
    if value is None or value == "":
        return math.nan
    try:
        number = float(value) if isinstance(value, int | float | str) else math.inf
    except (ValueError, OverflowError):
        number = math.inf
    if not abs(number) <= MAX_NUMBER:
        raise InputError(
            f"{name} must be null or a number up to 3.4e38 (got {shown_cell(value)}).", code="VALUE_INVALID"
        )
    return number


def _days(row: Mapping[str, Any], name: str) -> float:
    """Return a date as days since 1970-01-01, a time of a day as their fraction; without a zone it is UTC's."""
    value = require_value(row, name)
    if value is None or value == "":
        return math.nan
    try:
        when = dt.datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        when = None
    if when is None:
        raise InputError(f"{name} must be null or an ISO date (got {shown_cell(value)}).", code="VALUE_INVALID")
    return ((when if when.tzinfo else when.replace(tzinfo=dt.UTC)) - EPOCH) / dt.timedelta(days=1)


def collate_rows(inputs: Sequence[Array]) -> Array:
    """Stack rows into float32 (n, width)."""
    return np.stack(inputs)
