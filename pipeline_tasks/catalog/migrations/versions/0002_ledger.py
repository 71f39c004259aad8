"""Add the ledger and write the entries of what the catalog holds already."""

import sqlalchemy as sa
from alembic import op

from pipeline_tasks.catalog import tables
from pipeline_tasks.catalog.append_only import create_statements
from pipeline_tasks.catalog.ledger_repository import backfill

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Change the schema; there is no way back but a backup."""
    op.create_table(
        "ledger",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("evidence_digest", sa.Text(), nullable=True),
        sa.Column("previous_hash", sa.Text(), nullable=True),
        sa.Column("entry_hash", sa.Text(), nullable=False),
        sa.Column("at", tables.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("project", "sequence"),
        sa.UniqueConstraint("project", "kind", "subject", name="uq_ledger_subject"),
    )
    backfill(op.get_bind())
    for statement in create_statements("ledger", dialect=op.get_bind().dialect.name):
        op.get_bind().exec_driver_sql(statement)
