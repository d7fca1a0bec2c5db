"""Notes have a table."""

import sqlalchemy as sa
from alembic import op

revision = "0001_first"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notes__note",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("chat_id", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.String(length=1000), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notes__note")),
        if_not_exists=True,
    )
    with op.batch_alter_table("notes__note", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_notes__note_chat_id"), ["chat_id"], unique=False, if_not_exists=True
        )


def downgrade() -> None:
    op.drop_table("notes__note")
