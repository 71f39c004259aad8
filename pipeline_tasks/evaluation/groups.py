"""Paired comparison of two models on items that come in groups: a patient's photos, a user's messages. Pure.

Items of one group resemble each other, so they count for less than as many independent ones. Where every item is a
group of its own, or `group_n` is None, each figure is that of `statistics`. `group_n` has each item's group as an
integer from 0.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from pipeline_tasks.core.proportions import Interval, wilson_interval
from pipeline_tasks.evaluation import statistics
from pipeline_tasks.evaluation.statistics import NUM_RESAMPLES, Array, PairedGain, mcnemar_p_value, tango_bound

MAX_GROUP_SHARE = 0.2  # of the items: beyond it a bound rests on one group, and is left open


def are_single(group_n: Array) -> bool:
    """Return whether every item is a group of its own."""
    return len(np.unique(group_n)) == len(group_n)


def largest_share(group_n: Array) -> float:
    """Return the share of the items that the largest group holds."""
    return float(np.bincount(group_n).max() / len(group_n))


def sign_flip_p_value(sums_g: Array) -> float:
    """Return the exact one-sided p-value of wins minus losses by group (integers).

    If the contender is no better, the sum of a group is as likely to have the other sign, so the p-value is the share
    of all sign patterns whose total is at least the observed one. With sums of -1 and 1 it is McNemar's exact test.
    Source: Fisher's randomization test; for clusters Donner and Klar 2000, chapter 6.
    """
    sizes_g = np.abs(sums_g[sums_g != 0]).astype(np.int64)
    if sizes_g.size == 0:
        return 1.0
    if sizes_g.max() == 1:
        return mcnemar_p_value(int((sums_g > 0).sum()), int((sums_g < 0).sum()))
    values, counts = np.unique(sizes_g, return_counts=True)
    chances: Array = np.ones(1)  # of the shares that keep their sign, on the scale 0..sum of sizes
    for value, count in zip(values, counts, strict=True):
        spaced = np.zeros(int(value * count) + 1)
        spaced[:: int(value)] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, spaced)
    kept = (int(sums_g.sum()) + int(sizes_g.sum())) // 2
    return float(min(1.0, chances[kept:].sum()))


def design_effect(value_n: Array, group_n: Array) -> float:
    """Return how many times the variance of a mean is that of independent items: 1 or more.

    Where the values do not differ, nothing can be estimated: then groups count as if their items were all alike.
    Source: Rao and Scott 1992, "A simple method for the analysis of clustered binary data", Biometrics 48; Kish 1965.
    """
    if are_single(group_n):
        return 1.0
    group_n = np.unique(group_n, return_inverse=True)[1]
    num_items, sizes_g = len(value_n), np.bincount(group_n).astype(float)
    mean, num_groups = float(value_n.mean()), len(sizes_g)
    independent = float(((value_n - mean) ** 2).sum()) / num_items**2
    if independent == 0 or num_groups < 2:
        return float((sizes_g**2).sum() / num_items)
    residual_g = np.bincount(group_n, weights=value_n) - mean * sizes_g
    clustered = num_groups / (num_groups - 1) * float((residual_g**2).sum()) / num_items**2
    return max(1.0, clustered / independent)


def level_by_groups(alpha: float, group_n: Array) -> float:
    """Return the normal level with the quantile of Student's t at G - 1 degrees, where items come in groups."""
    if are_single(group_n):
        return alpha
    degrees = max(len(np.unique(group_n)) - 1, 1)
    return float(stats.norm.sf(stats.t.isf(alpha, degrees)))


def compare_accuracy(
    contender_right_n: Array, champion_right_n: Array, group_n: Array | None, *, alpha: float
) -> PairedGain:
    """Compare by the share of items that each got right: sign flips of groups, Tango's bounds with a design effect.

    Where one group holds more than MAX_GROUP_SHARE of the items, the bounds are -1 and 1: nothing is shown by them.
    """
    single = statistics.compare_accuracy(contender_right_n, champion_right_n, alpha=alpha)
    if group_n is None:
        return single
    sign_n = contender_right_n.astype(np.int64) - champion_right_n.astype(np.int64)
    effect, level = design_effect(sign_n, group_n), level_by_groups(alpha, group_n)
    wins, losses, items = (count / effect for count in (single.num_wins, single.num_losses, single.num_items))
    bounded = are_single(group_n) or largest_share(group_n) <= MAX_GROUP_SHARE
    low = tango_bound(wins, losses, items, alpha=level) if bounded else -1.0
    high = tango_bound(wins, losses, items, alpha=level, upper=True) if bounded else 1.0
    return _with_groups(
        single,
        group_n,
        effect=effect,
        p_value=sign_flip_p_value(np.bincount(group_n, weights=sign_n).round().astype(np.int64)),
        low=low,
        high=high,
        spread=single.spread * math.sqrt(effect),
    )


