"""Paired comparison of two models on the same items: is the contender better, and how sure is that?

Both models answer every item, so only the items on which they differ carry information. Pure.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from scipy import optimize, stats

NUM_RESAMPLES = 4000
MAX_CELLS_PER_CHUNK = 2_000_000
POWER = 0.8

Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class PairedGain:
    """Contender minus champion on one exam.

    `low` and `high` are one-sided bounds, each at level `alpha`; `p_value` is the chance of a gain at least this
    large if the contender were no better; `spread` is the standard deviation of the gain times sqrt(num_items).
    `num_groups`, `design_effect` (variance over that of independent items, 1 or more) and `largest_group` (its share of
    the items) are None in verdicts of rules that knew no groups.
    """

    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    alpha: float
    num_items: int
    num_wins: int
    num_losses: int
    spread: float
    num_groups: int | None = None
    design_effect: float | None = None
    largest_group: float | None = None

    @property
    def is_finite(self) -> bool:
        return all(math.isfinite(value) for value in (self.difference, self.low, self.high, self.p_value))


def mcnemar_p_value(num_wins: int, num_losses: int) -> float:
    """Return the exact one-sided p-value of McNemar's test.

    Of the items that just one of the two got right, a contender that is no better wins a fair coin's share.
    Source: McNemar 1947; exact conditional (binomial) form.
    """
    num_discordant = num_wins + num_losses
    if num_discordant == 0:
        return 1.0
    return float(stats.binom.sf(num_wins - 1, num_discordant, 0.5))


def tango_bound(num_wins: float, num_losses: float, num_items: float, *, alpha: float, upper: bool = False) -> float:
    """Return a one-sided bound on the difference of two paired proportions.

    Source: Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17. It inverts a score test, so it does not collapse when the
    models hardly differ, and it tests non-inferiority against any margin.
    """
    if upper:
        return -tango_bound(num_losses, num_wins, num_items, alpha=alpha)
    z = float(stats.norm.isf(alpha))
    difference = (num_wins - num_losses) / num_items

    def excess(delta: float) -> float:
        return _tango_score(num_wins, num_losses, num_items, delta=delta) - z

    lowest = -1 + 1e-12
    if difference <= lowest or excess(lowest) <= 0:
        return -1.0
    return float(optimize.brentq(excess, lowest, difference, xtol=1e-12))


def _tango_score(num_wins: float, num_losses: float, num_items: float, *, delta: float) -> float:
    observed = num_wins - num_losses - num_items * delta
    b = -(num_wins + num_losses) + (2 * num_items - num_wins + num_losses) * delta
    c = -num_losses * delta * (1 - delta)
    root = math.sqrt(max(b * b - 8 * num_items * c, 0.0))
    loss_share = max((root - b) / (4 * num_items), 0.0)
    variance = num_items * (2 * loss_share + delta * (1 - delta))
    if variance <= 0:
        return 0.0 if observed == 0 else math.copysign(math.inf, observed)
    return observed / math.sqrt(variance)


def compare_accuracy(contender_right_n: Array, champion_right_n: Array, *, alpha: float) -> PairedGain:
    """Compare two models by the share of items that each got right: McNemar's exact test, Tango's bounds.

    Raises:
        ValueError: the two do not cover the same items, or there are none.
    """
    num_items = _check_paired(contender_right_n, champion_right_n)
    num_wins = int((contender_right_n & ~champion_right_n).sum())
    num_losses = int((champion_right_n & ~contender_right_n).sum())
    difference = (num_wins - num_losses) / num_items
    return PairedGain(
        metric="accuracy",
        difference=difference,
        low=tango_bound(num_wins, num_losses, num_items, alpha=alpha),
        high=tango_bound(num_wins, num_losses, num_items, alpha=alpha, upper=True),
        p_value=mcnemar_p_value(num_wins, num_losses),
        alpha=alpha,
        num_items=num_items,
        num_wins=num_wins,
        num_losses=num_losses,
        spread=math.sqrt(max((num_wins + num_losses) / num_items - difference**2, 0.0)),
    )


def compare_macro_f1(
    truth_n: Array,
    contender_n: Array,
    champion_n: Array,
    *,
    num_classes: int,
    alpha: float,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> PairedGain:
    """Compare two models by macro F1 with a paired bootstrap: whole items are drawn, with both answers.

    A bound is the more careful of the percentile and the normal one, since percentiles cannot reach levels below
    1 / num_resamples. Source: Efron and Tibshirani 1993, chapters 13 and 16.

    Raises:
        ValueError: the arrays do not cover the same items, or there are none.
    """
    num_items = _check_paired(contender_n, champion_n, truth_n)
    contender_r, champion_r = bootstrap_macro_f1(
        truth_n, contender_n, champion_n, num_classes=num_classes, seed=seed, num_resamples=num_resamples
    )
    whole = np.ones((1, num_items), dtype=np.int64)
    answers = (contender_n, champion_n)
    f1_contender, f1_champion = (
        weighted_macro_f1(truth_n, answer_n, whole, num_classes=num_classes)[0] for answer_n in answers
    )
    difference = float(f1_contender - f1_champion)
    gain_r = contender_r - champion_r
    error = float(gain_r.std())
    z = float(stats.norm.isf(alpha))
    return PairedGain(
        metric="macro_f1",
        difference=difference,
        low=min(float(np.quantile(gain_r, alpha)), difference - z * error),
        high=max(float(np.quantile(gain_r, 1 - alpha)), difference + z * error),
        p_value=_bootstrap_p_value(gain_r, difference=difference, error=error),
        alpha=alpha,
        num_items=num_items,
        num_wins=int(((contender_n == truth_n) & (champion_n != truth_n)).sum()),
        num_losses=int(((champion_n == truth_n) & (contender_n != truth_n)).sum()),
        spread=error * math.sqrt(num_items),
    )


def _bootstrap_p_value(gain_r: Array, *, difference: float, error: float) -> float:
    if error == 0:
        return 0.0 if difference > 0 else 1.0
    return max(float((gain_r <= 0).mean()), float(stats.norm.sf(difference / error)))


def bootstrap_macro_f1(
    truth_n: Array, contender_n: Array, champion_n: Array, *, num_classes: int, seed: int, num_resamples: int
) -> tuple[Array, Array]:
    """Return the macro F1 of both models on `num_resamples` resamples of the items.

    Items with the same truth and the same two answers are interchangeable, so counts of such cells are drawn.
    """
    cells_kt, counts_k = np.unique(np.stack([truth_n, contender_n, champion_n], axis=1), axis=0, return_counts=True)
    random = np.random.default_rng(seed)
    size = max(1, min(num_resamples, MAX_CELLS_PER_CHUNK // len(counts_k)))
    shares_k = counts_k / counts_k.sum()
    contender, champion = [], []
    for start in range(0, num_resamples, size):
        drawn_rk = random.multinomial(len(truth_n), shares_k, size=min(size, num_resamples - start))
        contender.append(weighted_macro_f1(cells_kt[:, 0], cells_kt[:, 1], drawn_rk, num_classes=num_classes))
        champion.append(weighted_macro_f1(cells_kt[:, 0], cells_kt[:, 2], drawn_rk, num_classes=num_classes))
    return np.concatenate(contender), np.concatenate(champion)


def weighted_macro_f1(truth_k: Array, answer_k: Array, weight_rk: Array, *, num_classes: int) -> Array:
    """Return the macro F1 of each row of weights (r, k) over cells of truth and answer, of the classes in `truth_k`."""
    one_hot_kc = np.eye(num_classes)
    items_rc = weight_rk @ one_hot_kc[truth_k]
    answers_rc = weight_rk @ one_hot_kc[answer_k]
    hits_rc = weight_rk @ (one_hot_kc[truth_k] * (truth_k == answer_k)[:, None])
    present_c = np.isin(np.arange(num_classes), truth_k)
    f1_rc = 2 * hits_rc / np.maximum(items_rc + answers_rc, 1)
    return np.asarray(f1_rc[:, present_c].mean(axis=1))


def shows_gain(gain: PairedGain, *, min_gain: float) -> bool:
    """Return whether the gain is real, and at least `min_gain`, at the gain's level."""
    real = gain.difference > 0 and gain.p_value <= gain.alpha
    return real and (min_gain == 0 or gain.low >= min_gain)


def detectable_gain(gain: PairedGain, *, min_gain: float = 0.0) -> float | None:
    """Return the smallest true gain that an exam of this size shows with a power of 80 %; None if they never differ."""
    if gain.spread == 0:
        return None
    z = float(stats.norm.isf(gain.alpha) + stats.norm.isf(1 - POWER))
    return min_gain + z * gain.spread / math.sqrt(gain.num_items)


def more_items_needed(gain: PairedGain, *, threshold: float) -> int | None:
    """Return how many more exam items would show `difference > threshold` with a power of 80 %, if it is the true one.

    None when the observed difference is not above the threshold: then no number of items would.
    """
    distance = gain.difference - threshold
    if distance <= 0 or gain.spread == 0:
        return None
    z = float(stats.norm.isf(gain.alpha) + stats.norm.isf(1 - POWER))
    return max(0, math.ceil((z * gain.spread / distance) ** 2) - gain.num_items)


def _check_paired(*arrays: Array) -> int:
    sizes = [len(array) for array in arrays]
    if sizes[0] == 0 or len(set(sizes)) != 1:
        raise ValueError(f"paired answers must cover the same items, at least one (got {sizes}).")
    return sizes[0]
