"""Add the index by which the side of a group of items is looked up."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Change the schema; there is no way back but a backup."""
    op.create_index("ix_items_group", "items", ["project", "group_key"])
