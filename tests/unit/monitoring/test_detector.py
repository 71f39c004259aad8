"""The alarm of live quality: what the evidence is, and that its budget holds."""

import datetime as dt

import numpy as np
import pytest
from scipy import stats

from pipeline_tasks.monitoring import detector
from pipeline_tasks.monitoring.detector import ExamCount
from tests.unit.monitoring.builders import NOW


def last(rights, *, bound=0.9, level=1e300, weights=None):
    values = list(detector.evidence(zip(rights, weights or [1.0] * len(rights), strict=True), bound=bound, level=level))
    return values[-1]


def test_the_evidence_is_the_mean_of_likelihood_ratios_that_add_up():
    """By hand: at 0.9 a wrong answer is 0.15, 0.2, 0.3 over 0.1, a right one 0.85, 0.8, 0.7 over 0.9."""
    assert last([False]) == pytest.approx((1.5 + 2 + 3) / 3)
    assert last([True]) == pytest.approx((0.85 + 0.8 + 0.7) / 0.9 / 3)
    expected = sum((r + 1) * w for r, w in zip((0.85 / 0.9, 0.8 / 0.9, 0.7 / 0.9), (1.5, 2, 3), strict=True)) / 3
    assert last([True, False]) == pytest.approx(expected)


@pytest.mark.parametrize("bound", [0.03, 0.5, 0.9, 0.999])
def test_at_the_bound_the_evidence_grows_by_one_an_audit_on_average(bound):
    """M(t) - t is a martingale at the bound, exactly: over all sequences of six answers."""
    mean = sum(
        last([bool(bits >> i & 1) for i in range(6)], bound=bound)
        * bound ** (ones := bits.bit_count())
        * (1 - bound) ** (6 - ones)
        for bits in range(64)
    )
    assert mean == pytest.approx(6)


def test_a_level_of_five_years_is_seldom_reached_and_a_drop_soon():
    random = np.random.default_rng(1)
    level = detector.alarm_level(1_000, false_alarms_a_year=0.2)
    assert level == 5_000
    reached = [
        max(detector.evidence(((x < 0.9, 1.0) for x in random.random(1_000)), bound=0.9, level=level)) >= level
        for _ in range(200)
    ]
    assert sum(reached) / 200 <= 0.2
    dropped = [last((random.random(200) < 0.7).tolist(), level=level) >= level for _ in range(50)]
    assert sum(dropped) == 50


def test_an_alarm_ends_some_time_after_the_drop_does():
    level = 1_000.0
    wrong, right = [False] * 500, [True] * 100
    assert last(wrong, level=level) == detector.CAP * level
    assert last(wrong + right, level=level) < level


def test_light_answers_move_the_evidence_less():
    heavy, light = last([True, False], weights=[10.0, 10.0]), last([True, False], weights=[10.0, 1.0])
    assert light < heavy
    assert last([True, False], weights=[1.0, 10.0]) == pytest.approx(last([True, False]))  # and none by more than once


def test_the_bound_is_jeffreys():
    exam = ExamCount(90, 100)
    assert exam.accuracy == 0.9
    assert stats.beta.cdf(exam.lower_bound, 90.5, 10.5) == pytest.approx(0.1)
    assert ExamCount(0, 100).lower_bound == 0.0
    assert 0.98 < ExamCount(100, 100).lower_bound < 1


@pytest.mark.parametrize(
    ("days", "last_day", "expected"),
    [
        ([], 0, 0.0),
        ([0, 0, 0], 0, 3 * 365 / 7),  # an hour is not a year's average hour
        ([0, 70, 139], 140, 3 * 365 / 140),
        ([0, 300, 400, 500], 600, 3 * 365 / 300),  # 0 is more than a year ago
    ],
)
def test_audits_a_year(days, last_day, expected):
    times = [NOW + dt.timedelta(days=day) for day in days]
    assert detector.audits_a_year(times, now=NOW + dt.timedelta(days=last_day)) == pytest.approx(expected)
