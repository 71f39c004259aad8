"""Which training items are, or all but are, an item of the exam: candidates by hashing, then a stricter look. Pure.

No pair is looked at that no hash has brought together, so the work grows with the number of items, not of pairs.
Legend: e exam items, t training items, p pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from pipeline_tasks.contracts import Leak
from pipeline_tasks.project import Modality, NearDuplicates
from pipeline_tasks.validation import fingerprints as fp
from pipeline_tasks.validation.fingerprints import Bytes, Fingerprints

MAX_HASH_DISTANCE = 10  # of 64 bits; the search below finds every pair up to 11
WORD_BITS, MAX_WORD_DISTANCE = 16, 2
MAX_COLOUR_DISTANCE = 6.0  # mean absolute difference of the colour planes, in levels of 255
BANDS, BAND_ROWS = 25, 5
ESTIMATE_SLACK = 0.15  # at least 3.7 standard errors of a Jaccard estimate from 128 permutations
MAX_TEXTS_PER_ITEM = 5  # the likeliest so many are compared in full: copies of one template must not cost all pairs
PAIRS_AT_ONCE, TEXT_PAIRS_AT_ONCE = 20_000, 500
SIMILARITY_DIGITS = 4

Pair = tuple[int, int, float]
Indices = npt.NDArray[np.int64]
ReadBytes = Callable[[Collection[str]], Mapping[str, bytes]]


def exact_leaks(exam_ids: Iterable[str], trained_ids: Collection[str]) -> list[Leak]:
    """Return the exam items that stand among the trained ones."""
    known = set(trained_ids)
    return [Leak(item_id, item_id, "exact", 1.0) for item_id in sorted(set(exam_ids) & known)]


def near_leaks(
    exam: Fingerprints, trained: Fingerprints, *, modality: Modality, settings: NearDuplicates, read: ReadBytes
) -> list[Leak]:
    """Return every confirmed pair but an item with itself, sorted by exam item, the likest first.

    `read` gives the bytes of items by id; it is asked for the texts of candidates only.
    """
    if not exam.item_ids or not trained.item_ids:
        return []
    if modality == "image":
        pairs = _image_pairs(exam.values, trained.values, minimum=settings.image_similarity)
    elif modality == "text":
        pairs = _text_pairs(exam, trained, minimum=settings.text_similarity, read=read)
    else:
        pairs = _row_pairs(exam.values, trained.values)
    found = [
        Leak(exam.item_ids[e], trained.item_ids[t], "near", round(similarity, SIMILARITY_DIGITS))
        for e, t, similarity in pairs
        if exam.item_ids[e] != trained.item_ids[t]
    ]
    return sorted(found, key=lambda leak: (leak.item_id, -leak.similarity, leak.trained_item_id))


def best_by_exam_item(leaks: Iterable[Leak]) -> list[Leak]:
    """Return the likest training item of each exam item, sorted by exam item; an exact one goes before a near one."""
    return _best(leaks, key=lambda leak: leak.item_id)


def best_by_trained_item(leaks: Iterable[Leak]) -> list[Leak]:
    """Return the likest exam item of each training item, sorted by training item."""
    return _best(leaks, key=lambda leak: leak.trained_item_id)


def _best(leaks: Iterable[Leak], *, key: Callable[[Leak], str]) -> list[Leak]:
    ordered = sorted(
        leaks, key=lambda one: (key(one), one.kind != "exact", -one.similarity, one.item_id, one.trained_item_id)
    )
    first: dict[str, Leak] = {}
    for leak in ordered:
        first.setdefault(key(leak), leak)
    return list(first.values())


# Images


def _image_pairs(exam_ew: Bytes, trained_tw: Bytes, *, minimum: float) -> Iterator[Pair]:
    exam_p, trained_p = hash_candidates(_hashes(exam_ew), _hashes(trained_tw))
    for start in range(0, len(exam_p), PAIRS_AT_ONCE):
        e, t = exam_p[start : start + PAIRS_AT_ONCE], trained_p[start : start + PAIRS_AT_ONCE]
        similarity_p = grey_correlation(_grey(exam_ew[e]), _grey(trained_tw[t]))
        colour_p = np.abs(_colours(exam_ew[e]) - _colours(trained_tw[t])).mean(axis=1)
        keep = (similarity_p >= minimum) & (colour_p <= MAX_COLOUR_DISTANCE)
        yield from zip(e[keep].tolist(), t[keep].tolist(), similarity_p[keep].tolist(), strict=True)


def _hashes(values_nw: Bytes) -> npt.NDArray[np.uint64]:
    return np.ascontiguousarray(values_nw[:, : fp.HASH_BYTES]).view(np.uint64).reshape(-1)


def _grey(values_nw: Bytes) -> npt.NDArray[np.float32]:
    return values_nw[:, fp.HASH_BYTES : fp.HASH_BYTES + fp.GREY_BYTES].astype(np.float32)


def _colours(values_nw: Bytes) -> npt.NDArray[np.float32]:
    return values_nw[:, fp.HASH_BYTES + fp.GREY_BYTES :].astype(np.float32)


def hash_candidates(exam_e: npt.NDArray[np.uint64], trained_t: npt.NDArray[np.uint64]) -> tuple[Indices, Indices]:
    """Return (exam, training) indices of every pair of 64-bit hashes at most MAX_HASH_DISTANCE bits apart.

    Two hashes at most 11 bits apart have one of four 16-bit words at most 2 bits apart, so each exam hash is looked up
    under 137 neighbours of each of its words. Source: Norouzi, Punjani and Fleet 2012, multi-index hashing.
    """
    found: list[Indices] = []
    words_e4, words_t4 = (np.ascontiguousarray(one).view(np.uint16).reshape(-1, 4) for one in (exam_e, trained_t))
    for word in range(4):
        order_t = np.argsort(words_t4[:, word], kind="stable")
        sorted_t = words_t4[order_t, word]
        for mask in _neighbour_masks():
            probe_e = words_e4[:, word] ^ mask
            first_e = np.searchsorted(sorted_t, probe_e, side="left")
            count_e = np.searchsorted(sorted_t, probe_e, side="right") - first_e
            e = np.repeat(np.arange(len(exam_e)), count_e)
            if not len(e):
                continue
            within = np.arange(len(e)) - np.repeat(np.cumsum(count_e) - count_e, count_e)
            t = order_t[np.repeat(first_e, count_e) + within]
            close = np.bitwise_count(exam_e[e] ^ trained_t[t]) <= MAX_HASH_DISTANCE
            found.append(e[close] * len(trained_t) + t[close])
    pairs = np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)
    return pairs // len(trained_t), pairs % len(trained_t)


def _neighbour_masks() -> list[np.uint16]:
    """Return every 16-bit word with at most MAX_WORD_DISTANCE bits set."""
    chosen = (bits for size in range(MAX_WORD_DISTANCE + 1) for bits in combinations(range(WORD_BITS), size))
    return [np.uint16(sum(1 << bit for bit in bits)) for bits in chosen]


def grey_correlation(one_pw: npt.NDArray[np.float32], other_pw: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the correlation of the grey pixels of each pair: 1 = the same but for brightness and contrast."""
    one, other = (
        values.astype(np.float64) - values.mean(axis=1, keepdims=True, dtype=np.float64)
        for values in (one_pw, other_pw)
    )
    scale = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    correlation: npt.NDArray[np.float64] = (one * other).sum(axis=1) / np.maximum(scale, 1e-9)
    return correlation


