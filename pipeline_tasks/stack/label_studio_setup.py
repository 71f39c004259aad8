"""Label Studio's database before its first start, and the proof that the first start went to its end."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import httpx

from pipeline_tasks.adapters.local_ports import address
from pipeline_tasks.errors import ServiceUnavailable
from pipeline_tasks.stack.layout import StackLayout
from pipeline_tasks.stack.secrets import write_private


def prepare_database(layout: StackLayout) -> bool:
    """Give a first start the migrated, empty database that `make install` left; True if it was put there.

    The user and the token are made in the first start, in several steps that a kill can cut: what a start left
    that never came to its end, and that holds no project, is thrown away. Label Studio must not run meanwhile.
    """
    database = layout.label_studio_dir / "label_studio.sqlite3"
    if layout.label_studio_stamp.exists() or _num_projects(database):
        return False
    for suffix in ("", "-wal", "-shm", "-journal"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    if not layout.label_studio_template.exists():
        return False
    work = database.with_name("label_studio.sqlite3.new")
    shutil.copyfile(layout.label_studio_template, work)
    work.chmod(0o600)
    work.replace(database)
    return True


def confirm_token(layout: StackLayout, *, port: int, token: str) -> None:
    """Check that the generated token is let in, and remember that the first start is over.

    Raises:
        ServiceUnavailable: it is refused, or nobody answers.
    """
    url = f"{address(port)}/api/current-user/whoami"
    try:
        response = httpx.get(url, headers={"Authorization": f"Token {token}"}, timeout=60, trust_env=False)
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise ServiceUnavailable(
            f"Label Studio must let the token of this installation in (got {type(error).__name__} at {url}). "
            "If its token was changed by hand, write the new one to secrets/label_studio_token."
        ) from error
    if not layout.label_studio_stamp.exists():
        write_private(layout.label_studio_stamp, "the user and the token exist\n")


def _num_projects(database: Path) -> int:
    """Return how many projects a database holds: none in one that is missing, half made or new."""
    if not database.exists():
        return 0
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            return int(connection.execute("select count(*) from project").fetchone()[0])
        except sqlite3.DatabaseError:
            return 0
