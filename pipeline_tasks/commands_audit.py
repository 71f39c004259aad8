"""The commands that show, check and repeat what was decided; `cli.py` has their names and arguments."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

DONE, DIFFERENT = 0, 1


def history(arguments: argparse.Namespace) -> Any:
    """Print the ledger, or what served at a time."""
    from pipeline_tasks.assembly import build_parts, utc_now
    from pipeline_tasks.wiring import audit

    parts, project = build_parts(), arguments.project
    if arguments.at is not None:
        found = audit.history_at(parts, project, at=audit.parse_time(arguments.at, now=utc_now()))
        return found if arguments.json else audit.at_text(found)
    if not arguments.json:
        return audit.ledger_text(parts, project)
    return audit.ledger_rows(parts, project) if arguments.ledger else audit.route_rows(parts, project)


def verify(arguments: argparse.Namespace) -> int:
    """Check the invariants; exit code 1 names what is wrong."""
    from pipeline_tasks.wiring import views

    violations = views.violations(arguments.anchor)
    for violation in violations:
        print(violation)  # noqa: T201
    if not violations:
        print("Nothing lost, nothing twice, one champion chain, every promotion gated, the ledger whole.")  # noqa: T201
    return DIFFERENT if violations else DONE


def replay(arguments: argparse.Namespace) -> int:
    """Compute a verdict again; exit code 1 when it is not what is stored."""
    from pipeline_tasks.assembly import build_parts
    from pipeline_tasks.wiring import audit

    found = audit.replay(build_parts(), arguments.verdict, project=arguments.project)
    if arguments.json:
        print(json.dumps({**dataclasses.asdict(found), "same": found.same}, indent=2))  # noqa: T201
    else:
        print(audit.replay_text(found))  # noqa: T201
    return DONE if found.same else DIFFERENT
