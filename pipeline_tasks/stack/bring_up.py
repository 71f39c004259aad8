"""Bring the whole installation up: the catalog to its schema, the keys that the stack itself uses, the stack."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pipeline_tasks.catalog import migrate
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.routes import EVERY_PROJECT, ServingRepository
from pipeline_tasks.catalog.signatures import parse_key
from pipeline_tasks.core.atomic_files import replace_file
from pipeline_tasks.core.clock import utc_now
from pipeline_tasks.core.settings import INSTALLED_AT, RESTORED, RESTORING, catalog_url
from pipeline_tasks.deployment.route_plan import unrouted
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.stack import lifecycle
from pipeline_tasks.stack.events import Event
from pipeline_tasks.stack.layout import StackLayout, check_paths, source_root
from pipeline_tasks.stack.lifecycle import OnEvent, UpReport
from pipeline_tasks.stack.process_target import ProcessTarget
from pipeline_tasks.stack.secrets import ensure_secret

SIGNING_KEY = "signing_key"
STACK_KEYS = {"gateway_admin_key": ("shipping", ["admin"]), "gateway_api_key": ("demo", ["predict", "feedback"])}


def start_stack(
    home: Path, *, projects_dir: Path, environment: Mapping[str, str], on_event: OnEvent = lifecycle.ignore_event
) -> UpReport:
    """Start what is not running; safe to repeat, to interrupt and to run twice at once.

    Raises:
        ConfigError: a restore of this home was cut short, or a part could not read its path.
        PermanentError: a newer Dethrone has upgraded the catalog; nothing is started.
    """
    check_paths(StackLayout(home=home.resolve(), root=source_root()))
    before = os.umask(0o077)  # of what is written here, and by every part of the stack: it is theirs alone
    try:
        return _start(home, projects_dir=projects_dir, environment=environment, on_event=on_event)
    finally:
        os.umask(before)


def _start(home: Path, *, projects_dir: Path, environment: Mapping[str, str], on_event: OnEvent) -> UpReport:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    require_whole(home)
    url = catalog_url({**environment, "DETHRONE_HOME": str(home)})
    _remember_start(home)
    migrate.upgrade(url)
    ensure_secret(home / "secrets", SIGNING_KEY)
    issue_stack_keys(home, url=url)
    for deployment_id in forget_unrouted(ProcessTarget(home), ServingRepository(Database(create_engine(url)))):
        on_event(Event(deployment_id, "note", "not started again: no route names it, so what started it was cut short"))
    return lifecycle.up(home, projects_dir=projects_dir, environment=environment, on_event=on_event)


def require_whole(home: Path) -> None:
    """Refuse a home that a restore has left half; from here on a restored one is as any other.

    Raises:
        ConfigError: a restore of this home was cut short.
    """
    if (home / RESTORING).exists():
        raise ConfigError(
            f"{home} must be whole (got a restore that was cut short). Give the same `dethrone restore` again."
        )
    (home / RESTORED).unlink(missing_ok=True)


def forget_unrouted(target: ProcessTarget, serving: ServingRepository) -> list[str]:
    """Leave out of the next start what neither serves nor is kept; of a stack that runs, it may be somebody's work."""
    if not target.is_down():
        return []
    remembered = target.remembered()
    left = unrouted((serving.history(project) for project in serving.projects()), remembered) if remembered else []
    target.forget(left)
    return left


def _remember_start(home: Path) -> None:
    path = home / INSTALLED_AT
    if not path.exists() or not path.stat().st_size:  # empty: the disk was full
        replace_file(path, f"{utc_now().replace(microsecond=0).isoformat()}\n".encode())


def issue_stack_keys(home: Path, *, url: str) -> None:
    """Register the keys of shipping and of the first caller, from their secret files; again changes nothing."""
    file = home / "secrets" / SIGNING_KEY
    signer = parse_key(file.read_text().strip()) if file.is_file() else None
    serving = ServingRepository(Database(create_engine(url, signer=signer)))
    known = {key.name for key in serving.api_keys() if key.revoked_at is None}
    for file_name, (name, scopes) in STACK_KEYS.items():
        if name not in known:
            token = ensure_secret(home / "secrets", file_name)
            serving.issue_key(EVERY_PROJECT, name=name, scopes=scopes, token=token, at=utc_now())
