"""The tables of broadcasts, and of the chats that each goes to."""

from datetime import datetime
from typing import Final, Literal

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, SmallInteger, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from db_manager.base import Base
from db_manager.delivery.table.storage_parameters import CLEANED_BY_NUMBER, stored_with
from db_manager.delivery.table.tables import KEY, MOMENT

BroadcastState = Literal["running", "paused", "cancelled", "ended"]
#: In the order of their numbers in the table.
BROADCAST_STATES: Final[tuple[BroadcastState, ...]] = ("running", "paused", "cancelled", "ended")
RUNNING, PAUSED, CANCELLED, ENDED = range(4)

Outcome = Literal["sent", "blocked", "failed", "unknown"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("sent", "blocked", "failed", "unknown")
#: States of a recipient; those from `ON_ITS_WAY` + 1 on are `OUTCOMES`, in their order.
WAITING, ON_ITS_WAY = range(2)


class BroadcastRow(Base):
    """A message that goes to many chats."""

    __tablename__ = "delivery__broadcast"
    __table_args__ = ({"sqlite_autoincrement": True},)  # a number is never given twice

    id: Mapped[int] = mapped_column(KEY, primary_key=True)
    bot_id: Mapped[int] = mapped_column(BigInteger)
    method: Mapped[str] = mapped_column(String(64))
    #: Its fields; erased at the end.
    payload: Mapped[str | None] = mapped_column(Text)
    once: Mapped[bool]
    state: Mapped[int] = mapped_column(SmallInteger)
    total: Mapped[int] = mapped_column(Integer)
    sent: Mapped[int] = mapped_column(Integer)
    blocked: Mapped[int] = mapped_column(Integer)
    failed: Mapped[int] = mapped_column(Integer)
    unknown: Mapped[int] = mapped_column(Integer)
    #: The last chat whose message was written; they go in the order of their ids.
    reached: Mapped[int | None] = mapped_column(BigInteger)
    #: When the next ones are; of one that is paused or over, nothing is to be done.
    next_at: Mapped[datetime | None] = mapped_column(MOMENT)
    created_at: Mapped[datetime] = mapped_column(MOMENT)
    ended_at: Mapped[datetime | None] = mapped_column(MOMENT)


class RecipientRow(Base):
    """A chat to which a broadcast goes."""

    __tablename__ = "delivery__recipient"

    broadcast_id: Mapped[int] = mapped_column(
        KEY, ForeignKey("delivery__broadcast.id", ondelete="CASCADE"), primary_key=True
    )
    chat_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    state: Mapped[int] = mapped_column(SmallInteger)
    #: What is said to this chat only, as JSON; until its message is written.
    fields: Mapped[str | None] = mapped_column(Text)
    #: The message in the outbox, while it is on its way.
    message: Mapped[int | None] = mapped_column(BigInteger)
    message_id: Mapped[int | None] = mapped_column(BigInteger)
    error: Mapped[str | None] = mapped_column(Text)


stored_with(RecipientRow, CLEANED_BY_NUMBER)
_COLUMNS = RecipientRow.__table__.c
Index(
    "ix_delivery__recipient_on_its_way",
    _COLUMNS.message,
    postgresql_where=_COLUMNS.state == ON_ITS_WAY,
    sqlite_where=_COLUMNS.state == ON_ITS_WAY,
)
