"""Add the content id of items: rows of a table that are equal are items each and share it."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Change the schema; there is no way back but a backup. What is there has its own id as its content's."""
    op.add_column("items", sa.Column("content_id", sa.Text(), nullable=True))
    op.execute("UPDATE items SET content_id = item_id")
    with op.batch_alter_table("items") as batch:
        batch.alter_column("content_id", existing_type=sa.Text(), nullable=False)
    op.create_index("ix_items_content", "items", ["project", "content_id"])
