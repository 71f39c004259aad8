"""Training items that are, or all but are, an item of the exam: a cheap first look, then a stricter one. Pure.

Texts and rows: no pair is looked at that no hash has brought together. Images: the first look is at every pair, 25
multiplications each (about a nanosecond), so its work grows with exam items times training items; photos of one kind
have too many hashes in common for buckets of hashes to help. Memory grows with the number of items only.
Legend: e exam items, s stacks of them, t training items, n items, p pairs, w bytes, k axes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline_tasks.contracts import Leak
from pipeline_tasks.project.gate_schema import NearDuplicates
from pipeline_tasks.project.schema import Modality
from pipeline_tasks.validation import fingerprints as fp
from pipeline_tasks.validation.fingerprints import Bytes, Fingerprints
from pipeline_tasks.validation.near_contained import containment, containment_candidates, least_contained
from pipeline_tasks.validation.near_moved import moved_pairs
from pipeline_tasks.validation.near_rows import scaled_pairs

MAX_HASH_DISTANCE = 10  # of 64 bits
BANDS, BAND_ROWS = 25, 5
ESTIMATE_SLACK = 0.15  # at least 3.7 standard errors of a Jaccard estimate from 128 permutations
MAX_TEXTS_PER_ITEM = 5  # the likeliest so many are compared in full: copies of one template must not cost all pairs
NUM_AXES = 24  # of 256; fewer let more pairs through to the second look, more make the first one slower
# The bounds of 32 stacks, 1 MiB, stay in the processor's cache. OpenBLAS computes a product of up to 2 ** 18
# multiplications in one thread; beyond, its threads wait for one another in a loop: five times the CPU time under load.
STACKS_AT_ONCE, EXAM_ROWS, TRAINED_ROWS = 32, 32, 256
ENOUGH_PARTNERS = 100
IMAGES_AT_ONCE, PAIRS_AT_ONCE, TEXT_PAIRS_AT_ONCE = 10_000, 20_000, 500
ROUNDING = 1e-5  # of a bound in 32 bits; measured below 1e-6
SIMILARITY_DIGITS = 4

Pair = tuple[int, int, float]
Indices = npt.NDArray[np.int64]
ReadBytes = Callable[[Collection[str]], Mapping[str, bytes]]


def exact_leaks(exam: Mapping[str, str], trained: Mapping[str, str]) -> list[Leak]:
    """Return items of equal content, of the exam and trained on; both sides are content ids by item id.

    Each item that has an equal on the other side is in one pair: with itself where it is there, else with the first.
    """
    of_exam, of_trained = _first_of(exam), _first_of(trained)
    pairs = {
        (item_id, item_id if item_id in trained else of_trained[own])
        for item_id, own in exam.items()
        if own in of_trained
    }
    pairs |= {
        (item_id if item_id in exam else of_exam[own], item_id) for item_id, own in trained.items() if own in of_exam
    }
    return [Leak(*pair, "exact", 1.0) for pair in sorted(pairs)]


def _first_of(contents: Mapping[str, str]) -> dict[str, str]:
    first: dict[str, str] = {}
    for item_id, content in sorted(contents.items()):
        first.setdefault(content, item_id)
    return first


def near_leaks(
    exam: Fingerprints, trained: Fingerprints, *, modality: Modality, settings: NearDuplicates, read: ReadBytes
) -> list[Leak]:
    """Return confirmed pairs but an item with itself, sorted by exam item, the likest first.

    Every item of either side that has a copy on the other is in one of these, images with the likest of their first
    ENOUGH_PARTNERS copies; among items that are all alike not every pair is returned. `read` gives the bytes of items
    by id; it is asked for the texts of candidates only.
    """
    if not len(exam.values) or not len(trained.values):
        return []
    pairs: Iterable[Pair]
    if modality == "image":
        pairs = _image_pairs(exam.values, trained.values, minimum=settings.image_similarity)
        if settings.image_moves:
            pairs |= _moved_pairs(exam.values, trained.values, known=pairs, minimum=settings.image_similarity)
    elif modality == "text":
        pairs = text_pairs(exam, trained, minimum=settings.text_similarity, read=read)
    else:
        pairs = _row_pairs(exam.values, trained.values)
    leaks = [
        Leak(exam.item_id(e), trained.item_id(t), "near", round(similarity, SIMILARITY_DIGITS))
        for e, t, similarity in pairs
        if exam.item_id(e) != trained.item_id(t)
    ]
    return sorted(leaks, key=lambda leak: (leak.item_id, -leak.similarity, leak.trained_item_id))


def best_by_exam_item(leaks: Iterable[Leak]) -> list[Leak]:
    """Return the likest training item of each exam item, sorted by exam item; an exact one goes before a near one."""
    return _best(leaks, key=lambda leak: leak.item_id)


def best_by_trained_item(leaks: Iterable[Leak]) -> list[Leak]:
    """Return the likest exam item of each training item, sorted by training item."""
    return _best(leaks, key=lambda leak: leak.trained_item_id)


def _best(leaks: Iterable[Leak], *, key: Callable[[Leak], str]) -> list[Leak]:
    ordered = sorted(
        leaks,
        key=lambda candidate: (
            key(candidate),
            candidate.kind != "exact",
            -candidate.similarity,
            candidate.item_id,
            candidate.trained_item_id,
        ),
    )
    first: dict[str, Leak] = {}
    for leak in ordered:
        first.setdefault(key(leak), leak)
    return list(first.values())


# Images


class _Likest:
    """The number of confirmed partners of each item so far, and the likest of them (-1 while there is none)."""

    def __init__(self, count: int) -> None:
        self.similarity_n = np.zeros(count)
        self.partner_n = np.full(count, -1, dtype=np.int64)
        self.confirmed_n = np.zeros(count, dtype=np.int64)

    def take(self, own_p: Indices, other_p: Indices, similarity_p: npt.NDArray[Any]) -> None:
        order_p = np.lexsort((other_p, -similarity_p, own_p))
        own, first, count = np.unique(own_p[order_p], return_index=True, return_counts=True)
        self.confirmed_n[own] += count
        chosen = order_p[first]
        better = similarity_p[chosen] > self.similarity_n[own]
        self.similarity_n[own[better]] = similarity_p[chosen[better]]
        self.partner_n[own[better]] = other_p[chosen[better]]

    def pairs(self) -> Iterator[Pair]:
        own = np.flatnonzero(self.partner_n >= 0)
        yield from zip(own.tolist(), self.partner_n[own].tolist(), self.similarity_n[own].tolist(), strict=True)


def _image_pairs(exam_ew: Bytes, trained_tw: Bytes, *, minimum: float) -> set[Pair]:
    """Return the likest confirmed partner of every exam item and of every training item that has one.

    Pairs of which both have ENOUGH_PARTNERS already are not confirmed: photos that are all alike would cost all pairs.
    """
    of_exam, of_trained = _Likest(len(exam_ew)), _Likest(len(trained_tw))
    for exam_p, trained_p, similarity_p in confirmed_images(
        exam_ew, trained_tw, minimum=minimum, seen=(of_exam.confirmed_n, of_trained.confirmed_n)
    ):
        of_exam.take(exam_p, trained_p, similarity_p)
        of_trained.take(trained_p, exam_p, similarity_p)
    return {*of_exam.pairs(), *((e, t, similarity) for t, e, similarity in of_trained.pairs())}


def confirmed_images(
    exam_ew: Bytes, trained_tw: Bytes, *, minimum: float, seen: tuple[Indices, Indices] | None = None
) -> Iterator[tuple[Indices, Indices, npt.NDArray[np.float64]]]:
    """Yield confirmed pairs as exam index, training index and correlation, an item with itself among them.

    `seen` are how many partners each has so far, which the caller counts up: both of a pair must not have enough.
    """
    of_exam, of_trained = seen or (np.zeros(len(exam_ew), np.int64), np.zeros(len(trained_tw), np.int64))
    for pair_p in _in_parts(_image_candidates(exam_ew, trained_tw, minimum=minimum)):
        e, t = np.divmod(pair_p, len(trained_tw))
        wanted_p = np.minimum(of_exam[e], of_trained[t]) < ENOUGH_PARTNERS
        yield _confirmed(exam_ew, trained_tw, e[wanted_p], t[wanted_p], minimum=minimum)


def _moved_pairs(exam_ew: Bytes, trained_tw: Bytes, *, known: set[Pair], minimum: float) -> set[Pair]:
    """Return the likest moved partner of every exam item and of every training item that has no partner yet."""
    of_exam, of_trained = _Likest(len(exam_ew)), _Likest(len(trained_tw))
    left_t = np.setdiff1d(np.arange(len(trained_tw)), np.fromiter((t for _, t, _ in known), np.int64, count=len(known)))
    for e, row, similarity_p in moved_pairs(exam_ew, trained_tw[left_t], minimum=minimum):
        of_exam.take(e, left_t[row], similarity_p)
        of_trained.take(left_t[row], e, similarity_p)
    return {*of_exam.pairs(), *((e, t, similarity) for t, e, similarity in of_trained.pairs())}


def _image_candidates(exam_ew: Bytes, trained_tw: Bytes, *, minimum: float) -> Iterator[Indices]:
    """Yield all pairs whose greys may correlate so much, as exam index times training items plus training index."""
    axes_wk = _axes(exam_ew)
    trained_tk = _directions(trained_tw, axes_wk)
    stacks_sek = _stacked(_directions(exam_ew, axes_wk))
    for first_s in range(0, len(stacks_sek), STACKS_AT_ONCE):
        for first_t in range(0, len(trained_tk), TRAINED_ROWS):
            bound_set = stacks_sek[first_s : first_s + STACKS_AT_ONCE] @ trained_tk[first_t : first_t + TRAINED_ROWS].T
            near_p = np.flatnonzero(bound_set >= minimum - ROUNDING)
            if len(near_p):
                e, t = np.divmod(near_p, bound_set.shape[-1])
                yield (e + first_s * EXAM_ROWS) * len(trained_tk) + t + first_t


def _in_parts(parts: Iterable[Indices]) -> Iterator[Indices]:
    """Yield the same pairs, PAIRS_AT_ONCE at a time: so many are looked at for the price of few."""
    waiting_p: Indices = np.empty(0, dtype=np.int64)
    for pair_p in parts:
        waiting_p = np.concatenate([waiting_p, pair_p])
        while len(waiting_p) >= PAIRS_AT_ONCE:
            yield waiting_p[:PAIRS_AT_ONCE]
            waiting_p = waiting_p[PAIRS_AT_ONCE:]
    yield waiting_p


def _stacked(vectors_nk: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the vectors in stacks of EXAM_ROWS; zeros fill the last, whose bounds are zero with everything."""
    filled_nk = np.pad(vectors_nk, ((0, -len(vectors_nk) % EXAM_ROWS), (0, 0)))
    return filled_nk.reshape(-1, EXAM_ROWS, vectors_nk.shape[1])


