"""The commands that keep an installation: backup, restore, upgrade; `main.py` has their names and arguments."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from pipeline_tasks.cli.output import Answer
from pipeline_tasks.core.settings import catalog_url, home_from, process_environment, projects_dir


def backup(arguments: argparse.Namespace) -> Any:
    """Write a backup."""
    from pipeline_tasks.backup import restore as backup_restore

    report = backup_restore.save(arguments.folder, with_secrets=not arguments.without_secrets, check=arguments.check)
    return dataclasses.asdict(report) if arguments.json else backup_restore.as_text(report, arguments.folder)


def restore(arguments: argparse.Namespace) -> Answer:
    """Bring a backup back; exit code 1 names invariants that held when it was made and do not now."""
    from pipeline_tasks.backup import restore as backup_restore

    environment = process_environment()
    report = backup_restore.restore(
        arguments.folder,
        name=arguments.name,
        home_dir=home_from(environment),
        projects_dir=projects_dir(),
        environment=environment,
    )
    text = backup_restore.as_text(report, arguments.folder)
    return Answer(dataclasses.asdict(report), (text,), code=1 if report.violations else 0)


def serve(arguments: argparse.Namespace) -> Any:
    """Start the champion's servers again."""
    from pipeline_tasks.backup import restore as backup_restore
    from pipeline_tasks.orchestration.resources import build_resources

    started = backup_restore.serve_again(build_resources(), arguments.project)
    return Answer({"started": started}, (f"{', '.join(started)} can predict.",))


def upgrade(_arguments: argparse.Namespace) -> str:
    """Run the missing migrations, register the stack's own keys, and prove a store that is set by the environment."""
    from pipeline_tasks.catalog import migrate
    from pipeline_tasks.orchestration.resources import build_resources
    from pipeline_tasks.stack.bring_up import issue_stack_keys, require_whole

    environment = process_environment()
    require_whole(home_from(environment))
    url = catalog_url(environment)
    revision = migrate.upgrade(url)
    issue_stack_keys(home_from(environment), url=url)
    if environment.get("DETHRONE_S3_ENDPOINT"):  # `dethrone up` proves the store that it starts
        store = build_resources().store
        store.ensure_bucket()
        store.self_test()
    return f"The catalog's schema is {revision}."


def secrets(arguments: argparse.Namespace) -> str:
    """Generate the secrets that docker-compose.yml mounts; those that are there stay."""
    from pipeline_tasks.stack.cluster import ensure_cluster_secrets

    names = ensure_cluster_secrets(arguments.folder.resolve())
    return (
        f"{len(names)} secrets are in {arguments.folder.resolve()}, a folder that only you can open. Keep a copy "
        f"elsewhere, and name it to docker compose: export DETHRONE_SECRETS={arguments.folder.resolve()}"
    )
