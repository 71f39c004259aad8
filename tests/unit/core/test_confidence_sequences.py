import math

import numpy as np
import pytest

from pipeline_tasks.core.confidence_sequences import Difference, Rate, bounds, compare


def test_before_the_first_trial_nothing_is_known():
    assert bounds(Rate(0, 0), alpha=0.05) == (0.0, 1.0)
    assert math.isnan(Rate(0, 0).share)


def test_bounds_enclose_the_share_and_close_in():
    widths = []
    for size in (10, 100, 1000, 10_000):
        low, high = bounds(Rate(size // 10, size), alpha=0.05)
        assert low < 0.1 < high
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.03


def test_bounds_solve_the_mixture_for_its_limit():
    # One event in one trial: the Jeffreys mixture gives it 1/2, so p is outside when (1/2) / p >= 20.
    low, high = bounds(Rate(1, 1), alpha=0.05)
    assert low == pytest.approx(0.025, abs=1e-8)
    assert high == 1.0
    assert bounds(Rate(0, 1), alpha=0.05) == (0.0, pytest.approx(0.975, abs=1e-8))


def test_events_and_their_absence_are_symmetric():
    low, high = bounds(Rate(3, 40), alpha=0.1)
    mirrored = bounds(Rate(37, 40), alpha=0.1)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-8)


@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_looking_after_every_trial_misses_the_true_rate_at_most_as_often_as_stated(rate):
    rng = np.random.default_rng(5)
    alpha, num_streams, num_trials = 0.1, 200, 300
    missed = 0
    for stream in rng.random((num_streams, num_trials)) < rate:
        events = np.cumsum(stream)
        looks = (bounds(Rate(int(n), i), alpha=alpha) for i, n in enumerate(events, start=1) if i % 10 == 0 or i < 20)
        missed += any(not low <= rate <= high for low, high in looks)
    assert missed / num_streams <= alpha + 2 * math.sqrt(alpha * (1 - alpha) / num_streams)


def test_a_difference_holds_what_both_rates_allow():
    difference = compare(Rate(80, 1000), Rate(10, 1000), alpha=0.05)
    assert difference.difference == pytest.approx(0.07)
    assert 0 < difference.low < 0.07 < difference.high
    back = compare(Rate(10, 1000), Rate(80, 1000), alpha=0.05)
    assert back == Difference(-difference.difference, -difference.high, -difference.low)


def test_equal_rates_are_never_told_apart():
    difference = compare(Rate(50, 1000), Rate(50, 1000), alpha=0.05)
    assert difference.low < 0 < difference.high


@pytest.mark.parametrize("counts", [(-1, 3), (4, 3), (1, 0)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="num_events must be 0 to num_trials"):
        Rate(*counts)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1])
def test_an_alpha_that_is_no_chance_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1"):
        bounds(Rate(1, 2), alpha=alpha)
