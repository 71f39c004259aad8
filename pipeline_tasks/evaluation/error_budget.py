"""Yearly budget of false promotions, and the part of it that each exam epoch may spend. Pure.

The balance starts at `gate.false_promotions_a_year`, grows by as much in a year and is never more; an epoch spends a
tenth of it, `1 - gate.confidence` at most. So however many epochs are opened, the false promotions to be expected are
at most the budget a year, and one budget more in the first.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from pipeline_tasks.project.gate_schema import Gate

SHARE_AN_EPOCH = 0.1
YEAR = dt.timedelta(days=365)


def epoch_levels(opened: Sequence[dt.datetime], *, a_year: float, confidence: float) -> list[float]:
    """Return the error level of each epoch, in the order in which they were opened."""
    levels: list[float] = []
    balance, before = a_year, opened[0] if opened else None
    for at in opened:
        passed = max((at - before) / YEAR, 0.0) if before is not None else 0.0
        balance = min(a_year, balance + a_year * passed)
        level = min(1 - confidence, SHARE_AN_EPOCH * balance)
        levels.append(level)
        balance, before = balance - level, at
    return levels


def newest_level(policy: Gate, opened: Sequence[dt.datetime]) -> float:
    """Return the error that all comparisons on the epoch that was opened last may spend."""
    return epoch_levels(sorted(opened), a_year=policy.false_promotions_a_year, confidence=policy.confidence)[-1]
