"""Photos that are one another mirrored, turned by quarters, or moved by up to three of 28 pixels. Pure.

The middle 22 x 22 pixels of one photo are looked for at every place in each of the eight turns of the other. All of
these, scaled to length 1, are points on a sphere where a correlation is a distance: a tree over their first coordinates
finds the few that can be near, and rules out none that is.
Legend: e exam items, t training items, n items, v variants (8 turns x 49 places), p pairs, h, w pixels, k axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from pipeline_tasks.validation import fingerprints as fp
from pipeline_tasks.validation.fingerprints import Bytes

MOVES = 3
MIDDLE = fp.THUMB_SIDE - 2 * MOVES
MIN_SIMILARITY = 0.995  # the best of 392: at less, other photos of the same kind would pass
NUM_AXES = 16
STACK_ROWS = 32  # near_duplicates.py, STACKS_AT_ONCE, says why
EXAM_AT_ONCE, TRAINED_AT_ONCE = 16, 10_000
MOST_PARTNERS = 100  # of one variant, the nearest: photos that are all alike must not cost all pairs

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[Any]
Pairs = tuple[Indices, Indices, npt.NDArray[np.float64]]


def moved_pairs(exam_ew: Bytes, trained_tw: Bytes, *, minimum: float) -> Iterator[Pairs]:
    """Yield (exam index, training index, correlation) of pairs that are the same photo, moved or not."""
    minimum = max(minimum, MIN_SIMILARITY)
    axes, tree, rows_t = _tree(trained_tw)
    for start in range(0, len(exam_ew), EXAM_AT_ONCE):
        some_ew = exam_ew[start : start + EXAM_AT_ONCE]
        vectors_evw, is_seen_ev = _variants(fp.thumbs(some_ew))
        e, v = np.nonzero(is_seen_ev)
        query, neighbours = _near(_along(vectors_evw[e, v], axes), tree, radius=math.sqrt(2 - 2 * minimum) + 1e-4)
        e, v, t = e[query], v[query], rows_t[neighbours]
        middles_pw, _ = _unit(_middles(fp.thumbs(trained_tw[t])))
        similarity_p = np.einsum("pw,pw->p", vectors_evw[e, v], middles_pw).astype(np.float64)
        keep = similarity_p >= minimum
        keep[keep] = _same_colours(some_ew[e[keep]], trained_tw[t[keep]], turn_p=v[keep] // (2 * MOVES + 1) ** 2)
        yield e[keep] + start, t[keep], similarity_p[keep]


def _tree(trained_tw: Bytes) -> tuple[Floats, Any, Indices]:
    """Return axes along which the middles differ most, a tree of the middles along them, and which items these are."""
    step = max(1, len(trained_tw) // TRAINED_AT_ONCE)
    some_nw, _ = _unit(_middles(fp.thumbs(trained_tw[::step][:TRAINED_AT_ONCE])))
    axes: Floats = np.linalg.eigh(some_nw.T @ some_nw).eigenvectors[:, -NUM_AXES:]
    points: list[Floats] = [np.empty((0, axes.shape[1]))]
    rows: list[Indices] = [np.empty(0, dtype=np.int64)]
    for start in range(0, len(trained_tw), TRAINED_AT_ONCE):
        middles_nw, is_seen_n = _unit(_middles(fp.thumbs(trained_tw[start : start + TRAINED_AT_ONCE])))
        points.append(_along(middles_nw[is_seen_n], axes))
        rows.append(np.flatnonzero(is_seen_n) + start)
    return axes, cKDTree(np.concatenate(points)), np.concatenate(rows)


def _along(vectors_nw: Floats, axes_wk: Floats) -> Floats:
    """Return the vectors along the axes; in stacks, each a product that OpenBLAS computes in one thread."""
    filled_nw = np.pad(vectors_nw, ((0, -len(vectors_nw) % STACK_ROWS), (0, 0)))
    along = filled_nw.reshape(-1, STACK_ROWS, vectors_nw.shape[1]) @ axes_wk
    return along.reshape(-1, axes_wk.shape[1])[: len(vectors_nw)]


def _near(points_nk: Floats, tree: Any, *, radius: float) -> tuple[Indices, Indices]:
    """Return (query, point of the tree) of what lies within the radius, of each query the nearest MOST_PARTNERS."""
    if not tree.n or not len(points_nk):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    num_n = tree.query_ball_point(points_nk, r=radius, return_length=True)
    some = np.flatnonzero(num_n)
    if not len(some):
        return some, some
    most = int(min(num_n.max(), MOST_PARTNERS))
    distance, neighbours = tree.query(
        points_nk[some], k=[*range(1, most + 1)], distance_upper_bound=radius * (1 + 1e-9)
    )
    row, column = np.nonzero(np.isfinite(distance))
    return some[row], neighbours[row, column].astype(np.int64)


def _variants(thumbs_nhw: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return (n, 392, 484) vectors of length 1, by turn and place, and which of them have anything in them."""
    quarters = [np.rot90(thumbs_nhw, k, axes=(1, 2)) for k in range(4)]
    turned = [view for quarter in quarters for view in (quarter, quarter[:, :, ::-1])]
    places = [slice(start, start + MIDDLE) for start in range(2 * MOVES + 1)]
    views = [view[:, y, x] for view in turned for y in places for x in places]
    vectors, is_seen = _unit(np.stack(views, axis=1).reshape(-1, MIDDLE**2))
    return vectors.reshape(len(thumbs_nhw), -1, MIDDLE**2), is_seen.reshape(len(thumbs_nhw), -1)


def _middles(thumbs_nhw: Floats) -> Floats:
    cut = slice(MOVES, MOVES + MIDDLE)
    return np.ascontiguousarray(thumbs_nhw[:, cut, cut]).reshape(-1, MIDDLE**2)


def _unit(vectors_nw: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return the vectors less their means and of length 1, and which have spread enough to be told apart."""
    centred_nw = vectors_nw - vectors_nw.mean(axis=1, keepdims=True)
    length_n = np.linalg.norm(centred_nw, axis=1)
    is_seen_n = length_n >= fp.MIN_GREY_SPREAD * MIDDLE
    return centred_nw / np.maximum(length_n, 1e-6)[:, None], is_seen_n


def _same_colours(exam_pw: Bytes, trained_pw: Bytes, *, turn_p: Indices) -> npt.NDArray[np.bool_]:
    side = fp.COLOUR_SIDE
    planes = fp.colours(exam_pw).reshape(-1, 2, side, side)
    turned = planes.copy()
    for turn in range(8):
        of_turn = np.rot90(planes[turn_p == turn], turn // 2, axes=(2, 3))
        turned[turn_p == turn] = of_turn[..., ::-1] if turn % 2 else of_turn
    gain_p = fp.grey(trained_pw).std(axis=1) / np.maximum(fp.grey(exam_pw).std(axis=1), 1e-9)
    return (
        fp.colour_distance(turned.reshape(-1, fp.COLOUR_BYTES), fp.colours(trained_pw), gain_p)
        <= fp.MAX_COLOUR_DISTANCE
    )
