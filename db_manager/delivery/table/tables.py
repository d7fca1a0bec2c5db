"""The tables of the outbox, and of the processes that empty it."""

from datetime import datetime

from sqlalchemy import (
    REAL,
    BigInteger,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column

from db_manager.base import Base
from db_manager.delivery.table.storage_parameters import CLEANED_BY_NUMBER, stored_with

#: Longest name of a lane that fits, in characters.
LONGEST_LANE = 255
KEY = BigInteger().with_variant(Integer(), "sqlite")  # only an INTEGER counts by itself there
MOMENT = DateTime(timezone=True).with_variant(REAL(), "sqlite")


class OutboxRow(Base):
    """A message that is sent, or was, or never will be."""

    __tablename__ = "delivery__outbox"
    __table_args__ = ({"sqlite_autoincrement": True},)  # a number is never given twice

    id: Mapped[int] = mapped_column(KEY, primary_key=True)
    bot_id: Mapped[int] = mapped_column(BigInteger)
    #: Messages of one lane are sent one after the other.
    lane: Mapped[str] = mapped_column(String(LONGEST_LANE))
    #: Of the Bot API; or the subject of an event for a broker.
    method: Mapped[str] = mapped_column(String(255))
    payload: Mapped[str | None] = mapped_column(Text)
    once: Mapped[bool]
    #: Of a message with `once`: somebody had it, and may have sent it.
    begun: Mapped[bool]
    due_at: Mapped[datetime] = mapped_column(MOMENT)
    attempts: Mapped[int]
    #: 0 open, 1 sent, 2 dead, 3 unknown, 4 expired.
    state: Mapped[int] = mapped_column(SmallInteger)
    #: The process that sends it; only of one that is open.
    owner: Mapped[int | None] = mapped_column(BigInteger)
    message_id: Mapped[int | None] = mapped_column(BigInteger)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(MOMENT)
    ended_at: Mapped[datetime | None] = mapped_column(MOMENT)


stored_with(OutboxRow, CLEANED_BY_NUMBER)
_COLUMNS = OutboxRow.__table__.c
Index(
    "ix_delivery__outbox_open",
    _COLUMNS.lane,
    _COLUMNS.id,
    postgresql_where=_COLUMNS.state == 0,
    sqlite_where=_COLUMNS.state == 0,
)
Index(
    "uq_delivery__outbox_owned",
    _COLUMNS.lane,
    unique=True,
    postgresql_where=_COLUMNS.owner.is_not(None),
    sqlite_where=_COLUMNS.owner.is_not(None),
)


class FileRow(Base):
    """A file of a message, until that is sent."""

    __tablename__ = "delivery__file"

    outbox_id: Mapped[int] = mapped_column(
        KEY, ForeignKey("delivery__outbox.id", ondelete="CASCADE"), primary_key=True
    )
    #: Where it is in the call, as `media[0].media`.
    field: Mapped[str] = mapped_column(String(255), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    content: Mapped[bytes] = mapped_column(LargeBinary)


class MemberRow(Base):
    """A process that sends; it lives while it says so."""

    __tablename__ = "delivery__member"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(255))
    seen_at: Mapped[datetime] = mapped_column(MOMENT)
