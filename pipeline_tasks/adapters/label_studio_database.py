"""Label Studio's PostgreSQL database as one file, with PostgreSQL's own programs."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import sqlalchemy as sa

from pipeline_tasks.errors import ConfigError, ServiceUnavailable

TIMEOUT_SECONDS = 3600


class PostgresqlDump:
    """`pg_dump` and `pg_restore` of one database; its password comes from the address or from ~/.pgpass.

    Every user of the machine sees the arguments of a program, so the password goes to it by its environment.
    """

    def __init__(self, url: str, *, environment: Mapping[str, str]) -> None:
        parsed = sa.make_url(url)
        password = parsed.password or parsed.query.get("password")
        self._environment = {**environment, **({"PGPASSWORD": str(password)} if password else {})}
        shown = sa.URL.create("postgresql", parsed.username, None, parsed.host, parsed.port, parsed.database)
        query = {name: value for name, value in parsed.query.items() if name != "password"}
        self._url = shown.update_query_dict(query).render_as_string()

    def dump(self, path: Path) -> None:
        """Write the database, as it is at one moment, into a file."""
        self._run("pg_dump", "--format=custom", "--no-owner", f"--file={path}", "--dbname", self._url)

    def load(self, path: Path) -> None:
        """Write a dump into an empty database, whole or not at all."""
        self._run("pg_restore", "--no-owner", "--single-transaction", "--exit-on-error", "--dbname", self._url, path)

    def is_empty(self) -> bool:
        """Return whether the database has no table."""
        tables = "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        plain = ("--no-psqlrc", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1")
        return self._run("psql", *plain, "--command", tables, "--dbname", self._url).strip() == "0"

    def _run(self, program: str, *arguments: str | Path) -> str:
        try:
            done = subprocess.run(  # noqa: S603 - PostgreSQL's own program with our arguments
                [program, *map(str, arguments)],
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            raise ConfigError(
                f"{program} must be installed to copy Label Studio's PostgreSQL database (got none). "
                "On Debian: apt install postgresql-client."
            ) from None
        except subprocess.TimeoutExpired:
            raise ServiceUnavailable(
                f"{program} must end within {TIMEOUT_SECONDS} s (got: it still ran). Nothing of it was kept. "
                "Look at what the database server is busy with."
            ) from None
        if done.returncode != 0:
            raise ServiceUnavailable(
                f"{program} must end with 0 (got {done.returncode}: {done.stderr.strip()[-500:]}). "
                "Check DETHRONE_LABEL_STUDIO_DATABASE_URL, and that an empty database of that name exists."
            )
        return done.stdout
