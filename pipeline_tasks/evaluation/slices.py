"""Slices of an exam: which value each item has, and how both models do on the items of each value. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline_tasks.core.proportions import Interval, wilson_interval
from pipeline_tasks.evaluation import groups
from pipeline_tasks.evaluation.exam_parts import PartShare, part_shares
from pipeline_tasks.evaluation.metrics import Array
from pipeline_tasks.evaluation.scoring import ExamItem
from pipeline_tasks.evaluation.statistics import PairedGain
from pipeline_tasks.project.gate_schema import Slice

MAX_SMALL_NAMED = 10
SliceValues = Mapping[str, Sequence[str | None]]


@dataclasses.dataclass(frozen=True, slots=True)
class SliceScore:
    """Accuracy on the items of one value; `gain` where a margin against the champion was asked for.

    `shrunk` and `shrunk_gain` are the contender's accuracy and the gain, drawn to the mean of the values by as much as
    they are noise, `share_low` and `share_high` one-sided bounds of its accuracy; None before rule 5.
    """

    value: str
    num_items: int
    contender: Interval
    champion: Interval | None
    gain: PairedGain | None
    shrunk: float | None = None
    share_low: float | None = None
    share_high: float | None = None
    shrunk_gain: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class SliceEvidence:
    """One declared slice on one exam: the values with enough items, and what was left out.

    `small` names the largest of the `num_small` values that have too few items.
    """

    name: str
    scores: tuple[SliceScore, ...]
    num_small: int
    small: tuple[tuple[str, int], ...]
    num_without_value: int


def values_of(items: Sequence[ExamItem], slices: Sequence[Slice], *, keys: Mapping[str, str]) -> SliceValues:
    """Return each slice's value of each item, None for none; `keys` (item id to key) is read where a pattern asks."""
    return {chosen.name: tuple(_value(item, chosen, keys=keys) for item in items) for chosen in slices}


def _value(item: ExamItem, chosen: Slice, *, keys: Mapping[str, str]) -> str | None:
    if chosen.by == "source":
        return item.source
    if chosen.by == "origin":
        return item.origin
    if chosen.by == "media_type":
        return item.media_type
    match = re.search(chosen.pattern or "", keys[item.item_id])
    return match["slice"] or None if match is not None else None


def score_slices(
    slices: Sequence[Slice],
    values: SliceValues,
    *,
    contender_right_n: Array,
    champion_right_n: Array | None,
    group_n: Array | None = None,
    alpha: float,
) -> tuple[SliceEvidence, ...]:
    """Return the evidence of each declared slice; `alpha` is the level of the bounds."""
    return tuple(
        _score_slice(chosen, values[chosen.name], contender_right_n, champion_right_n, group_n, alpha=alpha)
        for chosen in slices
    )


def _score_slice(
    chosen: Slice,
    values: Sequence[str | None],
    contender_right_n: Array,
    champion_right_n: Array | None,
    group_n: Array | None,
    *,
    alpha: float,
) -> SliceEvidence:
    rows: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        if value is not None:
            rows.setdefault(value, []).append(row)
    counts = Counter({value: len(members) for value, members in rows.items()})
    small = sorted(
        (pair for pair in counts.items() if pair[1] < chosen.min_items), key=lambda pair: (-pair[1], pair[0])
    )
    judged = [value for value in sorted(rows) if counts[value] >= chosen.min_items]
    scores = [
        _score_value(
            value,
            contender_right_n[rows[value]],
            champion_right_n[rows[value]] if champion_right_n is not None else None,
            group_n[rows[value]] if group_n is not None else None,
            alpha=alpha if chosen.max_loss is not None else None,
        )
        for value in judged
    ]
    if group_n is not None:
        shares = part_shares(
            contender_right_n, {value: np.array(rows[value]) for value in judged}, group_n, alpha=alpha
        )
        scores = _shrunk(scores, shares)
    without = len(values) - counts.total()
    return SliceEvidence(chosen.name, tuple(scores), len(small), tuple(small[:MAX_SMALL_NAMED]), without)


def _score_value(
    value: str,
    contender_right_n: Array,
    champion_right_n: Array | None,
    group_n: Array | None,
    *,
    alpha: float | None,
) -> SliceScore:
    gain = None
    if champion_right_n is not None and alpha is not None:
        gain = groups.compare_accuracy(contender_right_n, champion_right_n, group_n, alpha=alpha)
    return SliceScore(
        value=value,
        num_items=len(contender_right_n),
        contender=_share_right(contender_right_n),
        champion=_share_right(champion_right_n) if champion_right_n is not None else None,
        gain=gain,
    )


def _shrunk(scores: Sequence[SliceScore], shares: Sequence[PartShare]) -> list[SliceScore]:
    """Return the scores with what is shown of each, its estimates drawn to those of all values."""
    gains = [score.gain for score in scores if score.gain is not None]
    drawn: list[float | None] = [None] * len(scores)
    if gains and len(gains) == len(scores):
        size_k = np.array([gain.num_items for gain in gains], dtype=float)
        gain_k = np.array([gain.difference for gain in gains])
        whole = float((gain_k * size_k).sum() / size_k.sum())
        # One discordance for all: a value where the models happen not to differ is no surer than the others.
        spread = max(float((np.array([gain.spread for gain in gains]) ** 2 * size_k).sum() / size_k.sum()), 1e-6)
        drawn = [float(difference) for difference in groups.shrunk(gain_k, spread / size_k, whole=whole)]
    return [
        dataclasses.replace(
            score, shrunk=share.shrunk, share_low=share.low, share_high=share.high, shrunk_gain=shrunk_gain
        )
        for score, share, shrunk_gain in zip(scores, shares, drawn, strict=True)
    ]


def _share_right(right_n: Array) -> Interval:
    return wilson_interval(int(np.count_nonzero(right_n)), len(right_n))
