"""The place that collect has reached in the annotations of a Label Studio project, as the catalog's cursor keeps it."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Any

from pipeline_tasks.core.ports import AnnotationCount

# A change is visible when its transaction ends, its time is from before: read again what is this much older.
OVERLAP = dt.timedelta(seconds=120)
CLOCK_STEP = OVERLAP / 2  # a smaller step back of the server's clock is within the overlap
COMPARED_EVERY = dt.timedelta(days=1)  # equal counts hide an annotation that is gone where another was missed
TIMES = ("changed_at", "compared_at", "began_at", "server_at")


@dataclasses.dataclass(frozen=True, slots=True)
class AnnotationCursor:
    """Up to which change was read, when all was compared, since when the project is there, and the server's clock.

    A Label Studio project that replaced another lacks no annotation that was collected before it began.
    """

    ls_project_id: int | None = None
    changed_at: dt.datetime | None = None
    compared_at: dt.datetime | None = None
    began_at: dt.datetime | None = None
    server_at: dt.datetime | None = None
    ahead_seconds: float = 0.0

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> AnnotationCursor:
        """Return the cursor of a value of the catalog, those of earlier releases too."""
        times = {name: dt.datetime.fromisoformat(value[name]) for name in TIMES if value.get(name)}
        return cls(value.get("ls_project_id"), ahead_seconds=value.get("ahead_seconds", 0.0), **times)

    def value(self) -> dict[str, Any]:
        """Return what the catalog keeps."""
        times = {name: getattr(self, name).isoformat() for name in TIMES if getattr(self, name)}
        return {"ls_project_id": self.ls_project_id, "ahead_seconds": self.ahead_seconds, **times}

    def start(self, ls_project_id: int, before: AnnotationCount, *, now: dt.datetime) -> AnnotationCursor:
        """Return the place to go on from; without `changed_at` everything is read.

        So it is for a project that was made anew, and once where the server's clock went back: what has changed since
        looks older than what is known.
        """
        if self.ls_project_id != ls_project_id:
            return AnnotationCursor(ls_project_id, began_at=self.began_at if self.ls_project_id is None else now)
        return dataclasses.replace(self, changed_at=None) if self.is_ahead_of(before) else self

    def is_ahead_of(self, before: AnnotationCount) -> bool:
        """Tell whether the server's clock went back since it was noted, by itself or beside ours."""
        if self.server_at is None:
            return False
        loss = dt.timedelta(seconds=self.ahead_seconds - before.ahead_seconds)
        return max(self.server_at - before.at, loss) > CLOCK_STEP

    def is_comparison_due(self, *, now: dt.datetime) -> bool:
        """Tell whether the last comparison of all annotations is too long ago."""
        return self.compared_at is None or not dt.timedelta(0) <= now - self.compared_at < COMPARED_EVERY

    def end(self, newest: dt.datetime, before: AnnotationCount, *, compared_at: dt.datetime | None) -> AnnotationCursor:
        """Return the place that a run has reached; it is this one where only the clock would change.

        A time that the server's clock has not reached, or not yet again, is no place to go on from.
        """
        reached = dataclasses.replace(self, changed_at=min(newest, before.at), compared_at=compared_at)
        if reached == self:
            return self
        return dataclasses.replace(reached, server_at=before.at, ahead_seconds=before.ahead_seconds)
