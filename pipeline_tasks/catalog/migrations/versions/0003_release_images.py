"""Add the container images of releases."""

import sqlalchemy as sa
from alembic import op

from pipeline_tasks.catalog import tables
from pipeline_tasks.catalog.append_only import create_statements

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Change the schema; there is no way back but a backup."""
    op.create_table(
        "release_images",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("release_id", sa.Text(), nullable=False),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("image_id", sa.Text(), nullable=False),
        sa.Column("base_digest", sa.Text(), nullable=False),
        sa.Column("layer_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sbom_key", sa.Text(), nullable=False),
        sa.Column("created_at", tables.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("project", "release_id", "image"),
    )
    for statement in create_statements("release_images", dialect=op.get_bind().dialect.name):
        op.get_bind().exec_driver_sql(statement)
