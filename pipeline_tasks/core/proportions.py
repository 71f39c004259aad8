"""A figure with its confidence interval. Pure."""

from __future__ import annotations

import dataclasses
import math

from scipy import stats

SHOWN_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its two-sided confidence interval; NaN where it cannot be computed."""

    estimate: float
    low: float
    high: float

    @property
    def is_finite(self) -> bool:
        return all(math.isfinite(value) for value in (self.estimate, self.low, self.high))


NOT_A_NUMBER = Interval(math.nan, math.nan, math.nan)


def wilson_interval(num_successes: float, num_trials: float, *, confidence: float = SHOWN_CONFIDENCE) -> Interval:
    """Return a proportion with its Wilson score interval; NaN without trials. Weighted trials count as a fraction.

    Source: Wilson 1927; it stays inside 0..1 and is honest for small counts, unlike the normal interval.
    """
    if num_trials == 0:
        return NOT_A_NUMBER
    z = float(stats.norm.isf((1 - confidence) / 2))
    share = num_successes / num_trials
    scale = 1 + z * z / num_trials
    center = (share + z * z / (2 * num_trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / num_trials + z * z / (4 * num_trials**2))
    # Exact at the ends, where rounding would leave a bound beside 0 or 1.
    low = 0.0 if num_successes == 0 else center - half
    high = 1.0 if num_successes == num_trials else center + half
    return Interval(share, low, high)
