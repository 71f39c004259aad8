"""Terms of a text: runs of words, and runs of characters in the scripts that put no spaces between words. No torch.

A term is a string; which strings a text gives depends on its characters alone, never on other texts.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Literal

Unit = Literal["auto", "words", "characters"]

_PLAIN_WORDS = re.compile(r"\w\w+")
# First and last code points, ascending. Hangul, Tibetan and Ethiopic are not here: they mark each word or syllable.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19FF),  # Tai Le, New Tai Lue, Khmer
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x2E80, 0x2FDF),  # radicals of Han
    (0x3005, 0x3029),  # signs of Han that repeat, numerals
    (0x3040, 0x312F),  # Hiragana, Katakana, Bopomofo
    (0x31A0, 0x31BF),  # Bopomofo
    (0x31F0, 0x31FF),  # Katakana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),  # Han
    (0xA980, 0xA9FF),  # Javanese, Myanmar
    (0xAA60, 0xAADF),  # Myanmar, Tai Viet
    (0xF900, 0xFAFF),  # Han
    (0x1AFF0, 0x1B16F),  # Kana
    (0x20000, 0x3FFFF),  # Han
)
_UNSPACED_STARTS = tuple(first for first, _ in _UNSPACED)
# Signs that writers set or leave out: Arabic stretching and vowels, Hebrew points, the look and skin colour of emoji.
_OPTIONAL = re.compile(
    "[\u0640\u064b-\u0652\u0670\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\ufe00-\ufe0f\U0001f3fb-\U0001f3ff]"
)
_EMOJI = re.compile("[\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001f1e5\U0001f200-\U0001faff]")
_FLAG_HALF = re.compile("[\U0001f1e6-\U0001f1ff]")
# Over the kinds of `_kind`, one letter per character. A mark belongs to the character that it stands on.
_PIECES = re.compile("(?P<characters>(?:um*)+)|(?P<words>[lh][lhm]*|ff|e)")
_MARKED = re.compile("um*")
_ALL_UNSPACED = str.maketrans("lh", "uu")


def terms(text: str, *, unit: str, longest: int) -> Iterator[str]:
    """Yield the terms of a text, repeated ones repeated.

    Words: every run of up to `longest` of them. Characters: every run of up to `longest` + 1 within one piece of
    writing. `auto` takes characters in scripts without spaces between words and words elsewhere; an emoji is a word.
    """
    if unit == "words":
        yield from _runs(_PLAIN_WORDS.findall(unicodedata.normalize("NFKC", text).lower()), " ", longest=longest)
        return
    folded, kinds = _folded(text)
    words: list[str] = []
    for found in _PIECES.finditer(kinds.translate(_ALL_UNSPACED) if unit == "characters" else kinds):
        piece = folded[found.start() : found.end()]
        if found.lastgroup == "characters":
            yield from _runs(words, " ", longest=longest)
            words = []
            yield from _runs(_characters(piece, found.group()), "", longest=longest + 1)
        elif found.group() != "l":  # one letter or digit says little, one syllable of Hangul or one emoji much
            words.append(piece)
    yield from _runs(words, " ", longest=longest)


def unit_shares(texts: Iterable[str], *, unit: str) -> dict[str, float]:
    """Return which share of the letters and digits of these texts counts in `words` and in `characters`; {} for none.

    `unspaced` is the share that stands in scripts without spaces between words, whatever the unit.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_folded(text)[1])
    total = counts["l"] + counts["h"] + counts["u"]
    if not total:
        return {}
    unspaced = counts["u"] / total
    characters = {"words": 0.0, "characters": 1.0}.get(unit, unspaced)
    shares = {"words": 1.0 - characters, "characters": characters, "unspaced": unspaced}
    return {name: round(share, 4) for name, share in shares.items()}


def _runs(parts: Sequence[str], joint: str, *, longest: int) -> Iterator[str]:
    for length in range(1, longest + 1):
        for start in range(len(parts) - length + 1):
            yield joint.join(parts[start : start + length])


def _characters(piece: str, kinds: str) -> Sequence[str]:
    if "m" not in kinds:
        return piece
    return [piece[found.start() : found.end()] for found in _MARKED.finditer(kinds)]


def _folded(text: str) -> tuple[str, str]:
    """Return the text in one width and one case, without what is optional or not seen, and the kinds of characters."""
    folded = text.lower()
    if not text.isascii():
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        folded = folded.replace("i\u0307", "i")  # of the Turkish capital
    kinds = "".join(map(_kind, folded))
    if "x" in kinds:
        folded = "".join(char for char, kind in zip(folded, kinds, strict=True) if kind != "x")
    return folded, kinds.replace("x", "")


@cache
def _kind(char: str) -> str:
    """Return u (script without spaces), l (other letter or digit), h (Hangul), m (mark), e (emoji) or f (half a flag).

    x is what to leave out; a space stands for everything between terms.
    """
    if unicodedata.category(char) == "Cf" or _OPTIONAL.match(char):
        return "x"
    if unicodedata.category(char)[0] == "M":
        return "m"
    if _FLAG_HALF.match(char) or _EMOJI.match(char):
        return "f" if _FLAG_HALF.match(char) else "e"
    if not (char.isalnum() or char == "_"):
        return " "
    if "\uac00" <= char <= "\ud7a3":
        return "h"
    at = bisect(_UNSPACED_STARTS, ord(char)) - 1
    return "u" if at >= 0 and ord(char) <= _UNSPACED[at][1] else "l"
