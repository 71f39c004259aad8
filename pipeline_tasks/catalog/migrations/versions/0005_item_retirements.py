"""Add the items that were taken out of use by hand."""

import sqlalchemy as sa
from alembic import op

from pipeline_tasks.catalog import tables
from pipeline_tasks.catalog.append_only import create_statements

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Change the schema; there is no way back but a backup."""
    op.create_table(
        "item_retirements",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("item_id", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at", tables.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("project", "item_id"),
    )
    for statement in create_statements("item_retirements", dialect=op.get_bind().dialect.name):
        op.get_bind().exec_driver_sql(statement)
