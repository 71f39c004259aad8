"""The clock: read at the edge, and given to the stages as an argument."""

from __future__ import annotations

import datetime as dt


def utc_now() -> dt.datetime:
    """Return the time: read here, at the edge, and given to the stages as an argument."""
    return dt.datetime.now(dt.UTC)
