"""From UTF-8 text to hashed n-gram counts; shared by training, evaluation and the gateway. No torch."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline_tasks.errors import InputError
from pipeline_tasks.models.base import Array

_TOKEN = re.compile(r"\w\w+")


def decode_text(data: bytes, *, preprocessing: Mapping[str, Any]) -> Array:
    """Return the text's n-grams as int32 (k, 2): bucket and count, most frequent first, then by bucket.

    Raises:
        InputError: EMPTY_FILE, TEXT_NOT_UTF8, TEXT_EMPTY or TEXT_TOO_LONG.
    """
    text = _read(data, max_characters=int(preprocessing["max_characters"]))
    buckets = int(preprocessing["buckets"])
    counts = Counter(zlib.crc32(gram) % buckets for gram in _ngrams(text, longest=int(preprocessing["ngrams"])))
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[: int(preprocessing["max_terms"])]
    return np.array(ranked or [(0, 0)], dtype=np.int32)


def _read(data: bytes, *, max_characters: int) -> str:
    if not data:
        raise InputError("a text must have characters (got an empty file).", code="EMPTY_FILE")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"a text must be UTF-8 (got a bad byte at {error.start}).", code="TEXT_NOT_UTF8") from None
    if len(text) > max_characters:
        raise InputError(
            f"a text must have at most {max_characters} characters (got {len(text)}). Cut it, or raise the limit.",
            code="TEXT_TOO_LONG",
        )
    if not text.strip():
        raise InputError("a text must have more than white space.", code="TEXT_EMPTY")
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
