"""A finding of the rule in words, and how its figures are written. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

Stand = Literal["for", "against", "open", "note"]
MAX_NAMED = 10


@dataclasses.dataclass(frozen=True, slots=True)
class Reason:
    """One finding in words, and which way it points."""

    code: str
    stand: Stand
    text: str


def names(labels: Sequence[str]) -> str:
    """Return the first of the names, and how many more there are."""
    shown = ", ".join(labels[:MAX_NAMED])
    return shown if len(labels) <= MAX_NAMED else f"{shown} and {len(labels) - MAX_NAMED} more"


def percent(share: float) -> str:
    """Return a share as text."""
    return f"{100 * share:.1f} %"


def points(difference: float) -> str:
    """Return a difference of two shares as text."""
    return f"{100 * difference:.1f} points"


def rounded(count: int) -> str:
    """Return a count with its first two digits."""
    digits = max(len(str(count)) - 2, 0)
    return f"{round(count, -digits):,}"


def compared(difference: float) -> str:
    """Return where the contender stands to the champion."""
    if difference == 0:
        return "as good as the champion"
    return f"{points(abs(difference))} {'better' if difference > 0 else 'worse'} than the champion"
