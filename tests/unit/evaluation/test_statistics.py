"""Paired tests against published values, and against the truth by simulation."""

import math

import numpy as np
import pytest

from pipeline_tasks.evaluation import statistics as s


def rights(*, wins, losses, both, neither):
    contender = [True] * wins + [False] * losses + [True] * both + [False] * neither
    champion = [False] * wins + [True] * losses + [True] * both + [False] * neither
    return np.array(contender), np.array(champion)


@pytest.mark.parametrize(
    ("wins", "losses", "expected"),
    [(0, 0, 1.0), (1, 0, 0.5), (5, 0, 1 / 32), (0, 5, 1.0), (8, 2, 56 / 1024), (2, 8, 1013 / 1024)],
)
def test_mcnemar_counts_coin_flips(wins, losses, expected):
    assert s.mcnemar_p_value(wins, losses) == pytest.approx(expected)


@pytest.mark.parametrize(("wins", "losses", "num_items"), [(0, 1, 44), (12, 4, 100), (3, 9, 60), (7, 0, 30)])
@pytest.mark.parametrize("upper", [False, True])
def test_tango_bound_is_where_an_independent_score_test_is_just_significant(wins, losses, num_items, upper):
    delta = s.tango_bound(wins, losses, num_items, alpha=0.05, upper=upper)
    # Maximum likelihood of the trinomial (wins = q + delta, losses = q, rest) under H0, by brute force.
    q = np.linspace(max(0.0, -delta), (1 - delta) / 2, 2_000_001)[1:-1]
    likelihood = wins * np.log(q + delta) + losses * np.log(q) + (num_items - wins - losses) * np.log(1 - 2 * q - delta)
    best = q[likelihood.argmax()]
    score = (wins - losses - num_items * delta) / math.sqrt(num_items * (2 * best + delta - delta**2))
    assert score == pytest.approx(-1.6448536 if upper else 1.6448536, abs=1e-3)


def test_tango_bound_without_a_difference_has_a_closed_form():
    z = 1.6448536269514722
    assert s.tango_bound(0, 0, 100, alpha=0.05) == pytest.approx(-z * z / (100 + z * z))
    assert s.tango_bound(0, 0, 100, alpha=0.05, upper=True) == pytest.approx(z * z / (100 + z * z))


def test_tango_bounds_at_the_extremes_stay_inside():
    assert s.tango_bound(0, 10, 10, alpha=0.05) == -1.0
    assert s.tango_bound(10, 0, 10, alpha=0.05, upper=True) == 1.0
    assert 0 < s.tango_bound(10, 0, 10, alpha=0.05) < 1


def test_tango_bounds_surround_and_tighten():
    small = [s.tango_bound(12, 4, 100, alpha=0.05, upper=upper) for upper in (False, True)]
    large = [s.tango_bound(120, 40, 1000, alpha=0.05, upper=upper) for upper in (False, True)]
    assert small[0] < large[0] < 0.08 < large[1] < small[1]


def test_compare_accuracy_counts_who_won():
    gain = s.compare_accuracy(*rights(wins=12, losses=4, both=70, neither=14), alpha=0.05)
    assert (gain.num_wins, gain.num_losses, gain.num_items, gain.difference) == (12, 4, 100, pytest.approx(0.08))
    assert gain.p_value == pytest.approx(s.mcnemar_p_value(12, 4))
    assert gain.spread == pytest.approx(math.sqrt(0.16 - 0.0064))
    assert gain.low < 0.08 < gain.high


def test_swapping_the_models_swaps_the_sign():
    contender, champion = rights(wins=12, losses=4, both=70, neither=14)
    forth, back = (
        s.compare_accuracy(contender, champion, alpha=0.05),
        s.compare_accuracy(champion, contender, alpha=0.05),
    )
    assert (back.difference, back.low, back.high) == pytest.approx((-forth.difference, -forth.high, -forth.low))


@pytest.mark.parametrize("sizes", [(0, 0), (3, 4)])
def test_unpaired_answers_are_refused(sizes):
    with pytest.raises(ValueError, match="paired answers must cover the same items, at least one"):
        s.compare_accuracy(np.ones(sizes[0], dtype=bool), np.ones(sizes[1], dtype=bool), alpha=0.05)


def draw(*, num_items, quality_contender, quality_champion, seed):
    random = np.random.default_rng(seed)
    truth = random.integers(0, 3, num_items)

    def answers(quality):
        wrong = (truth + random.integers(1, 3, num_items)) % 3
        return np.where(random.random(num_items) < quality, truth, wrong)

    return truth, answers(quality_contender), answers(quality_champion)


def test_macro_f1_bootstrap_is_seeded_and_right():
    truth, contender, champion = draw(num_items=600, quality_contender=0.9, quality_champion=0.8, seed=1)
    first = s.compare_macro_f1(truth, contender, champion, num_classes=3, alpha=0.05, seed=7)
    again = s.compare_macro_f1(truth, contender, champion, num_classes=3, alpha=0.05, seed=7)
    other = s.compare_macro_f1(truth, contender, champion, num_classes=3, alpha=0.05, seed=8)
    assert first == again
    assert first.low != other.low
    assert first.low == pytest.approx(other.low, abs=0.005)
    assert 0.01 < first.low < first.difference < first.high < 0.11
    assert 0.0001 < first.p_value < 0.01


