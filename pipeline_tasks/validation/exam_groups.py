"""Groups of an exam's items that are one observation: of one group key, or near duplicates of one another. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from pipeline_tasks.project.gate_schema import NearDuplicates
from pipeline_tasks.project.schema import Modality
from pipeline_tasks.validation import near_duplicates as nd
from pipeline_tasks.validation.fingerprints import Bytes, Fingerprints
from pipeline_tasks.validation.near_moved import moved_pairs
from pipeline_tasks.validation.near_rows import scaled_pairs


def exam_groups(
    group_keys: Mapping[str, str],
    values: Fingerprints,
    *,
    modality: Modality,
    settings: NearDuplicates,
    read: nd.ReadBytes,
) -> dict[str, str]:
    """Return the label of each item's group, by item id: the least group key in it.

    `group_keys` are those of all items of an exam, by item id. Items of one key are one group, and so are near
    duplicates (of `gate.exam.near_duplicates`; policy `off` leaves the keys as they are) and what these join. `read`
    gives the bytes of items by id; it is asked for texts only.
    """
    root = {key: key for key in group_keys.values()}

    def find(key: str) -> str:
        while root[key] != key:
            root[key] = root[root[key]]
            key = root[key]
        return key

    if settings.policy != "off":
        for row, other in _pairs_within(values, modality=modality, settings=settings, read=read):
            first, second = sorted((find(group_keys[values.item_id(row)]), find(group_keys[values.item_id(other)])))
            root[second] = first
    return {item_id: find(key) for item_id, key in group_keys.items()}


def _pairs_within(
    values: Fingerprints, *, modality: Modality, settings: NearDuplicates, read: nd.ReadBytes
) -> Iterator[tuple[int, int]]:
    """Yield pairs of different rows that are near duplicates; all that are copies are joined by some of them."""
    rows_nw = values.values
    if len(rows_nw) < 2:
        return
    pairs: Iterable[tuple[int, int]]
    if modality == "image":
        pairs = _image_pairs(rows_nw, settings=settings)
    elif modality == "text":
        pairs = ((e, t) for e, t, _ in nd.text_pairs(values, values, minimum=settings.text_similarity, read=read))
    else:
        pairs = _row_pairs(rows_nw)
    yield from ((row, other) for row, other in pairs if row != other)


def _image_pairs(rows_nw: Bytes, *, settings: NearDuplicates) -> Iterator[tuple[int, int]]:
    for e, t, _ in nd.confirmed_images(rows_nw, rows_nw, minimum=settings.image_similarity):
        yield from zip(e.tolist(), t.tolist(), strict=True)
    if settings.image_moves:
        for e, t, _ in moved_pairs(rows_nw, rows_nw, minimum=settings.image_similarity):
            yield from zip(e.tolist(), t.tolist(), strict=True)


def _row_pairs(rows_nw: Bytes) -> Iterator[tuple[int, int]]:
    _, first, own = np.unique(nd.row_hashes(rows_nw), return_index=True, return_inverse=True)
    yield from zip(range(len(rows_nw)), first[own].tolist(), strict=True)
    for e, t, _ in scaled_pairs(rows_nw, rows_nw, robust=True):
        yield from zip(e.tolist(), t.tolist(), strict=True)
