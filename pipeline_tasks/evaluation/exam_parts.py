"""Parts of an exam (classes, values of a slice): the share right on each, with what is shown of it. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from pipeline_tasks.evaluation import groups
from pipeline_tasks.evaluation.metrics import Array


@dataclasses.dataclass(frozen=True, slots=True)
class PartShare:
    """The share of a part's items that is right.

    `low` and `high` are one-sided bounds; `shrunk` is the estimate drawn to the whole by as much as it is noise.
    """

    name: str
    num_items: int
    estimate: float
    shrunk: float
    low: float
    high: float


def part_shares(right_n: Array, rows: Mapping[str, Array], group_n: Array, *, alpha: float) -> tuple[PartShare, ...]:
    """Return the share right on each part that has items, in the order of `rows` (name to positions)."""
    filled = {name: rows_k for name, rows_k in rows.items() if len(rows_k)}
    if not filled:
        return ()
    bounds = {
        name: groups.share_bounds(right_n[rows_n], group_n[rows_n], alpha=alpha) for name, rows_n in filled.items()
    }
    chosen = np.concatenate(list(filled.values()))
    whole = float(right_n[chosen].mean())
    spread = max(whole * (1 - whole), 0.25 / len(chosen))
    effects = [groups.design_effect(right_n[rows_n].astype(float), group_n[rows_n]) for rows_n in filled.values()]
    variance_k = np.array(
        [spread * effect / len(rows_n) for effect, rows_n in zip(effects, filled.values(), strict=True)]
    )
    drawn_k = groups.shrunk(np.array([bounds[name].estimate for name in filled]), variance_k, whole=whole)
    return tuple(
        PartShare(name, len(rows_n), bounds[name].estimate, float(drawn), bounds[name].low, bounds[name].high)
        for (name, rows_n), drawn in zip(filled.items(), drawn_k, strict=True)
    )
