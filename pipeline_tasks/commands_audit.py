"""The commands that show, check and repeat what was decided; `cli.py` has their names and arguments."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from pipeline_tasks.command_answer import Answer

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


def verify(arguments: argparse.Namespace) -> Answer:
    """Check the invariants; exit code 1 names what is wrong."""
    from pipeline_tasks.wiring import verifying

    if arguments.save_public_key is not None:
        return _save_public_key(arguments.save_public_key)
    if arguments.backup is not None:
        found = verifying.verify_backup(arguments.backup, arguments.anchor, public_key=arguments.public_key)
    else:
        found = verifying.verify_installation(arguments.anchor, public_key=arguments.public_key)
    whole = "Nothing lost, nothing twice, one champion chain, every promotion gated, the ledger whole."
    data = {"holds": not found.violations, "violations": list(found.violations), "notes": list(found.notes)}
    text = "\n".join((*(found.violations or (whole,)), *found.notes))
    return Answer(data, (text,), code=DIFFERENT if found.violations else DONE)


def _save_public_key(file: Path) -> Answer:
    from pipeline_tasks.assembly import build_parts
    from pipeline_tasks.wiring.signing import save_public_key

    public = save_public_key(build_parts().settings, file)
    text = f"The public key {public.key_id} is in {file}. Keep it elsewhere: `dethrone verify --public-key {file}`."
    return Answer({"key_id": public.key_id, "since": public.since.isoformat(), "file": str(file)}, (text,))


def replay(arguments: argparse.Namespace) -> Answer:
    """Compute a verdict again; exit code 1 when it is not what is stored."""
    from pipeline_tasks.assembly import build_parts
    from pipeline_tasks.wiring import audit

    found = audit.replay(build_parts(), arguments.verdict, project=arguments.project)
    data = {**dataclasses.asdict(found), "same": found.same}
    return Answer(data, (audit.replay_text(found),), code=DONE if found.same else DIFFERENT)