def compare_macro_f1(
    truth_n: Array,
    contender_n: Array,
    champion_n: Array,
    group_n: Array | None,
    *,
    num_classes: int,
    alpha: float,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> PairedGain:
    """Compare by macro F1 with a paired bootstrap that draws whole groups, with both answers to all their items."""
    single = statistics.compare_macro_f1(
        truth_n, contender_n, champion_n, num_classes=num_classes, alpha=alpha, seed=seed, num_resamples=num_resamples
    )
    if group_n is None:
        return single
    if are_single(group_n):
        return _with_groups(single, group_n, effect=1.0)
    contender_r, champion_r = bootstrap_macro_f1(
        truth_n, contender_n, champion_n, group_n, num_classes=num_classes, seed=seed, num_resamples=num_resamples
    )
    gain_r = contender_r - champion_r
    error, degrees = float(gain_r.std()), max(len(np.unique(group_n)) - 1, 1)
    reach, difference = float(stats.t.isf(alpha, degrees)) * error, single.difference
    bounded = largest_share(group_n) <= MAX_GROUP_SHARE
    p_value = 1.0 if difference <= 0 else 0.0
    if error > 0:
        p_value = max(float((gain_r <= 0).mean()), float(stats.t.sf(difference / error, degrees)))
    return _with_groups(
        single,
        group_n,
        effect=max(1.0, error**2 * single.num_items / single.spread**2) if single.spread else 1.0,
        p_value=max(p_value, single.p_value),
        low=min(float(np.quantile(gain_r, alpha)), difference - reach, single.low) if bounded else -1.0,
        high=max(float(np.quantile(gain_r, 1 - alpha)), difference + reach, single.high) if bounded else 1.0,
        spread=max(error * math.sqrt(single.num_items), single.spread),
    )


def bootstrap_macro_f1(
    truth_n: Array,
    contender_n: Array,
    champion_n: Array,
    group_n: Array | None,
    *,
    num_classes: int,
    seed: int,
    num_resamples: int,
) -> tuple[Array, Array]:
    """Return the macro F1 of both models on `num_resamples` resamples of whole groups."""
    if group_n is None or are_single(group_n):
        return statistics.bootstrap_macro_f1(
            truth_n, contender_n, champion_n, num_classes=num_classes, seed=seed, num_resamples=num_resamples
        )
    cells_kt, cell_n = np.unique(np.stack([truth_n, contender_n, champion_n], axis=1), axis=0, return_inverse=True)
    group_n = np.unique(group_n, return_inverse=True)[1]
    counts_gk = np.zeros((int(group_n.max()) + 1, len(cells_kt)), dtype=np.int64)
    np.add.at(counts_gk, (group_n, cell_n.reshape(-1)), 1)
    random, shares_g = np.random.default_rng(seed), np.full(len(counts_gk), 1 / len(counts_gk))
    size = max(1, min(num_resamples, statistics.MAX_CELLS_PER_CHUNK // max(counts_gk.shape)))
    contender: list[Array] = []
    champion: list[Array] = []
    for start in range(0, num_resamples, size):
        drawn_rg = random.multinomial(len(counts_gk), shares_g, size=min(size, num_resamples - start))
        weight_rk = drawn_rg @ counts_gk
        for scores, column in ((contender, 1), (champion, 2)):
            answer_k = cells_kt[:, column]
            scores.append(statistics.weighted_macro_f1(cells_kt[:, 0], answer_k, weight_rk, num_classes=num_classes))
    return np.concatenate(contender), np.concatenate(champion)


def _with_groups(single: PairedGain, group_n: Array, *, effect: float, **changes: float) -> PairedGain:
    fields = {field: getattr(single, field) for field in single.__dataclass_fields__}
    grouped = {
        "num_groups": len(np.unique(group_n)),
        "design_effect": effect,
        "largest_group": largest_share(group_n),
    }
    return PairedGain(**{**fields, **changes, **grouped})


def share_bounds(right_n: Array, group_n: Array, *, alpha: float) -> Interval:
    """Return the share that is right with one-sided bounds at level `alpha` each: Wilson's, with a design effect."""
    effect, level = design_effect(right_n.astype(float), group_n), level_by_groups(alpha, group_n)
    num_items = len(right_n) / effect
    interval = wilson_interval(float(right_n.mean()) * num_items, num_items, confidence=1 - 2 * level)
    return Interval(float(right_n.mean()), interval.low, interval.high)


def shrunk(estimate_k: Array, variance_k: Array, *, whole: float) -> Array:
    """Return the estimates of parts, each drawn to the whole by as much as it is noise.

    The variance between the parts is that of DerSimonian and Laird 1986; where it is none, every part is the whole.
    """
    weight_k = 1 / np.maximum(variance_k, 1e-12)
    excess = float((weight_k * (estimate_k - whole) ** 2).sum()) - (len(estimate_k) - 1)
    scale = float(weight_k.sum() - (weight_k**2).sum() / weight_k.sum())
    between = max(0.0, excess / scale) if scale > 0 else 0.0
    return np.asarray(whole + between / (between + variance_k) * (estimate_k - whole))
