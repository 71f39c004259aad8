"""The page of a monitor window: its values; `page.html` lays them out. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.core.html_page import render

WORDS = {
    "ALARM": ("keep", "Alarm"),
    "OK": ("promote", "No alarm"),
    "WATCH": ("promote", "No alarm; the newest audits alone look low"),
    "INSUFFICIENT_DATA": ("inconclusive", "Too little data: neither an alarm nor an all-clear"),
    "NO_REFERENCE": ("inconclusive", "Nothing to compare with: no exam speaks of this model version"),
}

Shares = tuple[str, float, float]


def page_key(project: str, window_id: str, page: bytes) -> str:
    """Return where a window's page lies: its name holds its digest, so another page never takes its place."""
    return f"reports/{project}/monitor/{window_id}-{sha256_hex(page)}.html"


def render_window(
    project: str, window_id: str, statistics: Mapping[str, Any], *, alarms: Sequence[str], at: dt.datetime
) -> str:
    """Return the page of one window of live quality."""
    kind, word = WORDS[statistics["state"]]
    drift = statistics["drift"]
    labels, tenths = ([], []) if drift["confidence_psi"] is None else _shares(drift["expected"], drift["actual"])
    return render(
        "pipeline_tasks/monitoring/page.html",
        project=project,
        window_id=window_id,
        statistics=statistics,
        alarms=alarms,
        at=at,
        kind=kind,
        word=word,
        labels=labels,
        tenths=tenths,
    )


def _shares(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> tuple[list[Shares], list[Shares]]:
    """Return (name, reference's share, newest block's share) of each label and of each tenth of confidence."""
    names = sorted({*expected["labels"], *actual["labels"]}, key=lambda name: (-actual["labels"].get(name, 0), name))
    tenths = [f"{10 * index} to {10 * index + 10} %" for index in range(len(actual["confidence"]))]
    by_tenth = [dict(zip(tenths, block["confidence"], strict=True)) for block in (expected, actual)]
    return _rows(names, expected["labels"], actual["labels"]), _rows(tenths, *by_tenth)


def _rows(names: Sequence[str], expected: Mapping[str, int], actual: Mapping[str, int]) -> list[Shares]:
    totals = [max(1, sum(counts.values())) for counts in (expected, actual)]
    return [(name, expected.get(name, 0) / totals[0], actual.get(name, 0) / totals[1]) for name in names]
