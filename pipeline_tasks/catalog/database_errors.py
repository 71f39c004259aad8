"""Errors of a database's library in our words: away, locked, full, read-only, older, damaged. Pure.

Source: sqlite.org/rescode.html, PostgreSQL's appendix A (error codes).
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from pipeline_tasks.errors import (
    DataCorrupt,
    PermanentError,
    PipelineError,
    ServiceUnavailable,
    TransientError,
    printable,
)

_SQLITE_STARTS = {
    "BUSY": "locked",
    "LOCKED": "locked",
    "FULL": "full",
    "READONLY": "read_only",
    "PERM": "read_only",
    "CANTOPEN": "read_only",
    "CORRUPT": "damaged",
    "NOTADB": "damaged",
    "IOERR": "failing",
}
_SQLSTATES = {
    "53100": "full",
    "53": "away",
    "57": "away",
    "08": "away",
    "40": "locked",
    "55": "locked",
    "25006": "read_only",
    "28": "refused",
    "3D": "refused",
    "42501": "read_only",
    "42P01": "older",
    "42703": "older",
    "XX": "damaged",
    "58": "failing",
}


_LOCKED = """be free (got: {said}). Another program holds it; try again, and if that does not help, look for a backup, \
a SQL shell or a stopped process that has it open."""
_FULL = """have room on its disk (got: {said}). Free some, then give the same command again; nothing was written in \
part."""
_READ_ONLY = """be writable by who runs this (got: {said}). Give its file and folder to that user, and mount the disk \
for writing."""
_REFUSED = "let this user in (got: {said}). Check DETHRONE_CATALOG_URL."
_OLDER = "have this version's tables (got: {said}). Upgrade it with `dethrone up`."
_DAMAGED = "be a whole database (got: {said}). Restore it from a backup: docs/operations.md."
_AWAY = "answer (got: {said}). Check DETHRONE_CATALOG_URL, that the database runs, and its disk."
# kind -> the error, its code (None: the class's own), and what the catalog must do
_SAID: Mapping[str, tuple[type[PipelineError], str | None, str]] = {
    "locked": (ServiceUnavailable, None, _LOCKED),
    "full": (TransientError, "DISK_FULL", _FULL),
    "read_only": (PermanentError, "CATALOG_READ_ONLY", _READ_ONLY),
    "refused": (PermanentError, "CATALOG_REFUSED", _REFUSED),
    "older": (PermanentError, "CATALOG_OUTDATED", _OLDER),
    "damaged": (DataCorrupt, None, _DAMAGED),
    "away": (ServiceUnavailable, None, _AWAY),
    "failing": (ServiceUnavailable, None, _AWAY),
}
_OTHER = (PermanentError, "CATALOG_ERROR", "take what is asked of it (got: {said}). Report it with the command.")


def catalog_error(error: Exception, *, place: str) -> PipelineError:
    """Return the error to raise instead of a database library's."""
    raw = getattr(error, "orig", None) or error
    said = printable(next(iter(str(raw).splitlines()), "") or type(raw).__name__)
    kind, code, text = _SAID.get(_kind(error, raw) or "", _OTHER)
    return kind(f"the catalog at {place} must {text.format(said=said)}", code=code)


def _kind(error: Exception, raw: BaseException) -> str | None:
    name = str(getattr(raw, "sqlite_errorname", "")).removeprefix("SQLITE_")
    state = str(getattr(raw, "sqlstate", None) or "")
    if "no such table" in str(raw) or "no such column" in str(raw):
        return "older"
    if name:
        return next((kind for start, kind in _SQLITE_STARTS.items() if name.startswith(start)), None)
    if state:
        starts = sorted((start for start in _SQLSTATES if state.startswith(start)), key=len)
        return _SQLSTATES[starts[-1]] if starts else None
    is_away = isinstance(error, sa.exc.OperationalError | sa.exc.TimeoutError | sa.exc.InterfaceError)
    return "away" if is_away else None
