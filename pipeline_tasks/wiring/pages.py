"""What the web pages show, from parts that a long-running process keeps."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from pipeline_tasks.assembly import Parts, build_parts
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.catalog.monitoring import MonitoringRepository
from pipeline_tasks.catalog.verdicts import VerdictRepository
from pipeline_tasks.evaluation import approval
from pipeline_tasks.evaluation.open_epoch import held_back
from pipeline_tasks.object_keys import names_digest
from pipeline_tasks.wiring.overview_page import render_overview
from pipeline_tasks.wiring.views import overview_lines

_MONITOR_PAGE = re.compile(r"reports/([^/]+)/monitor/[^/]+\.html")
_VERDICT_REPORT = re.compile(rf"verdicts/([^/]+)/([^/]+)/{re.escape(approval.REPORT_NAME)}")


def overview_html() -> str:
    """Return the overview page."""
    return render_overview(overview_lines(_shared_parts()))


def project_of(key: str) -> str | None:
    """Return the project of a verdict's report, or None of another page."""
    named = _VERDICT_REPORT.fullmatch(key)
    return named[1] if named else None


def read_report(key: str, *, exact: bool) -> bytes:
    """Return a stored report as it was when its digest was recorded.

    Not `exact`: of a verdict whose epoch is open, what is told of it.

    Raises:
        KeyError: there is no such report, or it is of no recorded verdict or look and its key names no digest.
        DataCorrupt: what is stored is another page.
    """
    parts = _shared_parts()
    if not (named := _VERDICT_REPORT.fullmatch(key)):
        if not (names_digest(key) or _is_newest_of_older_release(parts, key)):
            raise KeyError(key)
        return parts.store.get(key)
    record = VerdictRepository(parts.database).find(named[1], named[2])
    if record is None:
        raise KeyError(key)
    page = approval.read_report(parts.store, record)
    held = None if exact else held_back(parts.database, parts.store, record)
    return page if held is None else held.page.encode()


def _is_newest_of_older_release(parts: Parts, key: str) -> bool:
    """Return whether it is the page of the newest look of a monitor that wrote no digest into its key."""
    named = _MONITOR_PAGE.fullmatch(key)
    return named is not None and MonitoringRepository(parts.database).newest_page(named[1]) == key


def projects_with_labelers(names: Iterable[str]) -> list[str]:
    """Return those of the projects that are in Label Studio."""
    labels = LabelRepository(_shared_parts().database)
    return [name for name in sorted(names) if labels.registration(name) is not None]


@functools.cache
def _shared_parts() -> Parts:
    return build_parts()
