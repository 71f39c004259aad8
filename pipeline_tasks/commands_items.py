"""`dethrone item`: one item taken out of use; `cli.py` has the names and arguments."""

from __future__ import annotations

import argparse
from typing import Any


def item(arguments: argparse.Namespace) -> Any:
    """Do what the action says with an item."""
    return {"retire": _retire}[arguments.action](arguments)


def _retire(arguments: argparse.Namespace) -> Any:
    from pipeline_tasks.assembly import build_parts, utc_now
    from pipeline_tasks.settings import user_name
    from pipeline_tasks.wiring import retiring

    found = retiring.retire(
        build_parts().database,
        arguments.project,
        arguments.id,
        reason=arguments.reason,
        by=user_name(),
        now=utc_now(),
    )
    return retiring.as_json(found) if arguments.json else retiring.as_text(found)
