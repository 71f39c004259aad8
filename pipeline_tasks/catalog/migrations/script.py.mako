"""${message}"""

import sqlalchemy as sa
from alembic import op

from pipeline_tasks.catalog import tables

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Change the schema; there is no way back but a backup."""
    ${upgrades if upgrades else "pass"}
