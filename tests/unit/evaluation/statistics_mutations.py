"""Mutations of the statistics of the gate: the name, the fragment, its replacement, and the promise that breaks."""

from tests.unit.evaluation import statistics_checks as check

GAIN_MUTATIONS = [
    ("p-value inverted", "gain.p_value <= gain.alpha", "gain.p_value >= gain.alpha"),
    ("p-value dropped", " and gain.p_value <= gain.alpha", ""),
    ("gain inverted", "real = gain.difference > 0 and", "real = gain.difference < 0 and"),
    ("direction ignored", "real = gain.difference > 0 and", "real ="),
    ("minimum gain inverted", "gain.low >= min_gain", "gain.low <= min_gain"),
    ("other bound", "gain.low >= min_gain", "gain.high >= min_gain"),
]

GROUPS_MUTATIONS = [
    (
        "items counted one by one",
        "p_value=sign_flip_p_value(",
        "p_value=single.p_value or (",
        check.groups_count_as_one,
    ),
    (
        "total of the other sign",
        "kept = (int(sums_g.sum()) + int(sizes_g.sum())) // 2",
        "kept = (int(sizes_g.sum()) - int(sums_g.sum())) // 2",
        check.groups_count_as_one,
    ),
    ("one pattern too few", "chances[kept:].sum()", "chances[kept + 1 :].sum()", check.groups_count_as_one),
    ("no design effect", "return max(1.0, clustered / independent)", "return 1.0", check.groups_widen_the_bounds),
    (
        "large group bounded",
        "are_single(group_n) or largest_share(group_n) <= MAX_GROUP_SHARE\n    low",
        "True\n    low",
        check.groups_leave_bounds_on_one_group_open,
    ),
    (
        "noise believed",
        "whole + between / (between + variance_k) * (estimate_k - whole)",
        "estimate_k",
        check.groups_draw_noise_to_the_whole,
    ),
    ("parts ignored", "max(0.0, excess / scale) if scale > 0 else 0.0", "0.0", check.groups_draw_noise_to_the_whole),
    (
        "items drawn for F1",
        "gain_r = contender_r - champion_r",
        "gain_r = champion_r - champion_r + single.difference",
        check.groups_draw_whole_groups_for_f1,
    ),
]

BUDGET_MUTATIONS = [
    ("budget not spent", "balance, before = balance - level, at", "before = at", check.budget_is_spent_once),
    (
        "saved up for ever",
        "min(a_year, balance + a_year * passed)",
        "balance + a_year * passed",
        check.budget_is_spent_once,
    ),
    ("never refilled", "balance + a_year * passed)", "balance)", check.budget_is_spent_once),
    (
        "confidence ignored",
        "min(1 - confidence, SHARE_AN_EPOCH * balance)",
        "SHARE_AN_EPOCH * balance",
        check.budget_is_spent_once,
    ),
]

POWER_MUTATIONS = [
    (
        "one win too few",
        "stats.binom.isf(alpha, num_discordant, 0.5) + 1",
        "stats.binom.isf(alpha, num_discordant, 0.5)",
        check.power_is_that_of_the_exact_test,
    ),
    (
        "normal approximation",
        "(share + gain) / (2 * share)",
        "(share + gain / 2) / (2 * share)",
        check.power_is_that_of_the_exact_test,
    ),
    (
        "prior ignored",
        "variance = 1 / (1 / seen + 1 / prior**2)",
        "variance = seen",
        check.power_knows_that_luck_is_likelier_than_large_gains,
    ),
    (
        "items not counted",
        "more = round(more_items / effect * share)",
        "more = 10",
        check.power_knows_that_luck_is_likelier_than_large_gains,
    ),
]

STATISTICS_MUTATIONS = [
    (
        "wins and losses swapped",
        "binom.sf(num_wins - 1,",
        "binom.sf(num_losses - 1,",
        check.statistics_know_who_is_better,
    ),
    ("other tail", "stats.binom.sf(num_wins", "stats.binom.cdf(num_wins", check.statistics_know_who_is_better),
    (
        "no difference is a gain",
        "return 1.0\n    return float(stats.binom",
        "return 0.0\n    return float(stats.binom",
        check.statistics_count_a_tie_as_no_gain,
    ),
    (
        "difference swapped",
        "    num_losses = int((champion_right_n & ~contender_right_n).sum())\n    difference = (num_wins - num_losses)",
        "    num_losses = int((champion_right_n & ~contender_right_n).sum())\n    difference = (num_losses - num_wins)",
        check.statistics_know_who_is_better,
    ),
    (
        "wins counted for the champion",
        "num_wins = int((contender_right_n & ~champion_right_n)",
        "num_wins = int((champion_right_n & ~contender_right_n)",
        check.statistics_know_who_is_better,
    ),
    (
        "resamples swapped",
        "gain_r = contender_r - champion_r",
        "gain_r = champion_r - contender_r",
        check.statistics_know_who_is_better_by_f1,
    ),
    (
        "F1 swapped",
        "difference = float(f1_contender - f1_champion)",
        "difference = float(f1_champion - f1_contender)",
        check.statistics_know_who_is_better_by_f1,
    ),
    ("bootstrap inverted", "(gain_r <= 0)", "(gain_r >= 0)", check.statistics_know_who_is_better_by_f1),
    (
        "equal F1 is a gain",
        "return 0.0 if difference > 0 else 1.0",
        "return 0.0",
        check.statistics_count_a_tie_as_no_gain,
    ),
]