# Texts


def _text_pairs(exam: Fingerprints, trained: Fingerprints, *, minimum: float, read: ReadBytes) -> Iterator[Pair]:
    likely = _likeliest(_text_candidates(exam.values, trained.values, minimum=minimum - ESTIMATE_SLACK))
    for start in range(0, len(likely), TEXT_PAIRS_AT_ONCE):
        part = likely[start : start + TEXT_PAIRS_AT_ONCE]
        ids = {exam.item_ids[e] for e, _, _ in part} | {trained.item_ids[t] for _, t, _ in part}
        sets = {item_id: fp.shingles(data.decode("utf-8-sig")) for item_id, data in read(ids).items()}
        for e, t, _ in part:
            similarity = jaccard(sets[exam.item_ids[e]], sets[trained.item_ids[t]])
            if similarity >= minimum:
                yield e, t, similarity


def _text_candidates(exam_ew: Bytes, trained_tw: Bytes, *, minimum: float) -> list[Pair]:
    """Return (exam, training, estimated Jaccard) of pairs that share a band of their signatures."""
    from datasketch import LeanMinHash, MinHashLSH

    exam_signatures, trained_signatures = (np.ascontiguousarray(one).view("<u4") for one in (exam_ew, trained_tw))
    index = MinHashLSH(num_perm=fp.NUM_PERMUTATIONS, params=(BANDS, BAND_ROWS))

    def lean(values: npt.NDArray[np.uint32]) -> LeanMinHash:
        return LeanMinHash(seed=fp.MINHASH_SEED, hashvalues=values, scheme=fp.MINHASH_SCHEME)

    for e, values in enumerate(exam_signatures):
        index.insert(e, lean(values), check_duplication=False)
    found = []
    for t, values in enumerate(trained_signatures):
        near = np.array(sorted(index.query(lean(values))), dtype=np.int64)
        if len(near):
            estimates = (exam_signatures[near] == values).mean(axis=1)
            found += [(int(e), t, float(one)) for e, one in zip(near, estimates, strict=True) if one >= minimum]
    return found


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


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Return the share of all shingles that both have, 0 to 1."""
    return len(one & other) / len(one | other)


# Rows


def _row_pairs(exam_ew: Bytes, trained_tw: Bytes) -> Iterator[Pair]:
    by_hash: dict[bytes, list[int]] = {}
    for e, row in enumerate(exam_ew):
        by_hash.setdefault(row.tobytes(), []).append(e)
    for t, row in enumerate(trained_tw):
        yield from ((e, t, 1.0) for e in by_hash.get(row.tobytes(), ()))
