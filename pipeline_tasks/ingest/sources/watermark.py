"""The position of a query: the greatest value of its watermark column, and when everything was read last. Pure.

Times and dates, also those that are ISO texts, are read again from `OVERLAP` before the greatest on: what is committed
late is seen. Numbers and other texts are read from the greatest on, itself included. What neither can know (a row that
is committed later, a number taken out of turn, a clock set back) is found by reading everything every `SWEEP_EVERY`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

from pipeline_tasks.errors import InputError
from pipeline_tasks.ingest.sources.tables import Row

OVERLAP = dt.timedelta(seconds=120)
SWEEP_EVERY = dt.timedelta(hours=24)
ZONES = dt.timedelta(hours=14)  # by so much a local time without a zone may be ahead of UTC
_ISO = re.compile(r"\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d)?.*)?", re.DOTALL)
_UNASKED = re.compile("[\0\ud800-\udfff]")


@dataclasses.dataclass(frozen=True, slots=True)
class SqlCursor:
    """The beginning of a query's next reading."""

    watermark: Any = None
    swept_at: dt.datetime | None = None

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Self:
        """Return the cursor of its JSON; one of a version that did not read everything daily does so now."""
        swept_at = value.get("swept_at")
        return cls(
            decode_watermark(value["watermark"]), None if swept_at is None else dt.datetime.fromisoformat(swept_at)
        )

    def as_json(self) -> dict[str, Any]:
        swept_at = None if self.swept_at is None else self.swept_at.isoformat()
        return {"watermark": encode_watermark(self.watermark), "swept_at": swept_at}

    def is_due(self, now: dt.datetime) -> bool:
        """Tell whether everything is to be read: for the first time, or again."""
        if self.watermark is None or self.swept_at is None:
            return True
        return not self.swept_at <= now < self.swept_at + SWEEP_EVERY

    def is_ahead(self, source_now: dt.datetime) -> bool:
        """Tell whether the watermark is later than the source's now: its clock was set back."""
        moment = _moment(self.watermark)
        return moment is not None and moment > source_now

    def since(self) -> Any:
        """Return the value from which on rows are read."""
        value = self.watermark
        try:
            if isinstance(value, dt.datetime):
                return value - OVERLAP
            if isinstance(value, dt.date):
                return value - dt.timedelta(days=1)
            if isinstance(value, str) and (moment := _of_text(value)) is not None:
                early = (moment - OVERLAP).replace(tzinfo=None).isoformat(sep=value[10:11] or "T", timespec="seconds")
                return early[: len(value)]
        except OverflowError:
            pass
        return value


class RowSource(Protocol):
    """A place with rows that are read from a cursor on; the three members say how the reading went."""

    cursor: SqlCursor
    is_whole: bool
    warnings: list[str]

    def rows(
        self, *, columns: Sequence[str], cursor: SqlCursor, now: dt.datetime, also: Sequence[str] = ()
    ) -> Iterator[Row]: ...


class KindChangedError(Exception):
    """The watermark column holds another kind of value than before."""


class Greatest:
    """The greatest value so far that is not later than the source's now (UTC, without a zone)."""

    def __init__(self, source_now: dt.datetime, *, start: Any = None) -> None:
        self._now = source_now
        self._has_start = start is not None
        self._kind = None if start is None else kind_of(start)
        self._value = start if self._kind != "text" or _of_text(start) is not None else None
        self._word: str | None = start if self._kind == "text" and self._value is None else None
        self.num_ahead = 0
        self.is_mixed = False

    def add(self, value: Any) -> None:
        """Take the value of one row.

        Raises:
            KindChangedError: it cannot be compared with the value of the last reading.
            InputError: WATERMARK_INVALID.
        """
        kind = kind_of(value)
        if kind is None:
            return
        if self._kind not in (None, kind):
            if self._has_start:
                raise KindChangedError
            self.is_mixed = True
            return
        self._kind = kind
        moment = _moment(value)
        if moment is not None and moment > self._now:
            self.num_ahead += moment > self._now + ZONES
        elif kind == "text" and moment is None:
            self._word = value if self._word is None else max(self._word, value)
        elif self._value is None or value > self._value:
            self._value = value

    @property
    def value(self) -> Any:
        """The greatest value; of texts a time, as long as there is one."""
        return self._word if self._value is None else self._value

    @property
    def is_empty(self) -> bool:
        """Tell whether there was no value yet that can be compared."""
        return self._kind is None

    @property
    def is_word(self) -> bool:
        return self._value is None and self._word is not None


def kind_of(value: Any) -> str | None:
    """Return what a value can be compared with; None for no value (NULL, NaN, infinity, what cannot be read).

    Raises:
        InputError: WATERMARK_INVALID: it has no order that databases and we share.
    """
    if isinstance(value, dt.datetime):
        return "time" if value.tzinfo is None else "time with zone"
    if isinstance(value, dt.date):
        return "date"
    if isinstance(value, str):  # what is no UTF-8 cannot be asked for, nor a NUL be stored
        return None if _UNASKED.search(value) else "text"
    if isinstance(value, int | float | decimal.Decimal):
        return "number" if math.isfinite(value) else None
    if value is None or isinstance(value, tuple):
        return None
    raise InputError(
        f"watermark_column must hold times, dates, numbers or texts (got {type(value).__name__}). "
        "Correct the value, or choose another column.",
        code="WATERMARK_INVALID",
    )


def encode_watermark(value: Any) -> Any:
    """Return a watermark as JSON that `decode_watermark` turns back into the same value."""
    if isinstance(value, dt.datetime):
        return {"type": "datetime", "value": value.isoformat()}
    if isinstance(value, dt.date):
        return {"type": "date", "value": value.isoformat()}
    if isinstance(value, decimal.Decimal):
        return {"type": "decimal", "value": str(value)}
    return {"type": "plain", "value": value}


def decode_watermark(encoded: Any) -> Any:
    """Return the value of an encoded watermark; None for none."""
    if encoded is None:
        return None
    parsers: dict[str, Callable[[Any], Any]] = {
        "datetime": dt.datetime.fromisoformat,
        "date": dt.date.fromisoformat,
        "decimal": decimal.Decimal,
        "plain": lambda value: value,
    }
    return parsers[encoded["type"]](encoded["value"])


def as_utc(value: dt.datetime) -> dt.datetime:
    """Return a time in UTC without its zone; one without a zone is taken for UTC."""
    if value.tzinfo is None:
        return value
    try:
        return value.astimezone(dt.UTC).replace(tzinfo=None)
    except OverflowError:
        return value.replace(tzinfo=None)


def _moment(value: Any) -> dt.datetime | None:
    if isinstance(value, str):
        value = _of_text(value)
    if isinstance(value, dt.datetime):
        return as_utc(value)
    return dt.datetime.combine(value, dt.time()) if isinstance(value, dt.date) else None


def _of_text(text: str) -> dt.datetime | None:
    if not _ISO.fullmatch(text):
        return None
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError:
        return None
