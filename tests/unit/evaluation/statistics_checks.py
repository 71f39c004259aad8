"""The promises of the statistics of the gate, as functions of their modules: comparisons, groups, budget, power."""

import dataclasses
import datetime as dt
import math

import numpy as np
import pytest

from tests.unit.evaluation import support as s

NUM_ITEMS = 300
TRUTH = np.arange(NUM_ITEMS) % 2
BETTER = np.where(np.arange(NUM_ITEMS) < 20, 1 - TRUTH, TRUTH)
WORSE = np.where(np.arange(NUM_ITEMS) < 80, 1 - TRUTH, TRUTH)


def statistics_know_who_is_better(statistics):
    right, wrong = BETTER == TRUTH, WORSE == TRUTH
    won, lost = (statistics.compare_accuracy(*pair, alpha=0.03) for pair in ((right, wrong), (wrong, right)))
    assert (won.difference, won.num_wins, won.num_losses) == (0.2, 60, 0)
    assert won.p_value < 1e-9
    assert lost.p_value == 1.0
    assert 0 < won.low < won.difference
    assert lost.low < lost.difference < 0


def statistics_know_who_is_better_by_f1(statistics):
    won, lost = (
        statistics.compare_macro_f1(TRUTH, *pair, num_classes=2, alpha=0.03, seed=1, num_resamples=500)
        for pair in ((BETTER, WORSE), (WORSE, BETTER))
    )
    assert won.difference == pytest.approx(0.2, abs=1e-3)
    assert won.p_value < 1e-3
    assert lost.p_value > 0.999
    assert 0 < won.low < won.difference
    assert lost.low < lost.difference < 0


def statistics_count_a_tie_as_no_gain(statistics):
    tied = np.ones(NUM_ITEMS, dtype=bool)
    assert statistics.compare_accuracy(tied, tied, alpha=0.03).p_value == 1.0
    same = statistics.compare_macro_f1(TRUTH, WORSE, WORSE, num_classes=2, alpha=0.03, seed=1, num_resamples=50)
    assert same.p_value == 1.0


def statistics_show_a_gain(statistics):
    assert statistics.shows_gain(s.gain(0.05, low=0.03, p=0.0001), min_gain=0)
    assert not statistics.shows_gain(s.gain(0.05, low=0.03, p=0.2), min_gain=0)
    assert not statistics.shows_gain(s.gain(-0.05, p=0.0001), min_gain=0)
    assert not statistics.shows_gain(s.gain(0.05, low=0.0199, high=0.08), min_gain=0.02)
    assert statistics.shows_gain(s.gain(0.05, low=0.03), min_gain=0.02)


def compared_in_groups(groups, *, size=10):
    """Return champion and contender that differ by whole groups of items: 12 groups won, 4 lost, of 30."""
    winners = np.repeat(np.arange(30) % 15 < 6, size)
    losers = np.repeat(np.arange(30) % 15 >= 13, size)
    both = np.zeros(30 * size, dtype=bool)
    group_n = np.repeat(np.arange(30), size)
    return groups.compare_accuracy(both | winners, both | losers, group_n, alpha=0.05)


def groups_count_as_one(groups):
    """12 won and 4 lost groups say as much as 12 won and 4 lost items: P(Bin(16, 1/2) >= 12)."""
    gain = compared_in_groups(groups)
    assert gain.p_value == pytest.approx(0.03840637, abs=1e-8)
    assert gain.p_value == pytest.approx(compared_in_groups(groups, size=1).p_value, abs=1e-12)
    assert (gain.num_wins, gain.num_losses, gain.num_groups) == (120, 40, 30)


def groups_widen_the_bounds(groups):
    gain = compared_in_groups(groups)
    assert gain.design_effect == pytest.approx(10 * 30 / 29, rel=0.01)
    assert gain.low < 0.06
    assert gain.difference > 0.25


def groups_leave_bounds_on_one_group_open(groups):
    right = np.arange(100) < 60
    group_n = np.where(np.arange(100) < 30, 0, np.arange(100))
    gain = groups.compare_accuracy(right, ~right, group_n, alpha=0.05)
    assert (gain.low, gain.high) == (-1.0, 1.0)


def groups_draw_noise_to_the_whole(groups):
    drawn = groups.shrunk(np.array([0.5, 0.9, 0.88, 0.92]), np.array([0.05, 0.0001, 0.0001, 0.0001]), whole=0.9)
    assert drawn[0] > 0.88
    assert groups.shrunk(np.array([0.5, 0.9]), np.array([1e-6, 1e-6]), whole=0.7)[0] < 0.51


def groups_draw_whole_groups_for_f1(groups):
    group_n = np.repeat(np.arange(30), 10)
    gain = groups.compare_macro_f1(TRUTH, BETTER, WORSE, group_n, num_classes=2, alpha=0.03, seed=1, num_resamples=500)
    single = groups.compare_macro_f1(
        TRUTH, BETTER, WORSE, np.arange(NUM_ITEMS), num_classes=2, alpha=0.03, seed=1, num_resamples=500
    )
    assert gain.difference == single.difference
    assert gain.low < single.low - 0.05
    assert gain.p_value > single.p_value


def budget_is_spent_once(budget):
    start = s.NOW
    weekly = [start + dt.timedelta(days=7 * week) for week in range(520)]
    levels = budget.epoch_levels(weekly, a_year=0.5, confidence=0.95)
    assert levels[0] == pytest.approx(0.05)
    assert sum(levels[:53]) <= 1.0
    assert sum(levels[260:312]) <= 0.5 * 52 * 7 / 365 + 1e-6
    hurried = budget.epoch_levels(
        [start + dt.timedelta(minutes=minute) for minute in range(1000)], a_year=0.5, confidence=0.95
    )
    assert sum(hurried) <= 0.501
    assert budget.epoch_levels([start], a_year=5, confidence=0.9) == [pytest.approx(0.1)]
    rested = budget.epoch_levels([start, start + dt.timedelta(days=3650)], a_year=0.2, confidence=0.95)
    assert rested == [pytest.approx(0.02), pytest.approx(0.02)]


def power_is_that_of_the_exact_test(power):
    """Figures of the exact test: 100 items, models that differ on 5 %, at the first and the 20th use of 5 %."""
    first, later = (0.05 * 6 / (math.pi * use) ** 2 for use in (1, 20))
    assert power.detectable_gain(num_items=100, disagreement=0.05, alpha=first) == pytest.approx(0.077, abs=0.002)
    assert power.detectable_gain(num_items=100, disagreement=0.10, alpha=later) == pytest.approx(0.166, abs=0.002)
    assert power.power(0.05, num_items=1000, disagreement=0.1, alpha=first) > 0.99
    assert power.power(0.0, num_items=1000, disagreement=0.1, alpha=first) <= first


def power_knows_that_luck_is_likelier_than_large_gains(power):
    seen = dataclasses.replace(s.gain(0.05, num_items=100), num_wins=8, num_losses=3)
    assert power.chance_better(seen) == pytest.approx(0.775, abs=0.001)
    assert power.posterior_gain(seen)[0] == pytest.approx(0.013, abs=0.0001)
    surer = dataclasses.replace(seen, num_items=10_000, num_wins=800, num_losses=300)
    assert power.chance_better(surer) > 0.999
    assert power.chance_with_more(seen, more_items=1000, alpha=0.03) > power.chance_with_more(
        seen, more_items=100, alpha=0.03
    )
