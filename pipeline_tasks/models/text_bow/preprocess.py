"""From UTF-8 text to hashed n-gram counts; shared by training, evaluation and the gateway. No torch."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline_tasks.guards.text import decode_text as read_utf8
from pipeline_tasks.guards.text import guard_text
from pipeline_tasks.models.base import Array

_TOKEN = re.compile(r"\w\w+")


def decode_text(data: bytes, *, preprocessing: Mapping[str, Any]) -> Array:
    """Return the text's n-grams as int32 (k, 2): bucket and count, most frequent first, then by bucket.

    Raises:
        InputError: with a code of the text guard.
    """
    text = guard_text(read_utf8(data), max_characters=int(preprocessing["max_characters"]))
    buckets = int(preprocessing["buckets"])
    counts = Counter(
        zlib.crc32(gram) % buckets for gram in _ngrams(_folded(text), longest=int(preprocessing["ngrams"]))
    )
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[: int(preprocessing["max_terms"])]
    return np.array(ranked or [(0, 0)], dtype=np.int32)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


def _ngrams(text: str, *, longest: int) -> Iterator[bytes]:
    tokens = _TOKEN.findall(text)
    for length in range(1, longest + 1):
        for start in range(len(tokens) - length + 1):
            yield " ".join(tokens[start : start + length]).encode()


def collate_counts(inputs: Sequence[Array]) -> Array:
    """Join counts into int32 (n, longest k, 2), padded with bucket 0 and count 0."""
    batch = np.zeros((len(inputs), max(len(one) for one in inputs), 2), dtype=np.int32)
    for row, one in enumerate(inputs):
        batch[row, : len(one)] = one
    return batch
