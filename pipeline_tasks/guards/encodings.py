"""The encoding that bytes look like which are no UTF-8: by trials, said only where it can be told."""

from __future__ import annotations

import re
import unicodedata

SAMPLE_BYTES = 64 * 1024
_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_HIGH = re.compile(rb"[\x80-\xff]+")
_AMID_LETTERS = re.compile(rb"[A-Za-z][\x80-\xff]{1,2}(?![\x80-\xff])|(?<![\x80-\xff])[\x80-\xff]{1,2}[A-Za-z]")
MIN_LETTERS = 3
WIDE_SHARE = 0.25  # a few letters of UTF-16 have their NUL on the other side
# codec, how people call it, the beginning of its letters' Unicode names, the first bytes of its common letters, the
# share of such letters that tells it
_TRIALS = (
    ("shift_jis", "Shift JIS", ("HIRAGANA", "KATAKANA"), range(0x80, 0x100), 0.3),
    ("euc_jp", "EUC-JP", ("HIRAGANA", "KATAKANA"), range(0x80, 0x100), 0.3),
    ("euc_kr", "EUC-KR", ("HANGUL SYLLABLE",), range(0xB0, 0xC9), 0.9),
    ("gb18030", "GB18030 (GBK, GB2312)", ("CJK UNIFIED",), range(0xB0, 0xD8), 0.7),
    ("big5", "Big5", ("CJK UNIFIED",), range(0xA4, 0xC7), 0.7),
    ("cp1251", "Windows-1251", ("CYRILLIC SMALL",), range(0xE0, 0x100), 0.7),
)


def wide_encoding(data: bytes) -> str | None:
    """Return UTF-16 or UTF-32 if the beginning of a text is in one of them, with or without a byte order mark."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    zeros = data.count(b"\0")
    if zeros < max(2, data.count(b"\n")):
        return None
    odd = data[1::2].count(b"\0") / zeros
    if odd > 1 - WIDE_SHARE:
        return "UTF-16 (little endian)"
    return "UTF-16 (big endian)" if odd < WIDE_SHARE else None


def likely_encoding(data: bytes) -> str:
    """Return what bytes look like that are no UTF-8: an encoding, two, or the bytes where none can be told."""
    wide = wide_encoding(data)
    if wide is not None:
        return wide
    runs = _HIGH.findall(data)
    if not runs:
        return "other bytes"
    # In Western texts a letter with an accent stands between plain ones; other scripts have whole words of high bytes.
    western = len(_AMID_LETTERS.findall(data)) >= len(runs) / 2
    trials = [trial for trial in _TRIALS if not western or trial[0] != "cp1251"]
    fitting = [name for codec, name, script, first, share in trials if _share(script, first, data, codec) >= share]
    if western and not fitting:
        return "Windows-1252 or Latin-1"
    return " or ".join(fitting[:2]) or "bytes " + " ".join(f"0x{byte:02x}" for byte in runs[0][:4])


def _share(script: tuple[str, ...], first: range, data: bytes, codec: str) -> float:
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        if error.start < len(data) - 4 or not error.start:
            return 0.0
        text = data[: error.start].decode(codec)  # a sample may end within a character
    letters = [letter for letter in text if letter > "\x7f" and letter.isalpha()]
    fitting = (
        unicodedata.name(letter, "").startswith(script) and letter.encode(codec)[0] in first for letter in letters
    )
    return sum(fitting) / max(MIN_LETTERS, len(letters))
