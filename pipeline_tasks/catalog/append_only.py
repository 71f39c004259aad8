"""Database triggers that refuse to change or remove what was recorded, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import sqlalchemy as sa

POSTGRESQL_FUNCTION = """\
CREATE OR REPLACE FUNCTION dethrone_append_only() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    RAISE EXCEPTION USING
        MESSAGE = TG_TABLE_NAME || ' is append-only: add a row instead of changing or removing one.';
END
$body$"""


def create_statements(table: str, *, dialect: str) -> list[str]:
    """Return the statements that make a table append-only; PostgreSQL needs POSTGRESQL_FUNCTION before."""
    if dialect == "postgresql":
        function = "FOR EACH STATEMENT EXECUTE FUNCTION dethrone_append_only()"
        return [f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} {function}"]
    message = f"{table} is append-only: add a row instead of changing or removing one."
    body = f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
    return [
        f"CREATE TRIGGER {table}_append_only_{verb} BEFORE {verb} ON {table} {body}" for verb in ("UPDATE", "DELETE")
    ]


def missing_triggers(connection: sa.Connection, tables: Iterable[str]) -> Iterator[str]:
    """Yield the tables whose triggers are not there, not enabled or not as `create_statements` makes them."""
    if connection.dialect.name == "postgresql":
        # O: fires in every session but a replica's. Bits of tgtype: 2 before, 8 delete, 16 update, 32 truncate.
        query = (
            "SELECT relname FROM pg_trigger JOIN pg_class ON tgrelid = pg_class.oid "
            "JOIN pg_proc ON tgfoid = pg_proc.oid "
            "WHERE tgname = relname || '_append_only' AND tgenabled IN ('O', 'A') AND tgtype = 58 "
            "AND proname = 'dethrone_append_only' AND prosrc LIKE '%RAISE EXCEPTION%' AND prosrc NOT LIKE '%RETURN%'"
        )
        there = set(connection.execute(sa.text(query)).scalars())
        yield from (table for table in tables if table not in there)
        return
    known = set(connection.execute(sa.text("SELECT sql FROM sqlite_master WHERE type = 'trigger'")).scalars())
    yield from (table for table in tables if not known.issuperset(create_statements(table, dialect="sqlite")))
