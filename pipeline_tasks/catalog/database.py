"""The catalog's engine, transactions and fencing leases, on SQLite and PostgreSQL."""

from __future__ import annotations

import dataclasses
import datetime as dt
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.database_errors import catalog_error
from pipeline_tasks.contracts import Attempt, Fence
from pipeline_tasks.errors import StaleAttempt

BUSY_TIMEOUT_SECONDS = 60
SLICE_ROWS = 1000  # rows of one INSERT, values of one IN list: far below the limits of both databases
SIGNER = "dethrone_signer"  # the execution option that holds what signs an entry of the ledger
T = TypeVar("T")
Row = sa.Row[*tuple[Any, ...]]


def create_engine(url: str, *, signer: Callable[[Any], str] | None = None) -> sa.Engine:
    """Return an engine for `sqlite:///path` or `postgresql+psycopg://...`, with the settings that we rely on.

    `signer` signs the entries of the ledger that are written through this engine.
    """
    options = {"execution_options": {SIGNER: signer}}
    if url.startswith("sqlite"):
        engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_SECONDS}, **options)
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_immediate)
        return engine
    return sa.create_engine(url, pool_pre_ping=True, **options)


def _configure_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own BEGIN is deferred: two readers that both write later would fail with "database is locked".
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA recursive_triggers=ON")  # INSERT OR REPLACE fires the append-only triggers too
    cursor.close()


def _begin_immediate(connection: sa.Connection) -> None:
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


@contextmanager
def in_words(engine: sa.Engine) -> Iterator[None]:
    """Let no error of the database's library out but IntegrityError: what is the matter, and what to do, is said."""
    try:
        yield
    except sa.exc.IntegrityError:
        raise
    except (sa.exc.DBAPIError, sa.exc.TimeoutError, sqlite3.Error) as error:
        raise catalog_error(error, place=engine.url.render_as_string(hide_password=True)) from error


class Database:
    """Transactions on the catalog; repositories are built on one of these."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    @contextmanager
    def write(self, *fences: Fence | None) -> Iterator[sa.Connection]:
        """Open a transaction that commits at the end; with fences, only while their leases are the newest.

        Raises:
            StaleAttempt: a newer attempt holds the lease; nothing is written.
            PipelineError: the database is away, locked, full, read-only or damaged (`in_words`); IntegrityError is the
                caller's: a key that is taken decides races.
        """
        with in_words(self.engine), self.engine.begin() as connection:
            for fence in filter(None, fences):
                self._check(connection, fence)
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open a transaction that only reads; all its queries see the catalog at one moment."""
        options: dict[str, Any] = {"read_only": True}
        if self.engine.dialect.name == "postgresql":  # SQLite does so by itself
            options["isolation_level"] = "REPEATABLE READ"
        with in_words(self.engine), self.engine.connect().execution_options(**options) as connection:
            yield connection

    def rows(self, query: sa.Executable) -> Sequence[Row]:
        """Return the rows of one query."""
        with self.read() as connection:
            return connection.execute(query).all()

    def mappings(self, query: sa.Executable) -> Sequence[sa.RowMapping]:
        """Return the rows of one query, by the names of their columns."""
        with self.read() as connection:
            return connection.execute(query).mappings().all()

    def rows_among(self, query: sa.Select[Any], column: sa.ColumnElement[Any], values: Iterable[Any]) -> list[Row]:
        """Return the rows of a query whose `column` is one of these values, of which there may be very many."""
        with self.read() as connection:
            parts = [connection.execute(query.where(column.in_(some))).all() for some in slices(sorted(set(values)))]
        return [row for part in parts for row in part]

    def scalars(self, query: sa.Executable) -> Sequence[Any]:
        """Return the first column of each row."""
        with self.read() as connection:
            return connection.execute(query).scalars().all()

    def scalar(self, query: sa.Executable) -> Any:
        """Return the first column of the first row, or None without a row."""
        with self.read() as connection:
            return connection.execute(query).scalar()

    def records(self, make: Callable[..., T], query: sa.Executable) -> list[T]:
        """Return what `make` makes of each row, whose columns are its arguments."""
        return [make(**row) for row in self.mappings(query)]

    def record(self, make: Callable[..., T], query: sa.Executable) -> T | None:
        """Return what `make` makes of the first row, or None without a row."""
        return next(iter(self.records(make, query)), None)

    def acquire(self, name: str, attempt: Attempt, *, now: dt.datetime) -> Fence:
        """Take the lease `name` for this attempt: the newest taker holds it, all earlier fences are stale."""
        with self.write() as connection:
            insert_ignore(connection, t.leases, [{"name": name, "token": 0, "holder": "", "acquired_at": now}])
            row = connection.execute(self._locked(sa.select(t.leases.c.token).where(t.leases.c.name == name)))
            token = int(row.scalar_one()) + 1
            connection.execute(
                t.leases.update()
                .where(t.leases.c.name == name)
                .values(token=token, holder=attempt.holder, acquired_at=now)
            )
        return Fence(name=name, token=token, holder=attempt.holder)

    def check(self, fence: Fence) -> None:
        """Raise StaleAttempt unless the fence's lease is still the newest; call before an outside effect."""
        with self.read() as connection:
            self._check(connection, fence, lock=False)

    def _check(self, connection: sa.Connection, fence: Fence, *, lock: bool = True) -> None:
        query = sa.select(t.leases.c.token, t.leases.c.holder).where(t.leases.c.name == fence.name)
        row = connection.execute(self._locked(query) if lock else query).one_or_none()
        if row is None or row.token != fence.token:
            newest = row.holder if row is not None else "nobody"
            raise StaleAttempt(
                f"{fence.holder} must hold the lease {fence.name} (got: {newest} holds it). "
                "A newer attempt goes on; this one publishes nothing.",
                holder=newest,
            )

    def _locked(self, query: sa.Select[Any]) -> sa.Select[Any]:
        return query.with_for_update() if self.engine.dialect.name == "postgresql" else query


class Repository:
    """A part of the catalog, and the database that it is in."""

    def __init__(self, database: Database) -> None:
        self.database = database


def columns_of(table: sa.Table, record: type) -> list[sa.Column[Any]]:
    """Return the columns of a table that are the fields of a dataclass."""
    return [table.c[field.name] for field in dataclasses.fields(record)]


def slices(values: Sequence[T], size: int | None = None) -> Iterator[list[T]]:
    """Yield the values in parts that are small enough for one statement."""
    step = size or SLICE_ROWS
    for start in range(0, len(values), step):
        yield list(values[start : start + step])


def wait_for_turn(connection: sa.Connection, name: str) -> None:
    """Let one writer of `name` at a time into its transaction; the others wait until it has committed.

    SQLite has one writer anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})


def insert_ignore(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> int:
    """Insert the rows whose keys are free and return how many were; existing rows stay as they are."""
    if not rows:
        return 0
    if connection.dialect.name == "postgresql":
        # The driver batches many rows into one statement and then knows no row count: count what comes back.
        keys = [column.name for column in table.primary_key]
        # In one order, so that two writers of the same rows wait for each other instead of deadlocking.
        ordered = sorted(rows, key=lambda row: tuple(str(row[key]) for key in keys))
        statement = postgresql.insert(table).on_conflict_do_nothing().returning(table.c[keys[0]])
        return len(connection.execute(statement, ordered).all())
    return int(connection.execute(sqlite.insert(table).on_conflict_do_nothing(), rows).rowcount)
