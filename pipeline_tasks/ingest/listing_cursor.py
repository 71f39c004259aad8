"""The memory of a source's last listing, so that a run with nothing new costs next to nothing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from pipeline_tasks.catalog.items import Cursor
from pipeline_tasks.ingest.sources.listing import FileSource, ListingDigest, digest_of

MANY_FILES = 10_000
SETTLED = dt.timedelta(minutes=1)
LOOK_AT_EACH = dt.timedelta(hours=24)


class ListingMemory:
    """Compares a source's listing with the one that the cursor remembers.

    A listing asks for the size and time of each file. Of a folder with 10,000 files and more, whose last change is
    older than a minute, only the folders' times are looked at, which shows new, removed and renamed files; files
    that are overwritten in place there are found by the full listing, once a day.
    """

    def __init__(
        self, files: FileSource, *, policy_id: str, cursor: Cursor | None, now: dt.datetime, by_folder: bool
    ) -> None:
        self._files = files
        self._by_folder = by_folder
        self._policy_id = policy_id
        self._last: Mapping[str, Any] | None = None if cursor is None else cursor.value
        self._now = now
        self._folders = self._folders_digest()

    def new_digest(self) -> ListingDigest:
        return ListingDigest(self._policy_id)

    def unchanged(self) -> tuple[int, Mapping[str, Any]] | None:
        """Return the number of entries and the cursor's value if nothing changed since, else None."""
        last = self._last
        if last is None or last.get("policy") != self._policy_id:
            return None
        if self._folders is not None and self._folders == last["folders"]:
            looked_at = dt.datetime.fromisoformat(last["looked_at"])
            if looked_at <= self._now < looked_at + LOOK_AT_EACH:
                return last["count"], last
        digest = digest_of(self._files.listing(), into=self.new_digest())
        if digest.value() != last["listing"]:
            return None
        return digest.count, self.cursor_value(digest)

    def cursor_value(self, digest: ListingDigest) -> dict[str, Any]:
        """Return what to remember of a listing that was read to its end just now."""
        is_quick = digest.count >= MANY_FILES and self._is_settled()
        return {
            "policy": self._policy_id,
            "listing": digest.value(),
            "count": digest.count,
            "folders": self._folders if is_quick else None,
            "looked_at": self._now.isoformat() if is_quick else None,
        }

    def _is_settled(self) -> bool:
        """Say whether nothing is being written now: a copy in progress changes files, not folders."""
        return self._files.newest_ns < (self._now - SETTLED).timestamp() * 1e9

    def _folders_digest(self) -> str | None:
        """Return the folders' fingerprint, taken before the listing: a change in between shows at the next run."""
        if not self._by_folder:
            return None
        if self._last is not None and self._last.get("count", 0) < MANY_FILES:
            return None
        try:
            return self._files.folders_digest()
        except OSError:
            return None  # the listing that follows says what is wrong
