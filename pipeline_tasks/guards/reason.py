"""The reason that a person gives for a decision, as the ledger keeps it."""

from __future__ import annotations

from pipeline_tasks.errors import ConfigError


def stated(reason: str | None) -> str:
    """Return a reason on one line, of printable characters.

    Raises:
        ConfigError: nothing of it is left.
    """
    line = "".join(one if one.isprintable() else " " for one in (reason or "").encode(errors="replace").decode())
    found = " ".join(line.split())
    if not found:
        raise ConfigError(f"reason must say why (got {reason!r}): it stands in the ledger.", code="REASON_MISSING")
    return found
