"""The commands that show, check and repeat what was decided."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from pipeline_tasks.cli.command import argument, command, one_of
from pipeline_tasks.cli.output import Answer

DONE, DIFFERENT = 0, 1


@command(
    argument("project"),
    argument("--at", metavar="TIME", help="what served at this ISO time, and why (no time zone: UTC)"),
    argument("--ledger", action="store_true", help="with --json: every entry, not just who served"),
)
def history(arguments: argparse.Namespace) -> Any:
    """Print the ledger: verdicts, approvals, promotions, rollbacks."""
    from pipeline_tasks.audit import history as audit_history
    from pipeline_tasks.core.clock import utc_now
    from pipeline_tasks.orchestration.resources import build_resources

    parts, project = build_resources(), arguments.project
    if arguments.at is not None:
        state = audit_history.history_at(
            parts.database, parts.store, project, at=audit_history.parse_time(arguments.at, now=utc_now())
        )
        return state if arguments.json else audit_history.at_text(state)
    if not arguments.json:
        return audit_history.ledger_text(parts.database, parts.store, project)
    return (
        audit_history.ledger_rows(parts.database, project)
        if arguments.ledger
        else audit_history.route_rows(parts.database, project)
    )


@command(
    argument(
        "--anchor",
        action="append",
        default=[],
        metavar="PROJECT:SEQ:HASH",
        help="the ledger must still hold this entry, noted down from `dethrone history` (may be repeated)",
    ),
    argument("--backup", type=Path, metavar="FOLDER", help="check its newest backup where it lies; nothing has to run"),
    one_of(
        argument(
            "--public-key",
            type=Path,
            metavar="FILE",
            help="the keys that may have signed the ledger (empty: the stack's own)",
        ),
        argument("--save-public-key", type=Path, metavar="FILE", help="write the stack's public key, and no more"),
    ),
)
def verify(arguments: argparse.Namespace) -> Answer:
    """Check the invariants: nothing lost, nothing twice, one whole ledger.

    Exit code 1 names what is wrong.
    """
    from pipeline_tasks.backup import verify as backup_verify

    if arguments.save_public_key is not None:
        return _save_public_key(arguments.save_public_key)
    if arguments.backup is not None:
        verification = backup_verify.verify_backup(arguments.backup, arguments.anchor, public_key=arguments.public_key)
    else:
        verification = backup_verify.verify_installation(arguments.anchor, public_key=arguments.public_key)
    whole = "Nothing lost, nothing twice, one champion chain, every promotion gated, the ledger whole."
    data = {
        "holds": not verification.violations,
        "violations": list(verification.violations),
        "notes": list(verification.notes),
    }
    text = "\n".join((*(verification.violations or (whole,)), *verification.notes))
    return Answer(data, (text,), code=DIFFERENT if verification.violations else DONE)


def _save_public_key(file: Path) -> Answer:
    from pipeline_tasks.audit.signing_keys import save_public_key
    from pipeline_tasks.orchestration.resources import build_resources

    public = save_public_key(build_resources().settings, file)
    text = f"The public key {public.key_id} is in {file}. Keep it elsewhere: `dethrone verify --public-key {file}`."
    return Answer({"key_id": public.key_id, "since": public.since.isoformat(), "file": str(file)}, (text,))


@command(
    argument("verdict", help="a verdict's id or its beginning"),
    argument("--project", help="where verdicts of several projects begin so"),
)
def replay(arguments: argparse.Namespace) -> Answer:
    """Compute a verdict again from its evidence and compare every byte.

    Exit code 1 when it is not what is stored.
    """
    from pipeline_tasks.audit import replay as audit_replay
    from pipeline_tasks.orchestration.resources import build_resources

    parts = build_resources()
    replayed = audit_replay.replay(parts.database, parts.store, arguments.verdict, project=arguments.project)
    data = {**dataclasses.asdict(replayed), "same": replayed.same}
    return Answer(data, (audit_replay.replay_text(replayed),), code=DONE if replayed.same else DIFFERENT)
