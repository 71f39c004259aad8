"""Lets only rows with the asked-for columns and plain, finite values in."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline_tasks.errors import InputError

MAX_INTEGER = 2**63 - 1
MAX_NAME_BYTES = 1024
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NUMBER = re.compile(r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$")
_NOT_FINITE = frozenset(("nan", "+nan", "-nan", "inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"))


def guard_row(row: Mapping[str, Any], *, columns: Sequence[str], max_characters: int) -> dict[str, Any]:
    """Return the named columns as JSON values: text, whole or finite number, true, false or null.

    Raises:
        InputError: COLUMN_MISSING, NOT_FINITE, NUMBER_TOO_LARGE, VALUE_TOO_LONG, VALUE_TYPE, TEXT_NOT_UTF8,
            TEXT_CONTROL_CHARACTER, COLUMN_NAME_INVALID or ROW_EMPTY.
    """
    check_names(columns)
    values = {
        column: _guard_value(require_value(row, column), column=column, max_characters=max_characters)
        for column in columns
    }
    if all(value is None or value == "" for value in values.values()):
        raise InputError(f"a row must have a value in {', '.join(columns[:10])} (got none).", code="ROW_EMPTY")
    return values


def require_value(row: Mapping[str, Any], column: str) -> Any:
    """Return a row's value in a column.

    Raises:
        InputError: COLUMN_MISSING.
    """
    if column not in row:
        raise InputError(f"{column} must be a column of the row (got none of that name).", code="COLUMN_MISSING")
    return row[column]


def check_names(names: Iterable[str]) -> None:
    """Refuse a column's name that a catalog, a log or a terminal does not take.

    Raises:
        InputError: COLUMN_NAME_INVALID.
    """
    for name in names:
        try:
            is_bad = len(name.encode()) > MAX_NAME_BYTES or bool(CONTROL.search(name))
        except UnicodeEncodeError:
            is_bad = True
        if is_bad:
            raise InputError(
                f"a column's name must be UTF-8 text of at most {MAX_NAME_BYTES:,} bytes without control characters "
                f"(got {ascii(name)[:60]}). Rename it.",
                code="COLUMN_NAME_INVALID",
            )


def is_nothing(value: Any) -> bool:
    """Tell whether a typed cell has no value: NULL, NaN, or what pandas has in their place."""
    if value is None or type(value).__name__ in ("NaTType", "NAType"):
        return True
    if isinstance(value, decimal.Decimal):
        return value.is_nan()
    return isinstance(value, float) and math.isnan(value)


def cell_value(text: str) -> Any:
    """Return what a CSV cell means: a number in JSON's spelling, nothing, or the text itself (`007`, `=1+1`)."""
    if text == "":
        return None
    if not _NUMBER.match(text):
        return math.nan if text.lower() in _NOT_FINITE else text
    if text.lstrip("-").isdigit():
        return int(text) if len(text) < 20 and abs(int(text)) <= MAX_INTEGER else text
    return float(text)


def _guard_value(value: Any, *, column: str, max_characters: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise InputError(f"{column} must fit into 64 bits (got a larger number).", code="NUMBER_TOO_LARGE")
        return value
    if isinstance(value, float | decimal.Decimal):
        return _guard_float(value, column=column)
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, str):
        return guard_string(value, column=column, max_characters=max_characters)
    raise InputError(
        f"{column} must be a text, a number, true, false or null (got {type(value).__name__}).", code="VALUE_TYPE"
    )


def _guard_float(value: float | decimal.Decimal, *, column: str) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise InputError(f"{column} must be a finite number (got {number}).", code="NOT_FINITE")
    return number + 0.0  # -0.0 and 0.0 are one value and get one content id


def guard_string(value: str, *, column: str, max_characters: int) -> str:
    """Return a text that every store takes.

    Raises:
        InputError: VALUE_TOO_LONG, TEXT_NOT_UTF8 or TEXT_CONTROL_CHARACTER.
    """
    if len(value) > max_characters:
        raise InputError(
            f"{column} must have at most {max_characters:,} characters (got {len(value):,}).", code="VALUE_TOO_LONG"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{column} must be valid UTF-8 (got a bad byte).", code="TEXT_NOT_UTF8") from None
    if "\0" in value:
        raise InputError(f"{column} must have no NUL character (got one).", code="TEXT_CONTROL_CHARACTER")
    return value
