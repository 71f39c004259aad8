"""The reading of a table's cell: one canonical JSON value, whatever container the cell came in.

A CSV file has texts, a Parquet file and a database have typed values, JSON lines and a request have JSON values. By the
column's declared type all of them are the same value with one spelling, and that spelling reads back as itself.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import math
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NoReturn, cast, get_args

from pipeline_tasks.contracts import canonical_json
from pipeline_tasks.errors import InputError
from pipeline_tasks.guards.row import MAX_INTEGER, guard_string, is_nothing, require_value

ColumnType = Literal["number", "decimal", "category", "text", "date", "boolean"]
Cell = str | int | float | bool | None
MAX_DIGITS = 100
NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?")
_ISO_DAY, _ISO_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}", r"[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)?"
_ISO = re.compile(rf"{_ISO_DAY}(?:[T ]{_ISO_TIME}(?:Z|[+-][0-9]{{2}}:?[0-9]{{2}})?)?")
_TRUE = frozenset(("true", "t", "yes", "y", "on", "1"))
_FALSE = frozenset(("false", "f", "no", "n", "off", "0"))
_EXPECTED: Mapping[ColumnType, str] = {
    "number": "a finite number, such as 2.5",
    "decimal": f"a decimal number of at most {MAX_DIGITS} digits, such as 2.50",
    "category": "a text, a number, true, false or a date",
    "text": "a text, a number, true, false or a date",
    "date": "a date of the years 1 to 9999, such as 2026-01-31 or 2026-01-31T09:30:00Z",
    "boolean": "true or false (yes, no, 1 and 0 are read too)",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A declared column: how its cells are read. `missing` are the spellings of no value beside the empty text."""

    name: str
    type: ColumnType
    missing: frozenset[str] = frozenset()
    format: str | None = None
    unit: str | None = None


def columns_of(documents: Iterable[Mapping[str, Any]]) -> tuple[Column, ...]:
    """Return columns from their JSON form, as project.yaml and a route have it."""
    return tuple(_column(document) for document in documents)


def read_row(row: Mapping[str, Any], *, columns: Sequence[Column], max_characters: int) -> dict[str, Cell]:
    """Return exactly the declared columns of a row as canonical JSON values; other fields of the row are no part of it.

    Raises:
        InputError: COLUMN_MISSING, ROW_EMPTY, or what `read_cell` raises.
    """
    names = [column.name for column in columns]
    cells = {
        column.name: read_cell(require_value(row, column.name), column, max_characters=max_characters)
        for column in columns
    }
    if all(value is None for value in cells.values()):
        raise InputError(f"a row must have a value in {', '.join(names[:10])} (got none).", code="ROW_EMPTY")
    return cells


def row_content(row: Mapping[str, Any], *, columns: Sequence[Column], max_characters: int) -> bytes:
    """Return the content of a row, the bytes of its item: `read_row` as canonical JSON.

    Raises:
        InputError: what `read_row` raises.
    """
    return canonical_json(read_row(row, columns=columns, max_characters=max_characters))


def read_cell(value: Any, column: Column, *, max_characters: int = 1_000_000) -> Cell:
    """Return a cell's canonical JSON value, None where there is none (NULL, NaN, empty, a spelling of `missing`).

    Raises:
        InputError: VALUE_INVALID, VALUE_TYPE, VALUE_TOO_LONG, TEXT_NOT_UTF8 or TEXT_CONTROL_CHARACTER.
    """
    if is_nothing(value):
        return None
    if isinstance(value, str):
        guard_string(value, column=column.name, max_characters=max_characters)
        text = value if column.type in ("text", "category") else value.strip()
        if text == "" or text in column.missing:
            return None
        value = text
    elif not isinstance(value, bool | int | float | decimal.Decimal | dt.datetime | dt.date | dt.time | uuid.UUID):
        _refuse(type(value).__name__, column, code="VALUE_TYPE")
    cell = _READERS[column.type](value, column)
    return None if spelled(cell) in column.missing else cell


def json_fraction(text: str) -> decimal.Decimal | float:
    """Return a JSON number with a fraction or an exponent, exactly: `parse_float` of whoever reads rows."""
    try:
        return decimal.Decimal(text)
    except decimal.InvalidOperation:  # an exponent of twenty digits
        return float(text)


def spelled(value: Any) -> str:
    """Return the one spelling of a typed value as a text: true; 2 for 2 and 2.0; 7.1 for Decimal("7.10")."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dt.datetime | dt.date):
        return _spelled_date(value)
    if isinstance(value, float | decimal.Decimal):
        return _plain(value) or str(value)
    return value.isoformat() if isinstance(value, dt.time) else str(value)


def _column(document: Mapping[str, Any]) -> Column:
    if document["type"] not in get_args(ColumnType):
        raise ValueError(f"type must be one of {', '.join(get_args(ColumnType))} (got {document['type']!r}).")
    kind = cast("ColumnType", document["type"])
    column = Column(str(document["name"]), kind, format=document.get("format"), unit=document.get("unit"))
    missing = frozenset(document.get("missing") or ())
    if kind not in ("text", "category"):  # their cells are read without the blanks around them
        missing = frozenset(text.strip() for text in missing)
    if kind in ("number", "decimal", "date"):  # -999, -999.0 and the number -999 are one spelling; so are dates
        missing |= {text for text in (_spelling(text, column) for text in missing) if text is not None}
    return dataclasses.replace(column, missing=missing)


def _spelling(text: str, column: Column) -> str | None:
    """Return the spelling of a value that is written like this; None where it is none of the column's type."""
    try:
        return spelled(_READERS[column.type](text, column))
    except InputError:
        return None


