"""Lets only readable UTF-8 text of a limited length in, in one normal form."""

from __future__ import annotations

import re
import unicodedata

from pipeline_tasks.errors import InputError
from pipeline_tasks.guards.encodings import SAMPLE_BYTES, likely_encoding, wide_encoding

# Direction overrides and zero-width signs make people and models see different texts; joiners stay, scripts need them.
_INVISIBLE = re.compile("[\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f]")
_NEWLINES = re.compile("\r\n?")


def decode_text(data: bytes) -> str:
    """Return the text of UTF-8 bytes, without a byte order mark.

    Raises:
        InputError: EMPTY_FILE or TEXT_NOT_UTF8.
    """
    if not data:
        raise InputError("a text must have characters (got an empty file).", code="EMPTY_FILE")
    wide = wide_encoding(data[:SAMPLE_BYTES])
    if wide is not None:
        raise InputError(f"a text must be UTF-8 (got {wide}). Convert it to UTF-8.", code="TEXT_NOT_UTF8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        got = likely_encoding(data[max(0, error.start - SAMPLE_BYTES) : error.start + SAMPLE_BYTES])
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"a text must be UTF-8 (got {got} in line {line}). Convert it to UTF-8.", code="TEXT_NOT_UTF8"
        ) from None


def guard_text(text: str, *, max_characters: int) -> str:
    """Return the text as people and models are to see it: NFC, one kind of line end, no invisible direction signs.

    Raises:
        InputError: TEXT_EMPTY, TEXT_TOO_LONG, TEXT_CONTROL_CHARACTER or TEXT_NOT_UTF8 (half a surrogate pair).
    """
    if len(text) > max_characters:
        raise InputError(
            f"a text must have at most {max_characters:,} characters (got {len(text):,}). "
            "Cut it, or raise checks.max_text_characters.",
            code="TEXT_TOO_LONG",
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(
            "a text must be valid Unicode (got a bad byte or half a character).", code="TEXT_NOT_UTF8"
        ) from None
    control = _CONTROL.search(text)
    if control is not None:
        raise InputError(
            f"a text must have no control characters (got U+{ord(control.group()):04X} at {control.start()}).",
            code="TEXT_CONTROL_CHARACTER",
        )
    normal = unicodedata.normalize("NFC", _INVISIBLE.sub("", _NEWLINES.sub("\n", text)))
    if not normal.strip():
        raise InputError("a text must have visible characters (got white space only).", code="TEXT_EMPTY")
    return normal
