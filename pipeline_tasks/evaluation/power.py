"""The power of an exam: what the exact paired test shows, the gain that it finds, the next epoch's chance. Pure."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from pipeline_tasks.evaluation.statistics import POWER, Array, PairedGain

PRIOR_GAIN = 0.02  # standard deviation of the true gains that contenders have, as a share of the items
USUAL_DISAGREEMENT = 0.10  # share of the items on which two models of one project differ, where none was seen yet
STEP = 0.001
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(15)


def wins_needed(num_discordant: Array, *, alpha: float) -> Array:
    """Return the fewest wins among so many discordant items that McNemar's exact test calls a gain at `alpha`.

    One more than there are items where even all of them would not do.
    """
    needed = stats.binom.isf(alpha, num_discordant, 0.5) + 1
    return np.asarray(np.where(stats.binom.sf(needed - 1, num_discordant, 0.5) <= alpha, needed, num_discordant + 1))


def power(gain: float, *, num_items: float, disagreement: float, alpha: float) -> float:
    """Return the chance that the exact test shows a true gain, where models differ on a share of the items.

    `num_items` counts independent items: items over their design effect, where they come in groups.
    """
    size, share = max(1, round(num_items)), min(1.0, max(disagreement, abs(gain), 1e-9))
    discordant = np.arange(size + 1)
    needed = wins_needed(discordant, alpha=alpha)
    shown = stats.binom.sf(needed - 1, discordant, min(1.0, (share + gain) / (2 * share)))
    return float((stats.binom.pmf(discordant, size, share) * shown).sum())


def detectable_gain(*, num_items: float, disagreement: float, alpha: float) -> float | None:
    """Return the least true gain, in steps of 0.1 points, that is shown with a chance of 80 %; None where none is."""
    low, high = 0, round(1 / STEP)
    if power(1.0, num_items=num_items, disagreement=disagreement, alpha=alpha) < POWER:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        chance = power(middle * STEP, num_items=num_items, disagreement=disagreement, alpha=alpha)
        low, high = (low, middle) if chance >= POWER else (middle, high)
    return high * STEP


def disagreement_of(gain: PairedGain) -> float:
    """Return the share of items on which the two models differ, half a discordant item added so that it is never 0."""
    return (gain.num_wins + gain.num_losses + 0.5) / (gain.num_items + 1)


def independent_items(gain: PairedGain) -> float:
    """Return how many independent items the exam is worth."""
    return gain.num_items / (gain.design_effect or 1.0)


def posterior_gain(gain: PairedGain, *, prior: float = PRIOR_GAIN) -> tuple[float, float]:
    """Return mean and standard deviation of the true gain, given what was seen and how large gains usually are.

    A normal likelihood with a normal prior around 0. Its error counts half a discordant item more than were seen.
    """
    seen = max(gain.spread**2, disagreement_of(gain) * (gain.design_effect or 1.0)) / gain.num_items
    variance = 1 / (1 / seen + 1 / prior**2)
    return variance * gain.difference / seen, math.sqrt(variance)


def chance_better(gain: PairedGain, *, min_gain: float = 0.0) -> float:
    """Return the posterior probability that the true gain is above `min_gain`."""
    mean, deviation = posterior_gain(gain)
    return float(stats.norm.sf((min_gain - mean) / deviation))


def chance_with_more(gain: PairedGain, *, more_items: int, alpha: float) -> float:
    """Return the chance that the gain is shown once the exam has `more_items`, over what the true gain may be.

    Wins and losses so far stay; the further items are discordant as often as those so far.
    """
    effect, share = gain.design_effect or 1.0, disagreement_of(gain)
    wins, losses = round(gain.num_wins / effect), round(gain.num_losses / effect)
    more = round(more_items / effect * share)
    needed = float(wins_needed(np.array([wins + losses + more]), alpha=alpha)[0]) - wins
    mean, deviation = posterior_gain(gain)
    win_shares = np.clip((share + mean + deviation * NODES) / (2 * share), 0, 1)
    return float((WEIGHTS / WEIGHTS.sum() * stats.binom.sf(needed - 1, more, win_shares)).sum())


def items_that_show(margin: float, *, disagreement: float) -> int:
    """Return about how many items can show a margin: 80 % of equal models hold it at 95 %.

    Source: (z(0.05) + z(0.2))^2 times the disagreement over the margin squared.
    """
    return math.ceil(6.2 * disagreement / margin**2) if margin > 0 else 2**31
