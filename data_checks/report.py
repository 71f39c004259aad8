"""Data Docs that need no network: one self-contained page per check, one index per project, no script at all."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from data_checks.charts import bar_chart, share_bar
from data_checks.result import CheckResult
from pipeline_tasks.core.html_page import render

MAX_IDS_SHOWN = 100
VERDICTS = {
    "ok": ("Passed", "Every rule holds."),
    "warn": ("Passed with warnings", "A rule that only warns does not hold; the run goes on."),
    "quarantine": ("Passed, rows put aside", "Failing rows are in quarantine; the run goes on with the rest."),
    "stop": ("Stopped", "The run ends here and the champion stays."),
}
POLICIES = {"stop": "stops the run", "quarantine": "quarantines rows", "warn": "warns"}


@dataclasses.dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of an index page."""

    href: str
    title: str
    stage: str
    severity: str
    summary: str
    created_at: dt.datetime


def render_check(project: str, result: CheckResult, *, created_at: dt.datetime, run_id: str) -> str:
    """Return one check's page."""
    return _page(
        "check",
        project=project,
        result=result,
        failures=sorted(result.failures, key=lambda rule: (not rule.stops, rule.name)),
        when=_time(created_at),
        run_id=run_id,
        policies=POLICIES,
        max_ids=MAX_IDS_SHOWN,
        bar_chart=bar_chart,
        share_bar=share_bar,
    )


def render_index(project: str, entries: Sequence[IndexEntry]) -> str:
    """Return a project's index page: newest check first."""
    ordered = sorted(entries, key=lambda entry: (entry.created_at, entry.href), reverse=True)
    return _page("index", project=project, entries=ordered, time=_time)


def render_root(projects: Mapping[str, int]) -> str:
    """Return the page above the projects: name -> number of checks."""
    return _page("root", projects=projects)


def _page(name: str, **values: Any) -> str:
    return render(f"data_checks/{name}.html", style="data_checks/report.css", verdicts=VERDICTS, **values)


def _time(value: dt.datetime) -> str:
    return value.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
