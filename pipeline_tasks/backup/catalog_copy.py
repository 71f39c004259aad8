"""The catalog as one SQLite file, from SQLite or PostgreSQL, and back into either."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from pipeline_tasks.catalog import migrate
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.errors import ConfigError

ROWS_AT_ONCE = 1000


def dump(source_url: str, path: Path) -> int:
    """Write the whole catalog, as it is at one moment, into a new SQLite file and return how many rows it has.

    Raises:
        PermanentError: the schema is not the one of this code.
    """
    migrate.check(source_url)
    return _copy(source_url, f"sqlite:///{path}")


def load(path: Path, target_url: str) -> int:
    """Write a dump into an empty catalog, after bringing it (a copy that may be changed) to this code's schema.

    Raises:
        ConfigError: the catalog has rows.
        PermanentError: the dump's schema is newer than this code.
    """
    migrate.upgrade(f"sqlite:///{path}")
    return _copy(f"sqlite:///{path}", target_url)


def num_rows(url: str) -> int:
    """Return how many rows a catalog has; 0 where it has no tables yet."""
    engine = create_engine(url)
    try:
        present = set(sa.inspect(engine).get_table_names())
        with Database(engine).read() as connection:
            return sum(
                int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())
                for table in t.metadata.sorted_tables
                if table.name in present
            )
    finally:
        engine.dispose()


def _copy(source_url: str, target_url: str) -> int:
    migrate.upgrade(target_url)
    if num_rows(target_url):
        raise ConfigError(
            "the catalog must be empty (got one with rows). Restore into a new one: DETHRONE_CATALOG_URL."
        )
    source, target = create_engine(source_url), create_engine(target_url)
    total = 0
    try:
        with Database(source).read() as reading, Database(target).write() as writing:
            for table in t.metadata.sorted_tables:
                records = reading.execution_options(stream_results=True).execute(sa.select(table)).mappings()
                for rows in records.partitions(ROWS_AT_ONCE):
                    writing.execute(table.insert(), [dict(row) for row in rows])
                    total += len(rows)
    finally:
        source.dispose()
        target.dispose()
    return total
