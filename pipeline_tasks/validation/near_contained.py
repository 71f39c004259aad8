"""Texts of which one holds (nearly) all of the other, such as a quote, a signature below it, or a cut copy. Pure.

The index is the MinHash signatures: two texts have as many of their 128 values in common as their Jaccard index says,
and of a text in one six times as long that is one in seven. Values that many texts have say nothing and are left out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MIN_SHINGLES = 100  # of the shorter text: a common phrase is in many texts
MIN_SHARED = 12  # of 128 values
MAX_OWNERS = 100  # of a value
EXAM_AT_ONCE = 2_000

Indices = npt.NDArray[np.int64]
Signatures = npt.NDArray[np.uint32]


def containment_candidates(exam_ep: Signatures, trained_tp: Signatures) -> list[tuple[int, int, float]]:
    """Return (exam index, training index, share of equal values) of pairs that share MIN_SHARED uncommon values."""
    orders = [np.argsort(column, kind="stable") for column in trained_tp.T]
    candidates: list[tuple[int, int, float]] = []
    for start in range(0, len(exam_ep), EXAM_AT_ONCE):
        some_ep = exam_ep[start : start + EXAM_AT_ONCE]
        codes = [
            _equal_pairs(some, trained, order)
            for some, trained, order in zip(some_ep.T, trained_tp.T, orders, strict=True)
        ]
        code_p, shared_p = np.unique(np.concatenate(codes), return_counts=True)
        e, t = np.divmod(code_p[shared_p >= MIN_SHARED], len(trained_tp))
        share_p = (some_ep[e] == trained_tp[t]).mean(axis=1)
        candidates += zip((e + start).tolist(), t.tolist(), share_p.tolist(), strict=True)
    return candidates


def _equal_pairs(some_e: Signatures, trained_t: Signatures, order_t: Indices) -> Indices:
    """Return the pairs of one value of the signatures, as exam index times training items plus training index."""
    values = trained_t[order_t]
    first_e, last_e = np.searchsorted(values, some_e, "left"), np.searchsorted(values, some_e, "right")
    count_e = last_e - first_e
    count_e[count_e > MAX_OWNERS] = 0
    e = np.repeat(np.arange(len(some_e)), count_e)
    within = np.arange(len(e)) - np.repeat(np.cumsum(count_e) - count_e, count_e)
    codes: Indices = e * len(trained_t) + order_t[first_e[e] + within]
    return codes


def containment(first: frozenset[str], other: frozenset[str]) -> float:
    """Return the share of the shorter text's shingles that the other has; 0 for a text too short to say anything."""
    shorter = min(len(first), len(other))
    return len(first & other) / shorter if shorter >= MIN_SHINGLES else 0.0


def least_contained(jaccard: float) -> float:
    """Return the containment of two texts of one length that have this Jaccard index."""
    return 2 * jaccard / (1 + jaccard)
