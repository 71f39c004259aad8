"""Add signatures to the ledger, and the entries of the releases and API keys that are there already, unsigned."""

import sqlalchemy as sa
from alembic import op

from pipeline_tasks.catalog.ledger_repository import backfill_later

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Change the schema; there is no way back but a backup."""
    op.add_column("ledger", sa.Column("signature", sa.Text(), nullable=True))
    backfill_later(op.get_bind())
