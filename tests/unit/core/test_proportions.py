"""Exact values, from the papers' own examples or counted by hand."""

import itertools

import pytest
from scipy import stats

from pipeline_tasks.core.proportions import wilson_interval


def test_wilson_interval_matches_the_published_example():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3: 81 of 263.
    interval = wilson_interval(81, 263)
    assert interval.estimate == pytest.approx(81 / 263)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)


def test_wilson_interval_is_exact_at_both_ends():
    none, every = wilson_interval(0, 20), wilson_interval(20, 20)
    assert (none.low, round(none.high, 4)) == (0.0, 0.1611)
    assert (round(every.low, 4), every.high) == (0.8389, 1.0)


def test_wilson_interval_without_trials_is_not_a_number():
    assert not wilson_interval(0, 0).is_finite


def test_wilson_interval_widens_with_confidence():
    narrow, wide = (wilson_interval(8, 10, confidence=c) for c in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99, 0.9999])
def test_wilson_interval_is_that_of_scipy_where_it_has_one(confidence):
    """Whole counts only: scipy's knows no weighted trials (ADR 30)."""
    for num_trials, part in itertools.product([1, 2, 3, 7, 30, 100, 9_999, 10**6], [0, 0.01, 0.3, 0.5, 0.999, 1]):
        num_successes = round(part * num_trials)
        interval = wilson_interval(num_successes, num_trials, confidence=confidence)
        other = stats.binomtest(num_successes, num_trials).proportion_ci(confidence, method="wilson")
        assert (interval.low, interval.high) == pytest.approx((other.low, other.high), rel=0, abs=1e-12)
