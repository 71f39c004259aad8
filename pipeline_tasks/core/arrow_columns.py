"""Columns of Arrow tables."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def is_ascending(values: pa.ChunkedArray) -> bool:
    """Return whether the values are sorted: then they need no sorted copy."""
    return len(values) < 2 or bool(pc.all(pc.less_equal(values.slice(0, len(values) - 1), values.slice(1))).as_py())