def test_macro_f1_of_equal_answers_is_no_gain():
    truth, contender, _ = draw(num_items=100, quality_contender=0.9, quality_champion=0.9, seed=2)
    gain = s.compare_macro_f1(truth, contender, contender, num_classes=3, alpha=0.05, seed=0)
    assert (gain.difference, gain.low, gain.high, gain.p_value, gain.num_wins) == (0.0, 0.0, 0.0, 1.0, 0)


def test_macro_f1_bounds_reach_levels_below_the_number_of_resamples():
    truth, contender, champion = draw(num_items=600, quality_contender=0.9, quality_champion=0.8, seed=1)
    usual, strict = (
        s.compare_macro_f1(truth, contender, champion, num_classes=3, alpha=alpha, seed=7, num_resamples=200)
        for alpha in (0.05, 1e-6)
    )
    assert strict.low < usual.low - 0.03


def test_macro_f1_bounds_are_the_more_careful_of_percentile_and_normal():
    truth, contender, champion = draw(num_items=60, quality_contender=0.9, quality_champion=0.7, seed=4)
    kwargs = {"num_classes": 3, "seed": 7}
    gain = s.compare_macro_f1(truth, contender, champion, alpha=0.05, **kwargs)
    resampled = s.bootstrap_macro_f1(truth, contender, champion, num_resamples=s.NUM_RESAMPLES, **kwargs)
    gains = resampled[0] - resampled[1]
    error = 1.6448536269514722 * gains.std()
    percentile, normal = np.quantile(gains, 0.05), gain.difference - error
    assert percentile != pytest.approx(normal, abs=1e-5)
    assert gain.low == pytest.approx(min(percentile, normal), abs=1e-9)
    assert gain.high == pytest.approx(max(np.quantile(gains, 0.95), gain.difference + error), abs=1e-9)


def test_bootstrap_resamples_every_item_when_chunked(monkeypatch):
    truth, contender, champion = draw(num_items=200, quality_contender=0.9, quality_champion=0.8, seed=3)
    kwargs = {"num_classes": 3, "seed": 5, "num_resamples": 50}
    whole = s.bootstrap_macro_f1(truth, contender, champion, **kwargs)
    monkeypatch.setattr(s, "MAX_CELLS_PER_CHUNK", 60)
    chunked = s.bootstrap_macro_f1(truth, contender, champion, **kwargs)
    assert np.array_equal(whole[0], chunked[0])
    assert np.array_equal(whole[1], chunked[1])


def test_false_promotion_rate_of_mcnemar_is_at_most_nominal():
    random = np.random.default_rng(0)
    wins = random.binomial(40, 0.5, 4000)
    rate = np.mean([s.mcnemar_p_value(int(w), 40 - int(w)) <= 0.05 for w in wins])
    assert rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)
    assert rate > 0.02


def test_non_inferiority_bound_covers_the_true_loss():
    # True loss 0.03, margin 0.03: declared non-inferior in at most about 5 of 100 exams.
    random = np.random.default_rng(0)
    draws = random.multinomial(400, [0.04, 0.07, 0.89], size=2000)
    passed = [s.tango_bound(int(w), int(x), 400, alpha=0.05) >= -0.03 for w, x, _ in draws]
    assert np.mean(passed) <= 0.065


def test_more_items_needed_decides_with_the_stated_power():
    gain = s.compare_accuracy(*rights(wins=30, losses=20, both=400, neither=50), alpha=0.05)
    more = s.more_items_needed(gain, threshold=0.0)
    assert more == math.ceil(((1.6448536 + 0.8416212) * gain.spread / 0.02) ** 2) - 500
    random = np.random.default_rng(0)
    draws = random.multinomial(500 + more, [0.06, 0.04, 0.9], size=2000)
    power = np.mean([s.mcnemar_p_value(int(w), int(x)) <= 0.05 for w, x, _ in draws])
    assert 0.77 < power < 0.83


@pytest.mark.parametrize(("wins", "losses"), [(5, 5), (4, 6), (0, 0)])
def test_no_number_of_items_decides_without_an_observed_gain(wins, losses):
    gain = s.compare_accuracy(*rights(wins=wins, losses=losses, both=80, neither=10), alpha=0.05)
    assert s.more_items_needed(gain, threshold=0.0) is None


def test_detectable_gain_shrinks_with_the_square_root_of_the_exam():
    small = s.compare_accuracy(*rights(wins=10, losses=5, both=80, neither=5), alpha=0.05)
    large = s.compare_accuracy(*rights(wins=40, losses=20, both=320, neither=20), alpha=0.05)
    assert s.detectable_gain(small) == pytest.approx(2 * s.detectable_gain(large))
    assert s.detectable_gain(small, min_gain=0.01) == pytest.approx(s.detectable_gain(small) + 0.01)


def test_detectable_gain_of_models_that_never_differ_is_unknown():
    gain = s.compare_accuracy(*rights(wins=0, losses=0, both=80, neither=20), alpha=0.05)
    assert s.detectable_gain(gain) is None
