"""Bring a catalog's schema to this version of the code, or say why the two do not fit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from pipeline_tasks.catalog.database import create_engine, in_words
from pipeline_tasks.errors import PermanentError

_FOLDER = Path(__file__).parent / "migrations"
_LOCK_KEY = 0x6465746872  # any constant: racing upgrades of one PostgreSQL wait for each other on it


def upgrade(url: str) -> str:
    """Run the migrations that are missing and return the schema's revision; racing calls are safe.

    Raises:
        PermanentError: the schema is newer than this code.
        ServiceUnavailable: the database does not answer.
    """
    _keep_private(url)
    with _connection(url) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
        _refuse_newer(connection)
        command.upgrade(_config(connection), "head")
        return head_revision()


def _keep_private(url: str) -> None:
    """Let only the owner read a SQLite file, whoever made its folder; SQLite gives its journals the same mode."""
    name = sa.make_url(url).database if url.startswith("sqlite") else None
    if name and name != ":memory:":
        with contextlib.suppress(OSError):  # what is the matter with the file, opening it says
            Path(name).touch(mode=0o600)
            for path in (Path(name), Path(f"{name}-wal"), Path(f"{name}-shm")):
                if path.exists():
                    path.chmod(0o600)


def check(url: str) -> str:
    """Return the schema's revision if it is the one that this code needs.

    Raises:
        PermanentError: the schema is missing, older or newer.
        ServiceUnavailable: the database does not answer.
    """
    with _connection(url, read_only=True) as connection:
        _refuse_newer(connection)
        revision = _current(connection)
    if revision != head_revision():
        raise PermanentError(
            f"the catalog's schema must be {head_revision()} (got {revision or 'none'}). "
            "Stop the stack, then upgrade the catalog with `dethrone up`.",
            code="CATALOG_OUTDATED",
        )
    return revision


def head_revision() -> str:
    """Return the revision that this code needs."""
    return str(_scripts().get_current_head())


def write_revision(url: str, message: str) -> None:
    """Write the migration from an up-to-date catalog to what tables.py says now, for a person to review."""
    with _connection(url) as connection:
        number = len(list(_scripts().walk_revisions())) + 1
        command.revision(_config(connection), message, autogenerate=True, rev_id=f"{number:04d}")


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(_FOLDER), file_template="%%(rev)s_%%(slug)s")


def _config(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    config.attributes["connection"] = connection
    return config


def _current(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_newer(connection: sa.Connection) -> None:
    revision = _current(connection)
    known = {script.revision for script in _scripts().walk_revisions()}
    if revision is not None and revision not in known:
        raise PermanentError(
            f"the catalog's schema must be {head_revision()} or older (got {revision}, which this version does not "
            "know). A newer Dethrone has upgraded it: install that version, or restore the catalog from a backup.",
            code="CATALOG_NEWER",
        )


@contextmanager
def _connection(url: str, *, read_only: bool = False) -> Iterator[sa.Connection]:
    engine = create_engine(url)
    try:
        with (
            in_words(engine),
            engine.connect().execution_options(read_only=read_only) as connection,
            connection.begin(),
        ):
            yield connection
    finally:
        engine.dispose()
