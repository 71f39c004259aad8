"""Rates watched while they come in: bounds that hold at every look, however often and whenever one looks. Pure."""

from __future__ import annotations

import dataclasses
import math

PRIOR = 0.5  # Jeffreys: about as good for rare events as for common ones
PRECISION = 1e-9
PAIRED_PRECISION = 1e-7
# What a bettor stakes, of all that may be lost on a trial, and the part of the capital that does so: halves of halves.
STAKES = tuple((2.0**-n, 2.0 ** -(n + 1)) for n in range(12))


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    """A number of events in a number of trials."""

    num_events: int
    num_trials: int

    def __post_init__(self) -> None:
        if not 0 <= self.num_events <= self.num_trials:
            raise ValueError(f"num_events must be 0 to num_trials (got {self.num_events} of {self.num_trials}).")

    @property
    def share(self) -> float:
        """The share of trials with the event; NaN before the first trial."""
        return self.num_events / self.num_trials if self.num_trials else math.nan


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """One rate minus another, with bounds that both hold at every look with confidence 1 - alpha."""

    difference: float
    low: float
    high: float


def bounds(rate: Rate, *, alpha: float) -> tuple[float, float]:
    """Return bounds on the true rate: the chance that it is ever outside, at any look, is at most alpha.

    They are the rates p for which the beta mixture's likelihood ratio against p is below 1 / alpha. Source: Robbins
    1970, "Statistical methods related to the law of the iterated logarithm"; Ville's inequality.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1 (got {alpha}).")
    if not rate.num_trials:
        return 0.0, 1.0
    share, limit = rate.share, -math.log(alpha)
    low = 0.0 if not rate.num_events else _crossing(rate, outside=0.0, inside=share, limit=limit)
    high = 1.0 if rate.num_events == rate.num_trials else _crossing(rate, outside=1.0, inside=share, limit=limit)
    return low, high


def compare(rate: Rate, other: Rate, *, alpha: float) -> Difference:
    """Return `rate` minus `other`; each rate's bounds get half of alpha."""
    (low, high), (other_low, other_high) = bounds(rate, alpha=alpha / 2), bounds(other, alpha=alpha / 2)
    return Difference(rate.share - other.share, low - other_high, high - other_low)


def _crossing(rate: Rate, *, outside: float, inside: float, limit: float) -> float:
    """Return, by bisection, where the log ratio between an impossible rate and the observed one crosses the limit."""
    while abs(outside - inside) > PRECISION:
        middle = (outside + inside) / 2
        if _log_ratio(rate, middle) < limit:
            inside = middle
        else:
            outside = middle
    return outside


def _log_ratio(rate: Rate, p: float) -> float:
    events, others = rate.num_events, rate.num_trials - rate.num_events
    mixture = _log_beta(PRIOR + events, PRIOR + others) - _log_beta(PRIOR, PRIOR)
    return mixture - events * math.log(p) - others * math.log1p(-p)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


@dataclasses.dataclass(frozen=True, slots=True)
class Paired:
    """Trials that two sides took alike: in how many only one had the event, and in how many only the other had."""

    only_one: int
    only_other: int
    num_trials: int

    def __post_init__(self) -> None:
        if min(self.only_one, self.only_other) < 0 or self.only_one + self.only_other > self.num_trials:
            raise ValueError(f"the trials of one side only must be 0 to num_trials together (got {self}).")

    @property
    def difference(self) -> float:
        """The share of the one side minus that of the other; NaN before the first trial."""
        return (self.only_one - self.only_other) / self.num_trials if self.num_trials else math.nan


def paired_low(paired: Paired, *, alpha: float) -> float:
    """Return what the true difference is above: the chance that it is ever not, at any look, is at most alpha.

    A bettor who stakes a part of the capital on each trial's +1, 0 or -1 gains nothing on average where the mean is no
    more than the bound; where the capital, summed over the stakes, has grown by 1 / alpha, it is more. The largest
    stake has half of the capital: without an event one way, a limit is shown at about the size of a test at one look.
    Source: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting"; Ville's inequality.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1 (got {alpha}).")
    outside, inside, limit = -1.0, 1.0, -math.log(alpha)
    while inside - outside > PAIRED_PRECISION:
        middle = (outside + inside) / 2
        if _log_capital(paired, middle) < limit:
            inside = middle
        else:
            outside = middle
    return outside


def paired_high(paired: Paired, *, alpha: float) -> float:
    """Return what the true difference is below, like `paired_low`."""
    return -paired_low(Paired(paired.only_other, paired.only_one, paired.num_trials), alpha=alpha)


def _log_capital(paired: Paired, mean: float) -> float:
    """Return the log of the capital against a mean of at most `mean`, above -1."""
    neither = paired.num_trials - paired.only_one - paired.only_other
    logs = [
        math.log(weight)
        + _times(paired.only_one, 1 + stake * (1 - mean) / (1 + mean))
        + _times(neither, 1 - stake * mean / (1 + mean))
        + _times(paired.only_other, 1 - stake)
        for stake, weight in STAKES
    ]
    largest = max(logs)
    return largest + math.log(sum(math.exp(log - largest) for log in logs)) if largest > -math.inf else largest


def _times(count: int, factor: float) -> float:
    return count * (math.log(factor) if factor > 0 else -math.inf) if count else 0.0
