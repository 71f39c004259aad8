"""Add the chance with which an audit was picked; of earlier ones it is not known."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Change the schema; there is no way back but a backup."""
    op.add_column("audits", sa.Column("inclusion", sa.Float(), nullable=True))
