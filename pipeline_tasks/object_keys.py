"""Names of objects: whether it may be used, and which digest its bytes must have."""

from __future__ import annotations

import re

from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.errors import DataCorrupt

MAX_KEY_BYTES = 1024
_CONTENT_ADDRESSED = re.compile(
    r"^(?:(?:items|packs)/[^/]+/[0-9a-f]{2}|predictions/[^/]+/[0-9-]{10})/([0-9a-f]{64})(?:\.pack|\.parquet)?$"
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
    """Return the SHA-256 that the bytes of an object in `items/`, `packs/` or `predictions/` must have; else None."""
    match = _CONTENT_ADDRESSED.match(key)
    return match.group(1) if match else None


def check_digest(key: str, data: bytes) -> None:
    """Do nothing if the bytes are what the key names, or if it names no digest.

    Raises:
        DataCorrupt: the bytes hash to something else.
    """
    expected = digest_in_key(key)
    if expected is not None and sha256_hex(data) != expected:
        raise DataCorrupt(
            f"{key} must hold bytes with the SHA-256 {expected} (got {sha256_hex(data)}). "
            "Restore the object from a backup, or ingest its source again."
        )
