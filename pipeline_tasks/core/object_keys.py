"""Names of objects: whether it may be used, and which digest its bytes must have."""

from __future__ import annotations

import re

from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.errors import DataCorrupt

MAX_KEY_BYTES = 1024
ITEMS = "items/"  # objects of one item each; smaller items are in packs
_SHA256 = r"[0-9a-f]{64}"
_CONTENT_ADDRESSED = re.compile(
    rf"(?:(?:items|packs)/[^/]+/[0-9a-f]{{2}}|predictions/[^/]+/[0-9-]{{10}})/({_SHA256})(?:\.pack|\.parquet)?"
    rf"|reports/[^/]+/(?:checks/[^/]+/[0-9a-f]{{16}}|monitor/[a-z]+-[0-9a-f]{{16}})-({_SHA256})\.html"
    r"|reports/[^/]+/checks/[^/]+/[0-9a-f]{16}-([0-9a-f]{12})\.html"  # pages of older releases: a part of the digest
)


def check_key(key: str) -> str:
    """Return the key as it is.

    Raises:
        ValueError: it is empty, too long, absolute, or has an empty, `.` or `..` part or a control character.
    """
    parts = key.split("/")
    bad = any(part in {"", ".", ".."} for part in parts) or any(ord(char) < 32 or ord(char) == 127 for char in key)
    if bad or len(key.encode()) > MAX_KEY_BYTES:
        raise ValueError(
            f"an object key must be a relative path of at most {MAX_KEY_BYTES} bytes without empty, `.` or `..` parts "
            f"and control characters (got {key[:120]!r})."
        )
    return key


def digest_in_key(key: str) -> str | None:
    """Return the SHA-256 that an object's bytes must have: of an item, pack, prediction log, check's or monitor's page.

    None where the key says none, or a part of it only.
    """
    part = _digest_part(key)
    return part if part is not None and len(part) == 64 else None


def names_digest(key: str) -> bool:
    """Return whether a key names a digest, or a part of one, that `check_digest` compares the bytes with."""
    return _digest_part(key) is not None


def _digest_part(key: str) -> str | None:
    match = _CONTENT_ADDRESSED.fullmatch(key)
    return next(filter(None, match.groups())) if match else None


def check_digest(key: str, data: bytes) -> None:
    """Do nothing if the bytes are what the key names, or if it names no digest.

    Raises:
        DataCorrupt: the bytes hash to something else.
    """
    expected = _digest_part(key)
    if expected is not None and not sha256_hex(data).startswith(expected):
        raise DataCorrupt(
            f"{key} must hold bytes with the SHA-256 {expected} (got {sha256_hex(data)}). "
            "It was changed after it was written: restore it from a backup, or ingest an item's source again."
        )
