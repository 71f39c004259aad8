"""Add the schema versions: each class list that a project has had, and what its classes became of the one before."""

import sqlalchemy as sa
from alembic import op

from pipeline_tasks.catalog import tables
from pipeline_tasks.catalog.append_only import create_statements

revision = "0010"
down_revision = "0009"

# The list that each project has now stands for itself: nothing before it is known.
BACKFILL = (
    "INSERT INTO schema_versions (project, version, classes, mapping, undoes, changed_by, created_at) "
    "SELECT project, schema_version, labels, '{}', NULL, '', created_at FROM projects"
)


def upgrade() -> None:
    """Change the schema; there is no way back but a backup."""
    op.create_table(
        "schema_versions",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("classes", sa.JSON(), nullable=False),
        sa.Column("mapping", sa.JSON(), nullable=False),
        sa.Column("undoes", sa.BigInteger(), nullable=True),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.Column("created_at", tables.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("project", "version"),
    )
    op.execute(BACKFILL)
    for statement in create_statements("schema_versions", dialect=op.get_bind().dialect.name):
        op.get_bind().exec_driver_sql(statement)
