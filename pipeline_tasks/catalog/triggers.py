"""Database triggers that refuse to change or remove what was recorded, on SQLite and PostgreSQL."""

from __future__ import annotations

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
