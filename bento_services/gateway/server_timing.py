"""`Server-Timing`: where the time of one request went (Source: W3C Server Timing; durations are milliseconds)."""

from __future__ import annotations

import re
from collections.abc import Mapping

TIMING_HEADER = "Server-Timing"
# What an inference service may tell of itself; other names stay inside.
KNOWN_PARTS = frozenset({"queue", "decode", "model"})
MAX_SECONDS = 3600.0
_PART = re.compile(r"\s*([a-z]{1,20})\s*;\s*dur=(\d{1,7}(?:\.\d{1,9})?)\s*")


def format_timing(spans: Mapping[str, float], *, total_seconds: float) -> str:
    """Return the header's text, the total last."""
    parts = [*spans.items(), ("total", total_seconds)]
    return ", ".join(f"{name};dur={seconds * 1000:.3f}" for name, seconds in parts)


def parse_timing(text: str) -> dict[str, float]:
    """Return the known parts of a header in seconds; what is not understood is passed over."""
    spans = {}
    for part in text[:1000].split(","):
        match = _PART.fullmatch(part)
        if match is not None and match[1] in KNOWN_PARTS:
            spans[match[1]] = min(float(match[2]) / 1000, MAX_SECONDS)
    return spans
