"""The beginning of a query's next reading."""

import datetime as dt
import decimal

import pytest

from pipeline_tasks.ingest.sources.watermark import Greatest, KindChangedError, SqlCursor

NOW = dt.datetime(2026, 1, 10, 12, tzinfo=dt.UTC)
NAIVE = NOW.replace(tzinfo=None)
DAY = dt.timedelta(days=1)


@pytest.mark.parametrize(
    ("watermark", "since"),
    [
        (NOW, NOW - dt.timedelta(seconds=120)),
        (NAIVE, NAIVE - dt.timedelta(seconds=120)),
        (dt.datetime(1, 1, 1), dt.datetime(1, 1, 1)),  # noqa: DTZ001
        (NOW.date(), NOW.date() - DAY),
        ("2026-01-10", "2026-01-09"),
        ("2026-01-10 12:00", "2026-01-10 11:58"),
        ("2026-01-10T12:00:00.5Z", "2026-01-10T11:58:00"),
        ("2026-01-10 12:00:00+09:00", "2026-01-10 11:58:00"),
        ("0001-01-01", "0001-01-01"),
        ("2026-13-01", "2026-13-01"),
        ("day 9", "day 9"),
        (7, 7),
        (decimal.Decimal("7.5"), decimal.Decimal("7.5")),
    ],
)
def test_times_are_read_again_from_a_little_before(watermark, since):
    cursor = SqlCursor(watermark, NOW)
    assert cursor.since() == since
    assert SqlCursor.parse(cursor.as_json()) == cursor


@pytest.mark.parametrize(
    ("cursor", "is_due"),
    [
        (SqlCursor(), True),
        (SqlCursor(5, None), True),
        (SqlCursor(None, NOW), True),
        (SqlCursor(5, NOW), False),
        (SqlCursor(5, NOW - DAY + dt.timedelta(seconds=1)), False),
        (SqlCursor(5, NOW - DAY), True),
        (SqlCursor(5, NOW + dt.timedelta(seconds=1)), True),
    ],
)
def test_everything_is_read_daily(cursor, is_due):
    assert cursor.is_due(NOW) is is_due


@pytest.mark.parametrize(
    ("values", "greatest", "num_ahead"),
    [
        ([1, 3, 2, float("nan"), decimal.Decimal("NaN"), float("inf"), None], 3, 0),
        ([NAIVE - DAY, NAIVE + dt.timedelta(hours=9), NAIVE + DAY], NAIVE - DAY, 1),
        ([NOW - DAY, dt.datetime.max.replace(tzinfo=dt.timezone(dt.timedelta(hours=-9)))], NOW - DAY, 1),
        ([NOW.date(), dt.date(2062, 1, 1)], NOW.date(), 1),
        (["2026-01-09", "2062-01-01", "infinity"], "2026-01-09", 1),
        (["b", "a"], "b", 0),
        ([], None, 0),
    ],
)
def test_the_greatest_value_is_not_of_the_future(values, greatest, num_ahead):
    watermark = Greatest(NAIVE)
    for value in values:
        watermark.add(value)
    assert (watermark.value, watermark.num_ahead, watermark.is_mixed) == (greatest, num_ahead, False)


def test_another_kind_than_before_is_told_and_a_mixture_has_no_greatest():
    before = Greatest(NAIVE, start="2026-01-01")
    with pytest.raises(KindChangedError):
        before.add(NAIVE)
    mixed = Greatest(NAIVE)
    mixed.add(5)
    mixed.add("5")
    assert mixed.is_mixed
