"""From UTF-8 text to hashed n-gram counts; shared by training, evaluation and the gateway. No torch."""

from __future__ import annotations

import contextlib
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline_tasks.errors import InputError
from pipeline_tasks.guards.text import decode_text as read_utf8
from pipeline_tasks.guards.text import guard_text
from pipeline_tasks.models.base import Array
from pipeline_tasks.models.text_bow.units import terms, unit_shares

UNIT_BEFORE = "words"  # of model versions that were stored before there was a choice


def decode_text(data: bytes, *, preprocessing: Mapping[str, Any]) -> Array:
    """Return the text's n-grams as int32 (k, 2): bucket and count, most frequent first, then by bucket.

    Raises:
        InputError: with a code of the text guard.
    """
    text = guard_text(read_utf8(data), max_characters=int(preprocessing["max_characters"]))
    buckets = int(preprocessing["buckets"])
    unit = str(preprocessing.get("unit", UNIT_BEFORE))
    found = terms(text, unit=unit, longest=int(preprocessing["ngrams"]))
    counts = Counter(zlib.crc32(term.encode()) % buckets for term in found)
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[: int(preprocessing["max_terms"])]
    return np.array(ranked or [(0, 0)], dtype=np.int32)


def input_facts(items: Iterable[bytes], *, preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """Return the number of readable texts and the shares of their letters and digits by unit."""
    texts = []
    for data in items:
        with contextlib.suppress(InputError):
            texts.append(guard_text(read_utf8(data), max_characters=int(preprocessing["max_characters"])))
    return {"texts": len(texts), **unit_shares(texts, unit=str(preprocessing.get("unit", UNIT_BEFORE)))}


def collate_counts(inputs: Sequence[Array]) -> Array:
    """Join counts into int32 (n, longest k, 2), padded with bucket 0 and count 0."""
    batch = np.zeros((len(inputs), max(len(one) for one in inputs), 2), dtype=np.int32)
    for row, one in enumerate(inputs):
        batch[row, : len(one)] = one
    return batch
