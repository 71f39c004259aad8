"""Matched pairs of two arms: what the answer of an experiment and the check of its telling go by. Pure.

Each unit is matched with the newest one of the other arm that has none, in the order of their exposures: about the same
hour, at whatever share, and a longer log only adds pairs. Where the arms do not differ, who has the event in a pair in
which one has it is a fair coin, also while the rate moves with the day.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Literal

from pipeline_tasks.core.confidence_sequences import Rate, bounds

Arm = Literal["a", "b"]
FAIR = 0.5
UNEVEN = 1.96


@dataclasses.dataclass(frozen=True, slots=True)
class Pairs:
    """Numbers of pairs: all, and those in which only one side had the event."""

    num: int
    only_a: int
    only_b: int

    @property
    def discordant(self) -> Rate:
        """The pairs in which one side had the event, by whether it was `b`'s."""
        return Rate(self.only_b, self.only_a + self.only_b)

    @property
    def is_uneven(self) -> bool:
        """True where the sides differ at this look, at 95 %: McNemar's test with continuity correction.

        A guard, and no claim: at one look it takes a third of the pairs that an answer at any look takes.
        """
        return abs(self.only_b - self.only_a) - 1 > UNEVEN * math.sqrt(self.only_a + self.only_b)

    def ahead(self, *, alpha: float) -> Arm | None:
        """Return the arm that has the event more often, shown at whatever look; None where neither is."""
        low, high = bounds(self.discordant, alpha=alpha)
        return "b" if low > FAIR else "a" if high < FAIR else None


def match(units: Iterable[tuple[Arm, bool]]) -> Pairs:
    """Match units, each its arm and whether it had the event, in the order of their exposures."""
    waiting: list[tuple[Arm, bool]] = []  # all of one arm
    num = only_a = only_b = 0
    for arm, event in units:
        if not waiting or waiting[-1][0] == arm:
            waiting.append((arm, event))
            continue
        other = waiting.pop()[1]
        num += 1
        if event != other:
            by_b = event == (arm == "b")
            only_b, only_a = only_b + by_b, only_a + (not by_b)
    return Pairs(num, only_a, only_b)
