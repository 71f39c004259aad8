"""`dethrone item`: one item taken out of use; `main.py` has the names and arguments."""

from __future__ import annotations

import argparse
from typing import Any


def item(arguments: argparse.Namespace) -> Any:
    """Do what the action says with an item."""
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