def _axes(values_nw: Bytes) -> npt.NDArray[np.float64]:
    """Return the axes (256, k) along which some of these images differ most, orthonormal."""
    some_nw = _unit(fp.grey(values_nw[:: max(1, len(values_nw) // IMAGES_AT_ONCE)][:IMAGES_AT_ONCE]))
    axes: npt.NDArray[np.float64] = np.linalg.eigh(some_nw.T @ some_nw).eigenvectors[:, -NUM_AXES:]
    return axes


def _directions(values_nw: Bytes, axes_wk: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return vectors (n, k + 1) whose products are at least the correlations of the greys.

    The last is the length of what the axes leave out; the product of two lengths is never less than the product of the
    vectors (Cauchy and Schwarz), so a pair that the bound rules out could not have been confirmed.
    """
    found_nk = np.empty((len(values_nw), axes_wk.shape[1] + 1), dtype=np.float32)
    for start in range(0, len(values_nw), IMAGES_AT_ONCE):
        along_nk = _unit(fp.grey(values_nw[start : start + IMAGES_AT_ONCE])) @ axes_wk
        rest_n = np.sqrt(np.maximum(1 - (along_nk**2).sum(axis=1), 0))
        found_nk[start : start + IMAGES_AT_ONCE] = np.column_stack([along_nk, rest_n])
    return found_nk


def _unit(grey_nw: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    centred_nw = grey_nw.astype(np.float64) - grey_nw.mean(axis=1, keepdims=True, dtype=np.float64)
    unit: npt.NDArray[np.float64] = centred_nw / np.maximum(np.linalg.norm(centred_nw, axis=1, keepdims=True), 1e-9)
    return unit


def _confirmed(
    exam_ew: Bytes, trained_tw: Bytes, e: Indices, t: Indices, *, minimum: float
) -> tuple[Indices, Indices, npt.NDArray[np.float64]]:
    """Return those of the pairs whose hashes, greys and colours are all close enough, with the greys' correlation."""
    close = np.bitwise_count(fp.hashes(exam_ew[e]) ^ fp.hashes(trained_tw[t])) <= MAX_HASH_DISTANCE
    e, t = e[close], t[close]
    exam_pw, trained_pw = fp.grey(exam_ew[e]), fp.grey(trained_tw[t])
    similarity_p = grey_correlation(exam_pw, trained_pw)
    alike = similarity_p >= minimum
    e, t, similarity_p = e[alike], t[alike], similarity_p[alike]
    gain_p = trained_pw[alike].std(axis=1) / np.maximum(exam_pw[alike].std(axis=1), 1e-9)
    distance_p = fp.colour_distance(fp.colours(exam_ew[e]), fp.colours(trained_tw[t]), gain_p)
    same = distance_p <= fp.MAX_COLOUR_DISTANCE
    return e[same], t[same], similarity_p[same]


def grey_correlation(one_pw: npt.NDArray[np.float32], other_pw: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the correlation of the grey pixels of each pair: 1 = the same but for brightness and contrast.

    Grey levels are whole numbers; sums of 256 of their products stay below 2 ** 24 and so are exact in 32 bits.
    """
    count = one_pw.shape[1]

    def spread(first: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        product_p = np.einsum("pw,pw->p", first, other).astype(np.float64)
        sums_p = first.sum(axis=1).astype(np.float64) * other.sum(axis=1)
        numerator: npt.NDArray[np.float64] = count * product_p - sums_p
        return numerator

    scale_p = np.sqrt(spread(one_pw, one_pw) * spread(other_pw, other_pw))
    correlation_p: npt.NDArray[np.float64] = spread(one_pw, other_pw) / np.maximum(scale_p, 1e-9)
    return correlation_p


# Texts


def text_pairs(exam: Fingerprints, trained: Fingerprints, *, minimum: float, read: ReadBytes) -> Iterator[Pair]:
    """Yield confirmed pairs, an item with itself among them where it is on both sides."""
    candidates = _text_candidates(exam.values, trained.values, minimum=minimum - ESTIMATE_SLACK)
    likely = _likeliest(sorted({*candidates, *_contained(exam.values, trained.values)}))
    for start in range(0, len(likely), TEXT_PAIRS_AT_ONCE):
        part = likely[start : start + TEXT_PAIRS_AT_ONCE]
        ids = {exam.item_id(e) for e, _, _ in part} | {trained.item_id(t) for _, t, _ in part}
        sets = {item_id: fp.shingles(data.decode("utf-8-sig")) for item_id, data in read(ids).items()}
        for e, t, _ in part:
            first, other = sets[exam.item_id(e)], sets[trained.item_id(t)]
            similarity, held = jaccard(first, other), containment(first, other)
            if similarity >= minimum or held >= least_contained(minimum):
                yield e, t, similarity if similarity >= minimum else held


def _text_candidates(exam_ew: Bytes, trained_tw: Bytes, *, minimum: float) -> list[Pair]:
    """Return (exam, training, estimated Jaccard) of pairs that share a band of their signatures.

    A pair that is not among the MAX_TEXTS_PER_ITEM likeliest so far of either text is left out at once. Estimates are
    128ths, so those of an exam text change a few hundred times at most, however many texts of one template there are.
    """
    from datasketch import LeanMinHash, MinHashLSH

    exam_signatures, trained_signatures = (np.ascontiguousarray(array).view("<u4") for array in (exam_ew, trained_tw))
    index = MinHashLSH(num_perm=fp.NUM_PERMUTATIONS, params=(BANDS, BAND_ROWS))

    def lean(values: npt.NDArray[np.uint32]) -> LeanMinHash:
        return LeanMinHash(seed=fp.MINHASH_SEED, hashvalues=values, scheme=fp.MINHASH_SCHEME)

    for e, values in enumerate(exam_signatures):
        index.insert(e, lean(values), check_duplication=False)
    likeliest_em = np.zeros((len(exam_signatures), MAX_TEXTS_PER_ITEM))  # ascending
    pairs: list[Pair] = []
    for t, values in enumerate(trained_signatures):
        near = np.array(sorted(index.query(lean(values))), dtype=np.int64)
        estimates = (exam_signatures[near] == values).mean(axis=1)
        order = np.argsort(-estimates, kind="stable")
        of_trained = np.isin(np.arange(len(near)), order[:MAX_TEXTS_PER_ITEM])
        wanted = (estimates >= minimum) & (of_trained | (estimates > likeliest_em[near, 0]))
        near, estimates = near[wanted], estimates[wanted]
        pairs += zip(near.tolist(), [t] * len(near), estimates.tolist(), strict=True)
        likeliest_em[near, 0] = np.maximum(likeliest_em[near, 0], estimates)
        likeliest_em[near] = np.sort(likeliest_em[near], axis=1)
    return pairs


def _contained(exam_ew: Bytes, trained_tw: Bytes) -> list[Pair]:
    signatures = [np.ascontiguousarray(array).view("<u4") for array in (exam_ew, trained_tw)]
    return containment_candidates(*signatures)


def _likeliest(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs that are among the likeliest of their exam item or of their training item."""
    ranked = sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))
    of_exam: dict[int, int] = {}
    of_trained: dict[int, int] = {}
    kept = []
    for e, t, estimate in ranked:
        if of_exam.get(e, 0) < MAX_TEXTS_PER_ITEM or of_trained.get(t, 0) < MAX_TEXTS_PER_ITEM:
            kept.append((e, t, estimate))
        of_exam[e] = of_exam.get(e, 0) + 1
        of_trained[t] = of_trained.get(t, 0) + 1
    return kept


def jaccard(first: frozenset[str], other: frozenset[str]) -> float:
    """Return the share of all shingles that both have, 0 to 1."""
    return len(first & other) / len(first | other)


# Rows


def _row_pairs(exam_ew: Bytes, trained_tw: Bytes) -> set[Pair]:
    """Return every row that has a copy on the other side: the first of its equals there, and the nearest of others."""
    exam_hw, trained_hw = exam_ew[:, : fp.ROW_HASH_BYTES], trained_tw[:, : fp.ROW_HASH_BYTES]
    equal = _equal_rows(exam_hw, trained_hw)
    of_exam, of_trained = _Likest(len(exam_ew)), _Likest(len(trained_tw))
    for e, t, distance_p in scaled_pairs(exam_ew, trained_tw):
        of_exam.take(e, t, 1 - distance_p)
        of_trained.take(t, e, 1 - distance_p)
    near = {*of_exam.pairs(), *((e, t, similarity) for t, e, similarity in of_trained.pairs())}
    has_equal = ({e for e, _, _ in equal}, {t for _, t, _ in equal})
    return equal | {pair for pair in near if pair[0] not in has_equal[0] or pair[1] not in has_equal[1]}


def _equal_rows(exam_ew: Bytes, trained_tw: Bytes) -> set[Pair]:
    """Return every row that has an equal on the other side, with the first of its equals there."""
    alike_t = np.flatnonzero(np.isin(_beginnings(trained_tw), _beginnings(exam_ew)))
    first_e = _first_index(enumerate(row.tobytes() for row in exam_ew))
    first_t = _first_index((int(t), trained_tw[t].tobytes()) for t in alike_t)
    of_exam = {(e, first_t[row.tobytes()], 1.0) for e, row in enumerate(exam_ew) if row.tobytes() in first_t}
    rows = ((int(t), trained_tw[t].tobytes()) for t in alike_t)
    return of_exam | {(first_e[row], t, 1.0) for t, row in rows if row in first_e}


def row_hashes(values_nw: Bytes) -> npt.NDArray[np.void]:
    """Return the hashes of rows as values that can be compared."""
    hashes_nw = np.ascontiguousarray(values_nw[:, : fp.ROW_HASH_BYTES])
    return hashes_nw.view(f"V{fp.ROW_HASH_BYTES}").reshape(-1)


def _beginnings(values_nw: Bytes) -> npt.NDArray[np.uint64]:
    return np.ascontiguousarray(values_nw[:, :8]).view(np.uint64).reshape(-1)


def _first_index(rows: Iterable[tuple[int, bytes]]) -> dict[bytes, int]:
    first: dict[bytes, int] = {}
    for index, row in rows:
        first.setdefault(row, index)
    return first