def _number(value: Any, column: Column) -> Cell:
    if isinstance(value, str) and NUMBER.fullmatch(value):
        value = decimal.Decimal(value)
    if isinstance(value, bool) or not isinstance(value, int | float | decimal.Decimal):
        _refuse(value, column)
    number = _whole_or_float(value)
    if not math.isfinite(number):
        _refuse(value, column)
    return number


def _whole_or_float(value: float | decimal.Decimal) -> int | float:
    """Return a whole number of 64 bits as an integer, exactly; anything else as a float.

    A float beyond 2 ** 53 is the number that its shortest text says, since a file has that text.
    """
    exact: float | decimal.Decimal = value
    if isinstance(value, float) and abs(value) >= 2**53:
        exact = decimal.Decimal(repr(value))
    if -MAX_INTEGER <= exact <= MAX_INTEGER and int(exact) == exact:
        return int(exact)
    try:
        number = float(value)
    except OverflowError:
        return math.inf
    return int(number) if number.is_integer() and abs(number) <= MAX_INTEGER else number


def _decimal(value: Any, column: Column) -> Cell:
    if isinstance(value, bool) or (isinstance(value, str) and not NUMBER.fullmatch(value)):
        _refuse(value, column)
    if not isinstance(value, str | int | float | decimal.Decimal):
        _refuse(value, column)
    text = _plain(value)
    return text if text is not None else _refuse(value, column)


def _plain(value: str | float | decimal.Decimal) -> str | None:
    """Return a number digit by digit, without exponent and closing zeros; None where it is too long or not finite."""
    exact = decimal.Decimal(repr(value) if isinstance(value, float) else value)
    if not exact.is_finite() or (exact and not -MAX_DIGITS <= exact.adjusted() <= MAX_DIGITS):
        return None
    text = format(exact, "f")
    if "." in text:
        text = text.rstrip("0").removesuffix(".")
    if len(text) > 2 * MAX_DIGITS:
        return None
    return "0" if not exact else text


def _text(value: Any, column: Column) -> Cell:
    try:
        return value if isinstance(value, str) else spelled(value)
    except (OverflowError, ValueError):  # a time whose day in UTC is none of the years 1 to 9999
        _refuse(value, column)


def _date(value: Any, column: Column) -> Cell:
    if isinstance(value, str):
        found = _parsed_date(value, column.format)
        if found is None:
            _refuse(value, column)
        value = found
    if not isinstance(value, dt.datetime | dt.date):
        _refuse(value, column)
    try:
        return _spelled_date(value)
    except (OverflowError, ValueError):
        _refuse(value, column)


def _parsed_date(text: str, form: str | None) -> dt.datetime | None:
    if form is not None:
        try:
            return dt.datetime.strptime(text, form)  # noqa: DTZ007  (a format with %z gives an aware one)
        except ValueError:
            pass  # ISO is always read: it is the spelling of what was read before
    try:
        return dt.datetime.fromisoformat(text) if _ISO.fullmatch(text) else None
    except ValueError:
        return None


def _spelled_date(value: dt.date) -> str:
    """Return a day, or a time of a day; midnight without a zone is a day: many containers know no days."""
    if not isinstance(value, dt.datetime):
        return value.isoformat()
    if value.tzinfo is not None:
        return dt.datetime.isoformat(value.astimezone(dt.UTC)).removesuffix("+00:00") + "Z"
    text = dt.datetime.isoformat(value)
    return text.removesuffix("T00:00:00")


def _boolean(value: Any, column: Column) -> Cell:
    text = str(_text(value, column)).lower()
    return text in _TRUE if text in _TRUE | _FALSE else _refuse(value, column)


def _refuse(value: Any, column: Column, *, code: str = "VALUE_INVALID") -> NoReturn:
    unit = f" in {column.unit}" if column.unit else ""
    form = f", or as {column.format} says" if column.format else ""
    raise InputError(
        f"{column.name} must be {_EXPECTED[column.type]}{unit}{form} (got {shown_cell(value)}). Correct it, or add it "
        f"to `missing` of this column in project.yaml where it means that there is no value.",
        code=code,
    )


def shown_cell(value: Any) -> str:
    """Return a cell for a message: ASCII, on one line, not too long."""
    text = ascii(value) if isinstance(value, str) else ascii(str(value))[1:-1]
    return text if len(text) <= 60 else f"{text[:57]}..."


_READERS: Mapping[ColumnType, Callable[[Any, Column], Cell]] = {
    "number": _number,
    "decimal": _decimal,
    "category": _text,
    "text": _text,
    "date": _date,
    "boolean": _boolean,
}
