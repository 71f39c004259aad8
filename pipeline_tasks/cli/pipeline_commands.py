"""The commands of a project: its stages, its champion, its callers' keys, and what was judged or refused."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from pipeline_tasks.cli.command import Command, argument, command
from pipeline_tasks.cli.output import Answer, confirmed, media_type_of, shell_attempt
from pipeline_tasks.core.settings import load_settings, user_name
from pipeline_tasks.errors import ConfigError


def _stage(name: str, text: str) -> Command:
    """Return the command that runs one stage of a project by its entry point."""

    def run(arguments: argparse.Namespace) -> Any:
        from pipeline_tasks.orchestration import entrypoints

        return getattr(entrypoints, name)(arguments.project, attempt=shell_attempt(name))

    return Command(name, text, (argument("project"),), run)


ingest = _stage("ingest", "read what is new at the sources")
annotate = _stage("annotate", "push items without a label to Label Studio")
collect = _stage("collect", "bring annotations back")
monitor = _stage("monitor", "read the prediction log, pick audits, measure quality")


@command(
    argument("project"),
    argument("--output", type=Path, help="write the page to this file"),
)
def labels(arguments: argparse.Namespace) -> Answer:
    """Print how labeling goes: answers a day, agreement, people, what waits."""
    from pipeline_tasks.annotation.labeling_report import as_document, as_page, as_text
    from pipeline_tasks.core.atomic_files import replace_file
    from pipeline_tasks.orchestration.overview import labeling_of
    from pipeline_tasks.orchestration.resources import build_resources

    report = labeling_of(build_resources(), arguments.project)
    if arguments.output is None:
        return Answer(as_document(report), (as_text(report),))
    replace_file(arguments.output, as_page(report).encode())
    return Answer({"file": str(arguments.output)}, (f"Wrote {arguments.output}.",))


@command(
    argument("project"),
    argument("--force", action="store_true", help="although there are not enough new labels"),
    argument("--window", choices=["all", "newest"], default="all"),
)
def train(arguments: argparse.Namespace) -> Answer:
    """Snapshot, train, judge, release and ship, without Airflow."""
    from pipeline_tasks.orchestration.local_pipeline import closing_lines, shown_progress, train_to_serve

    with shown_progress():
        outcome = train_to_serve(arguments.project, force=arguments.force, window=arguments.window)
    return Answer(outcome, (closing_lines(arguments.project, outcome),))


@command(argument("action", choices=["sync"]))
def wandb(arguments: argparse.Namespace) -> Answer:  # noqa: ARG001 - `sync` is the only action
    """Upload the runs that were recorded while no W&B server could be reached."""
    from pipeline_tasks.orchestration.resources import build_resources

    synced = build_resources().tracker.sync()
    text = f"{len(synced)} runs uploaded." if synced else "No offline run waits."
    return Answer({"synced": [*synced]}, (text,))


@command(
    argument("project"),
    argument("--to-version"),
    argument("--reason", required=True, help="why: it stands in the ledger"),
    argument("--yes", action="store_true", help="do not ask on a terminal"),
)
def rollback(arguments: argparse.Namespace) -> Any:
    """Return to an earlier champion.

    It says from which to which, and asks on a terminal.
    """
    from pipeline_tasks.orchestration import entrypoints
    from pipeline_tasks.orchestration.resources import build_resources
    from pipeline_tasks.orchestration.rollback_preview import preview

    parts, actor = build_resources(), user_name()
    said = preview(parts, arguments.project, to_version=arguments.to_version, actor=actor, reason=arguments.reason)
    print(said, file=sys.stderr)  # noqa: T201
    if not confirmed("Roll back?", yes=arguments.yes or not sys.stdin.isatty()):
        return Answer({"message": "Nothing was changed."}, ("Nothing was changed.",), code=1)
    return entrypoints.rollback(
        arguments.project,
        parts=parts,
        attempt=shell_attempt("rollback"),
        to_version=arguments.to_version,
        reason=arguments.reason,
        actor=actor,
    )


@command(argument("project"), argument("file", type=Path))
def predict(arguments: argparse.Namespace) -> Answer:
    """Send one file to the gateway and print the answer."""
    import httpx

    settings = load_settings()
    if not arguments.file.is_file():
        raise ConfigError(f"file must exist (got {arguments.file}).")
    key = (settings.home / "secrets" / "gateway_api_key").read_text().strip()
    answer = httpx.post(
        f"{settings.gateway_url}/v1/projects/{arguments.project}/predict",
        content=arguments.file.read_bytes(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": media_type_of(arguments.file)},
        timeout=30,
        trust_env=False,
    )
    return Answer(answer.json(), code=0 if answer.status_code == 200 else 1)


@command(
    argument("action", choices=["issue", "list", "revoke"]),
    argument("--project", default="*"),
    argument("--name", default="caller"),
    argument("--scope", action="append", choices=["predict", "feedback", "admin"]),
    argument("--key-id"),
)
def keys(arguments: argparse.Namespace) -> Any:
    """Issue, list or revoke API keys of the gateway."""
    from pipeline_tasks.catalog.routes import ServingRepository, new_token
    from pipeline_tasks.core.clock import utc_now
    from pipeline_tasks.orchestration.resources import build_resources

    serving = ServingRepository(build_resources().database)
    if arguments.action == "list":
        return [dataclasses.asdict(key) for key in serving.api_keys()]
    if arguments.action == "revoke":
        if not arguments.key_id:
            raise ConfigError("--key-id must be given with revoke (got none). `dethrone keys list` shows them.")
        serving.revoke_key(arguments.key_id, at=utc_now())
        return f"{arguments.key_id} is refused from now on."
    token = new_token()
    scopes = arguments.scope or ["predict", "feedback"]
    key = serving.issue_key(arguments.project, name=arguments.name, scopes=scopes, token=token, at=utc_now())
    return {**dataclasses.asdict(key), "token": token, "note": "the token is shown this once"}


@command(
    argument("project"),
    argument("verdict", nargs="?", help="a verdict's id or its beginning (empty: the newest)"),
    argument("--output", type=Path),
    argument("--exact", action="store_true", help="with an open exam's figures and items; recorded"),
)
def report(arguments: argparse.Namespace) -> Any:
    """Write a verdict's report to a file."""
    from pipeline_tasks.cli import views as cli_views

    return cli_views.save_report(
        arguments.project, verdict=arguments.verdict, output=arguments.output, exact=arguments.exact
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more (got {number}).")
    return number


@command(
    argument("project"),
    argument("--limit", type=_positive, default=100, help="how many are listed (default: 100)"),
    argument("--page", type=_positive, default=1, help="which part of them (default: 1, the newest)"),
)
def quarantine(arguments: argparse.Namespace) -> Any:
    """List what was not accepted, with reasons, newest first."""
    from pipeline_tasks.cli import views as cli_views

    return cli_views.quarantine(arguments.project, limit=arguments.limit, page=arguments.page, as_json=arguments.json)
