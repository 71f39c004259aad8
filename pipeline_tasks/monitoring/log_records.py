"""One record of the prediction log as it must be: whoever wrote it, what the catalog is given can be stored."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping
from typing import Any

from pipeline_tasks.errors import InputError
from pipeline_tasks.guards.row import CONTROL

MAX_TEXT_BYTES = 1024
FIRST_YEAR = 2000
MAX_AHEAD = dt.timedelta(days=1)  # of the clock of who reads
RECORD_AHEAD = "RECORD_AHEAD"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def invalid(name: str, expected: str, value: Any) -> InputError:
    """Return what is said of a field of a record."""
    return InputError(f"{name} must be {expected} (got {ascii(value)[:60]}).", code="RECORD_INVALID")


def text_of(row: Mapping[str, Any], name: str) -> str:
    """Return a text that every database takes.

    Raises:
        InputError: RECORD_INVALID.
    """
    value = row[name]
    if not isinstance(value, str) or not _is_storable(value):
        raise invalid(name, f"a text of 1 to {MAX_TEXT_BYTES:,} bytes without control characters", value)
    return value


def optional_text_of(row: Mapping[str, Any], name: str) -> str | None:
    """Return a text that every database takes, or None where there is none."""
    return None if row[name] is None else text_of(row, name)


def share_of(row: Mapping[str, Any], name: str) -> float:
    """Return a number from 0 to 1; 1 also for what rounding has put a little above."""
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise invalid(name, "a finite number", value)
    if not 0 <= value <= 1 + 1e-6:
        raise invalid(name, "a number from 0 to 1", value)
    return min(float(value), 1.0)


def digest_of(row: Mapping[str, Any], name: str) -> str:
    """Return a SHA-256 in hexadecimal."""
    value = row[name]
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise invalid(name, "a SHA-256 in hexadecimal", value)
    return value


def flag_of(row: Mapping[str, Any], name: str) -> bool:
    """Return a truth value, false where there is none."""
    value = row[name]
    if value is not None and not isinstance(value, bool):
        raise invalid(name, "true or false", value)
    return bool(value)


def time_of(row: Mapping[str, Any], name: str, *, now: dt.datetime) -> dt.datetime:
    """Return a time, UTC, that has come for the clock of who reads; UTC milliseconds since 1970 in the record."""
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(name, "milliseconds since 1970", value)
    try:
        at = dt.datetime.fromtimestamp(value / 1000, dt.UTC)
    except (OverflowError, ValueError, OSError):
        raise invalid(name, "milliseconds since 1970", value) from None
    if at.year < FIRST_YEAR:
        raise invalid(name, f"a time from {FIRST_YEAR} on", value)
    if at > now + MAX_AHEAD:
        raise InputError(
            f"{name} must be at most a day after now (got {at.isoformat()}). "
            "Look at the clocks of this machine and of the gateway's.",
            code=RECORD_AHEAD,
        )
    return at


def _is_storable(value: str) -> bool:
    try:
        return 0 < len(value.encode()) <= MAX_TEXT_BYTES and CONTROL.search(value) is None
    except UnicodeEncodeError:
        return False
