"""What the web pages show, from parts that a long-running process keeps."""

from __future__ import annotations

import functools

from pipeline_tasks.assembly import Parts, build_parts
from pipeline_tasks.wiring.overview_page import render_overview
from pipeline_tasks.wiring.views import overview_lines


def overview_html() -> str:
    """Return the overview page."""
    return render_overview(overview_lines(_shared_parts()))


def read_object(key: str) -> bytes:
    """Return a stored object; KeyError if there is none."""
    return _shared_parts().store.get(key)


@functools.cache
def _shared_parts() -> Parts:
    return build_parts()
