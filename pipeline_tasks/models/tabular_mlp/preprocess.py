"""From a JSON row to numbers; shared by training, evaluation and the gateway. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline_tasks.errors import InputError
from pipeline_tasks.models.base import Array

MAX_ROW_BYTES = 1_000_000
MAX_NUMBER = float(np.finfo(np.float32).max)


def decode_row(data: bytes, *, preprocessing: Mapping[str, Any]) -> Array:
    """Return the row as float32 (width,): numbers (NaN where missing), then one column per known category value.

    Raises:
        InputError: EMPTY_FILE, ROW_TOO_LONG, ROW_NOT_JSON, COLUMN_MISSING or VALUE_INVALID.
    """
    row = _parse(data)
    numbers = [_number(row, name) for name in preprocessing["numbers"]]
    for name, values in preprocessing["categories"].items():
        got = str(_value(row, name))
        numbers.extend(float(got == value) for value in values)
    return np.array(numbers, dtype=np.float32)


def row_width(preprocessing: Mapping[str, Any]) -> int:
    """Return the length of a decoded row."""
    return len(preprocessing["numbers"]) + sum(len(values) for values in preprocessing["categories"].values())


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


def _value(row: Mapping[str, Any], name: str) -> Any:
    if name not in row:
        raise InputError(f"{name} must be a column of the row (got none of that name).", code="COLUMN_MISSING")
    return row[name]


def _number(row: Mapping[str, Any], name: str) -> float:
    value = _value(row, name)
    if value is None or value == "":
        return math.nan
    try:
        number = float(value) if isinstance(value, int | float | str) else math.inf
    except (ValueError, OverflowError):
        number = math.inf
    if not abs(number) <= MAX_NUMBER:
        raise InputError(
            f"{name} must be null or a number up to 3.4e38 (got {str(value)[:60]!r}).", code="VALUE_INVALID"
        )
    return number


def collate_rows(inputs: Sequence[Array]) -> Array:
    """Stack rows into float32 (n, width)."""
    return np.stack(inputs)
