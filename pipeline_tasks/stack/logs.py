"""The ends of log files."""

from __future__ import annotations

from pathlib import Path


def log_tail(path: Path, *, num_lines: int, max_bytes: int = 65536) -> list[str]:
    """Return the last lines of a log, or one line that says there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - max_bytes))
            return file.read().decode(errors="replace").splitlines()[-num_lines:]
    except FileNotFoundError:
        return ["(no log yet)"]
