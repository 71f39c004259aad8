"""What the web pages show, from parts that a long-running process keeps."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from pipeline_tasks.assembly import Parts, build_parts
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.wiring.overview_page import render_overview
from pipeline_tasks.wiring.views import overview_lines


def overview_html() -> str:
    """Return the overview page."""
    return render_overview(overview_lines(_shared_parts()))


def read_object(key: str) -> bytes:
    """Return a stored object; KeyError if there is none."""
    return _shared_parts().store.get(key)


def projects_with_labelers(names: Iterable[str]) -> list[str]:
    """Return those of the projects that are in Label Studio."""
    labels = LabelRepository(_shared_parts().database)
    return [name for name in sorted(names) if labels.registration(name) is not None]


@functools.cache
def _shared_parts() -> Parts:
    return build_parts()
