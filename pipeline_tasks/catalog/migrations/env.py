"""Runs the migrations on the connection that `migrate.py` hands over, inside its transaction."""

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext

from pipeline_tasks.catalog import tables


def _render(kind: str, value: Any, _autogenerate: AutogenContext) -> str | Literal[False]:
    return "tables.UtcDateTime()" if kind == "type" and isinstance(value, tables.UtcDateTime) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    render_item=_render,
    render_as_batch=True,  # SQLite cannot alter a column in place
)
context.run_migrations()
