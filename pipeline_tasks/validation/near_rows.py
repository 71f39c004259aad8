"""Rows that are one another but for noise, rounding or a field: what is near is measured by the rows themselves. Pure.

The distance of two rows is the mean over their columns of |difference| / the column's interquartile range, at most 1.
Two are copies below half of the 0.2 % quantile of the distances of different rows to their nearest.
Legend: e exam rows, t training rows, n rows, c columns, p pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from pipeline_tasks.validation import fingerprints as fp
from pipeline_tasks.validation.fingerprints import Bytes

MIN_ROWS = 100  # fewer do not say how far different rows lie apart
QUANTILE, PART = 0.002, 0.5
NORMAL_QUANTILE = -2.878  # of a standard normal distribution, at QUANTILE
SAMPLED, COMPARED = 1_000, 20_000
NUM_PROJECTIONS = 8
SEED = 14
MISSING = -2e30  # as far from any number as a text is
ROWS_AT_ONCE, PAIRS_AT_ONCE = 4_096, 100_000

Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]


def scaled_pairs(
    exam_ew: Bytes, trained_tw: Bytes, *, robust: bool = False
) -> Iterator[tuple[Indices, Indices, Floats]]:
    """Yield (exam index, training index, distance) of rows that are closer than different rows are.

    `robust` finds the limit from the middle of the distances, for rows of which many have copies among themselves.
    """
    if len(trained_tw) < MIN_ROWS:
        return
    exam_ec, trained_tc = _scaled(exam_ew, trained_tw)
    limit = distance_limit(trained_tc, robust=robust)
    if limit <= 0:
        return
    project = _Projection(trained_tc.shape[1])
    tree: Any = cKDTree(project(trained_tc))
    radius = limit * trained_tc.shape[1] * (1 + 1e-9)
    for start in range(0, len(exam_ec), ROWS_AT_ONCE):
        for e, t in _near_sums(tree, project(exam_ec[start : start + ROWS_AT_ONCE]), radius=radius):
            distance_p = distances(exam_ec[e + start], trained_tc[t])
            near = distance_p < limit
            yield e[near] + start, t[near], distance_p[near]


def _near_sums(tree: Any, sums_em: Floats, *, radius: float) -> Iterator[tuple[Indices, Indices]]:
    """Yield (exam index, training index) whose sums are near, by exam row, some PAIRS_AT_ONCE at a time.

    Among rows of many independent columns most pairs are: they are counted before they are listed.
    """
    count_e = tree.query_ball_point(sums_em, r=radius, p=np.inf, return_length=True).astype(np.int64)
    part_e = np.cumsum(count_e) // PAIRS_AT_ONCE
    ends = [*(np.flatnonzero(np.diff(part_e)) + 1).tolist(), len(count_e)]
    for first, last in itertools.pairwise([0, *ends]):
        most = count_e[first:last].sum()
        neighbours = tree.query_ball_point(sums_em[first:last], r=radius, p=np.inf)
        e = np.repeat(np.arange(first, last), count_e[first:last])
        t = np.fromiter((neighbour for some in neighbours for neighbour in some), np.int64, count=most)
        for start in range(0, most, PAIRS_AT_ONCE):
            yield e[start : start + PAIRS_AT_ONCE], t[start : start + PAIRS_AT_ONCE]


def distances(one_nc: Floats, other_nc: Floats) -> Floats:
    """Return the mean over the columns of the differences of scaled values, each at most 1."""
    mean_n: Floats = np.minimum(np.abs(one_nc - other_nc), 1.0).mean(axis=-1)
    return mean_n


def distance_limit(rows_nc: Floats, *, robust: bool = False) -> float:
    """Return below which distance two rows are copies; 0 where different rows may be equal."""
    others = np.unique(_evenly(rows_nc, COMPARED), axis=0)
    if len(others) < MIN_ROWS:
        return 0.0
    sample = _evenly(others, SAMPLED)
    nearest = np.empty(len(sample))
    for index, row in enumerate(sample):
        distance_n = distances(others, row)
        nearest[index] = distance_n[distance_n > 0].min(initial=1.0)
    if robust:
        logs = np.log(nearest)
        middle = np.median(logs)
        spread = 1.4826 * np.median(np.abs(logs - middle))
        return PART * float(np.exp(middle + NORMAL_QUANTILE * spread))
    return PART * float(np.quantile(nearest, QUANTILE, method="lower"))


def _evenly(rows_nc: Floats, count: int) -> Floats:
    return rows_nc[np.linspace(0, len(rows_nc) - 1, min(count, len(rows_nc)), dtype=np.int64)]


def _scaled(exam_ew: Bytes, trained_tw: Bytes) -> tuple[Floats, Floats]:
    """Return the values of both sides, by the training rows' spread, without columns that none has."""
    exam_ec, trained_tc = fp.row_values(exam_ew), fp.row_values(trained_tw)
    used_c = ~(np.isnan(exam_ec).all(axis=0) & np.isnan(trained_tc).all(axis=0))
    if not used_c.all():
        exam_ec, trained_tc = exam_ec[:, used_c], trained_tc[:, used_c]
    scale_c = np.array([_spread(column) for column in trained_tc.T], dtype=np.float32)
    for rows_nc in (exam_ec, trained_tc):
        np.nan_to_num(rows_nc, copy=False, nan=MISSING)
        np.divide(rows_nc, scale_c, out=rows_nc)
    return exam_ec, trained_tc


def _spread(column_n: Floats) -> float:
    """Return the interquartile range of a column's numbers, or their deviation where most are equal; 1 for texts."""
    numbers = column_n[np.abs(column_n) < fp.TEXT_CODE]
    if not len(numbers):
        return 1.0
    low, high = np.quantile(numbers, (0.25, 0.75))
    return float(high - low) or float(numbers.std()) or 1.0


class _Projection:
    """Sums of values folded into 0..1 with signs: two rows' sums differ by no more than the rows' distance does."""

    def __init__(self, num_columns: int) -> None:
        random = np.random.default_rng(SEED)
        self._phases_mc = random.uniform(0, 2, (NUM_PROJECTIONS, num_columns))
        self._signs_mc = random.choice([-1.0, 1.0], (NUM_PROJECTIONS, num_columns))

    def __call__(self, rows_nc: Floats) -> Floats:
        sums_nm = np.empty((len(rows_nc), NUM_PROJECTIONS))
        for start in range(0, len(rows_nc), ROWS_AT_ONCE):
            some_nc = rows_nc[start : start + ROWS_AT_ONCE].astype(np.float64)
            for m, (phases_c, signs_c) in enumerate(zip(self._phases_mc, self._signs_mc, strict=True)):
                sums_nm[start : start + ROWS_AT_ONCE, m] = np.abs((some_nc + phases_c) % 2 - 1) @ signs_c
        return sums_nm
