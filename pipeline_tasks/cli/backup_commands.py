"""The commands that keep an installation: backup, restore, upgrade."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from pipeline_tasks.cli.command import argument, command
from pipeline_tasks.cli.output import Answer
from pipeline_tasks.core.settings import catalog_url, home_from, process_environment, projects_dir


@command(
    argument("folder", type=Path, help="one folder for all backups: what it holds is not copied again"),
    argument("--without-secrets", action="store_true", help="leave secrets/ out: keep them elsewhere"),
    argument("--check", action="store_true", help="read every file of the backup; copy the damaged ones again"),
)
def backup(arguments: argparse.Namespace) -> Any:
    """Write everything into a folder, while the stack runs."""
    from pipeline_tasks.backup import restore as backup_restore

    report = backup_restore.save(arguments.folder, with_secrets=not arguments.without_secrets, check=arguments.check)
    return dataclasses.asdict(report) if arguments.json else backup_restore.as_text(report, arguments.folder)


@command(
    argument("folder", type=Path),
    argument("--name", help="which backup of the folder (empty: the newest)"),
)
def restore(arguments: argparse.Namespace) -> Answer:
    """Bring a backup back onto an empty machine, and prove it.

    Exit code 1 names invariants that held when it was made and do not now.
    """
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


@command(argument("project"))
def serve(arguments: argparse.Namespace) -> Any:
    """Start the servers that the route names again, as after a restore."""
    from pipeline_tasks.backup import restore as backup_restore
    from pipeline_tasks.orchestration.resources import build_resources

    started = backup_restore.serve_again(build_resources(), arguments.project)
    return Answer({"started": started}, (f"{', '.join(started)} can predict.",))


@command(argument("folder", type=Path))
def secrets(arguments: argparse.Namespace) -> str:
    """Generate the production stack's passwords and keys.

    Those that are there stay; docker-compose.yml mounts them.
    """
    from pipeline_tasks.stack.cluster import ensure_cluster_secrets

    names = ensure_cluster_secrets(arguments.folder.resolve())
    return (
        f"{len(names)} secrets are in {arguments.folder.resolve()}, a folder that only you can open. Keep a copy "
        f"elsewhere, and name it to docker compose: export DETHRONE_SECRETS={arguments.folder.resolve()}"
    )


@command()
def upgrade(_arguments: argparse.Namespace) -> str:
    """Bring the catalog to this version's schema; `up` does so by itself.

    It runs the missing migrations, registers the stack's own keys, and proves a store that is set by the environment.
    """
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
