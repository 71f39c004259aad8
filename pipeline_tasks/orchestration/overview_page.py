"""The overview page: every project at a glance. Values in, HTML out by `overview_page.html`."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence

from pipeline_tasks.core.html_page import render


@dataclasses.dataclass(frozen=True, slots=True)
class RunLine:
    """One training run's ending."""

    at: dt.datetime
    outcome: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class BesideLine:
    """A model that runs beside the champion: as a shadow, a canary, or an arm of an experiment."""

    kind: str
    version: str
    deployment_id: str
    share: int  # percent of the traffic; 0: it mirrors
    since: dt.datetime
    step_since: dt.datetime
    said: str  # the steps that it passed and with which numbers, or what the experiment is about


@dataclasses.dataclass(frozen=True, slots=True)
class ProjectLine:
    """The line of one project on the page."""

    name: str
    description: str
    champion: str | None
    generation: int
    champion_since: dt.datetime | None
    num_items: int
    num_labels: int
    num_outstanding: int
    num_quarantined: int
    exam_epoch: int | None
    exam_items: int
    live_quality: str
    links: tuple[tuple[str, str], ...]
    runs: tuple[RunLine, ...]
    beside: tuple[BesideLine, ...] = ()
    alarms: tuple[str, ...] = ()


def render_overview(projects: Sequence[ProjectLine]) -> str:
    """Return the page as one HTML document without any outside resource."""
    name = "pipeline_tasks/orchestration/overview_page"
    return render(f"{name}.html", style=f"{name}.css", projects=projects)
