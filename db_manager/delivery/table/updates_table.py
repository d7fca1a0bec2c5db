"""The table of the inbox, and how a unit says that an update is done."""

from datetime import datetime
from typing import Final

from sqlalchemy import BigInteger, Index, String, Text, UniqueConstraint, and_
from sqlalchemy.orm import Mapped, mapped_column

from db_manager.base import Base
from db_manager.delivery.table.storage_parameters import CLEANED_BY_NUMBER, stored_with
from db_manager.delivery.table.tables import KEY, LONGEST_LANE, MOMENT

IS_OPEN: Final = "done_at IS NULL AND parked_at IS NULL"
#: Of one update: this process has it, and it is open.
IS_MINE: Final = "id = :id AND owner + 0 = :me AND coalesce(done_at, parked_at) IS NULL"
DONE: Final = """
UPDATE delivery__inbox SET done_at = {now}, payload = NULL, owner = NULL, attempts = :attempts
WHERE {mine}
"""


class InboxRow(Base):
    """An update that Telegram has sent."""

    __tablename__ = "delivery__inbox"
    __table_args__ = (UniqueConstraint("bot_id", "update_id"), {"sqlite_autoincrement": True})

    #: Numbers of updates begin anew after a quiet week; these do not.
    id: Mapped[int] = mapped_column(KEY, primary_key=True)
    bot_id: Mapped[int] = mapped_column(BigInteger)
    update_id: Mapped[int] = mapped_column(BigInteger)
    #: Updates of one lane are handled one after the other.
    lane: Mapped[str] = mapped_column(String(LONGEST_LANE))
    payload: Mapped[str | None] = mapped_column(Text)
    received_at: Mapped[datetime] = mapped_column(MOMENT)
    attempts: Mapped[int]
    #: How often its process died while it had this.
    deaths: Mapped[int]
    #: The process that handles it; only of one that is open.
    owner: Mapped[int | None] = mapped_column(BigInteger)
    done_at: Mapped[datetime | None] = mapped_column(MOMENT)
    parked_at: Mapped[datetime | None] = mapped_column(MOMENT)
    error: Mapped[str | None] = mapped_column(Text)


stored_with(InboxRow, CLEANED_BY_NUMBER)
_COLUMNS = InboxRow.__table__.c
_OPEN = and_(_COLUMNS.done_at.is_(None), _COLUMNS.parked_at.is_(None))
Index(
    "ix_delivery__inbox_open",
    _COLUMNS.lane,
    _COLUMNS.id,
    postgresql_where=_OPEN,
    sqlite_where=_OPEN,
)
Index(
    "uq_delivery__inbox_owned",
    _COLUMNS.lane,
    unique=True,
    postgresql_where=_COLUMNS.owner.is_not(None),
    sqlite_where=_COLUMNS.owner.is_not(None),
)
