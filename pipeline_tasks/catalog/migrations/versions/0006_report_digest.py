"""Add the digest of the page that a verdict's approver reads."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Change the schema; there is no way back but a backup. Reports that are there already have no digest."""
    op.add_column("verdicts", sa.Column("report_digest", sa.Text(), nullable=True))
