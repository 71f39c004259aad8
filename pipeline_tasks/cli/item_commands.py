"""`dethrone item`: one item taken out of use."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline_tasks.cli.command import argument, command


@command(
    argument("action", choices=["retire"]),
    argument("project"),
    argument("id", help="(the beginning of) an item's id"),
    argument("--reason", required=True, help="why (kept with your name and the time)"),
)
def item(arguments: argparse.Namespace) -> Any:
    """Take an item out of use, for good: snapshots, exams and verdicts."""
    return {"retire": _retire}[arguments.action](arguments)


def _retire(arguments: argparse.Namespace) -> Any:
    from pipeline_tasks.core.clock import utc_now
    from pipeline_tasks.core.settings import user_name
    from pipeline_tasks.orchestration import item_retirement
    from pipeline_tasks.orchestration.resources import build_resources

    retired = item_retirement.retire(
        build_resources().database,
        arguments.project,
        arguments.id,
        reason=arguments.reason,
        by=user_name(),
        now=utc_now(),
    )
    return item_retirement.as_json(retired) if arguments.json else item_retirement.as_text(retired)
