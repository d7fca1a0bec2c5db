"""Notes can be done."""

import sqlalchemy as sa
from alembic import op

revision = "0002_add_done"
down_revision = "0001_first"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("notes__note", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("done", sa.Boolean(), server_default=sa.false(), nullable=False)
        )


def downgrade() -> None:
    with op.batch_alter_table("notes__note", schema=None) as batch_op:
        batch_op.drop_column("done")
