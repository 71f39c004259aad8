"""Evidence that a share of right answers has fallen below a bound, with a budget of false alarms a year. Pure.

A Shiryaev-Roberts e-detector: M(t) = (M(t - 1) + 1) L(t), the mean over several drops below the bound. While the share
is at or above the bound the expected L is at most 1, so M(t) - t never grows on average: the chance that M reaches a
level within T audits is at most T / level, at any number of looks. A level of a year's audits / budget is a budget a
year.
Source: Shin, Ramdas and Rinaldo, "E-detectors" (2024); Shiryaev 1963, Roberts 1966.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Iterator, Sequence

from scipy import stats

RULE_VERSION = 2  # 1: the newest audits' Wilson interval against the exam's estimate, which is WATCH now
DROPS = (0.05, 0.10, 0.20)
BOUND_CONFIDENCE = 0.90
CAP = 10.0  # times the level: as much as an alarm can pile up, so that it ends some time after the drop does
YEAR = dt.timedelta(days=365)
LEAST_SPAN = dt.timedelta(days=7)  # a project of an hour is not counted as if each hour were like it


@dataclasses.dataclass(frozen=True, slots=True)
class ExamCount:
    """Right answers of a model version on its exam."""

    num_right: int
    num_items: int

    @property
    def accuracy(self) -> float:
        return self.num_right / self.num_items

    @property
    def lower_bound(self) -> float:
        """The one-sided lower Jeffreys bound of the accuracy (0.5 added to right and to wrong answers)."""
        if self.num_right == 0:
            return 0.0
        shape = (self.num_right + 0.5, self.num_items - self.num_right + 0.5)
        return float(stats.beta.ppf(1 - BOUND_CONFIDENCE, *shape))


def evidence(answers: Iterable[tuple[bool, float]], *, bound: float, level: float) -> Iterator[float]:
    """Yield the evidence of a drop below `bound` (above 0, below 1) after each audit.

    `answers` are (is right, weight). The stake on an answer is its weight over the mean weight so far, at most 1: with
    equal weights L is the likelihood ratio of the drop.
    """
    stakes = [min(drop, bound) / (bound * (1 - bound)) for drop in DROPS]
    sums = [0.0] * len(stakes)
    total = 0.0
    for number, (is_right, weight) in enumerate(answers, start=1):
        total += weight
        excess = min(1.0, weight * number / total) * ((0.0 if is_right else 1.0) - (1 - bound))
        sums = [
            min(CAP * level, (wealth + 1) * (1 + stake * excess)) for wealth, stake in zip(sums, stakes, strict=True)
        ]
        yield sum(sums) / len(sums)


def audits_a_year(known_at: Sequence[dt.datetime], *, now: dt.datetime) -> float:
    """Return how many audits a year come in, by those of the last year; the first days are not taken for less."""
    recent = [at for at in known_at if now - at <= YEAR]
    if not recent:
        return 0.0
    return len(recent) * (YEAR / max(now - min(recent), LEAST_SPAN))


def alarm_level(audits: float, *, false_alarms_a_year: float) -> float:
    """Return the evidence at which an alarm is raised; `audits` come in a year."""
    return max(1.0, audits / false_alarms_a_year)
