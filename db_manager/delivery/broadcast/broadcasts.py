"""How far a broadcast has got, and what may be done about it."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.delivery.broadcast.broadcast_sql import broadcast_statements
from db_manager.delivery.broadcast.broadcast_tables import (
    BROADCAST_STATES,
    ON_ITS_WAY,
    OUTCOMES,
    BroadcastState,
    Outcome,
)
from db_manager.delivery.table.at_once import AtOnce
from db_manager.dialects.known import dialect_of


@dataclass(frozen=True, slots=True, kw_only=True)
class BroadcastCounts:
    """A broadcast, as far as it has got.

    Added in 0.2.

    Args:
        number: Its number.
        state: `running`, `paused`, `cancelled` or `ended`.
        total: How many chats it goes to.
        sent: How many have it.
        blocked: How many do not want to hear of the bot.
        failed: How many Telegram refuses for another reason.
        unknown: With `once=True`, of how many nobody knows.
    """

    number: int
    state: BroadcastState
    total: int
    sent: int
    blocked: int
    failed: int
    unknown: int

    @property
    def waiting(self) -> int:
        """How many do not have it yet; of one that was cancelled, and never will."""
        return self.total - self.sent - self.blocked - self.failed - self.unknown


class Broadcasts:
    """The broadcasts of a bot: the service `delivery:broadcasts`.

    Each method is a transaction of its own, and takes effect within a second.

    Added in 0.2.

    Args:
        engine: The engine of their database.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._at_once = AtOnce(engine)
        self._sql = broadcast_statements(dialect_of(engine.dialect))

    async def progress(self, number: int) -> BroadcastCounts:
        """Return how far it has got.

        Args:
            number: What `uow.broadcast` has returned.

        Raises:
            LookupError: There is none.
        """
        found = await self._at_once.rows(self._sql["progress"], {"id": number})
        if not found:
            raise LookupError(f"there is no broadcast {number}")
        _, state, total, *counts = found[0]
        named = dict(zip(OUTCOMES, counts, strict=True))
        return BroadcastCounts(number=number, state=BROADCAST_STATES[state], total=total, **named)

    async def pause(self, number: int) -> BroadcastCounts:
        """Write no more messages until `resume`; those on their way are sent.

        Args:
            number: What `uow.broadcast` has returned.

        Raises:
            LookupError: There is none.
        """
        return await self._change("pause", number)

    async def resume(self, number: int) -> BroadcastCounts:
        """Go on where it was paused.

        Args:
            number: What `uow.broadcast` has returned.

        Raises:
            LookupError: There is none.
        """
        return await self._change("resume", number)

    async def cancel(self, number: int) -> BroadcastCounts:
        """Write no more messages; those on their way are sent.

        Args:
            number: What `uow.broadcast` has returned.

        Raises:
            LookupError: There is none.
        """
        return await self._change("cancel", number)

    async def chats(self, number: int, outcome: Outcome) -> list[int]:
        """Return the chats with an outcome, in the order of their ids.

        Args:
            number: What `uow.broadcast` has returned.
            outcome: `sent`, `blocked`, `failed` or `unknown`. The chats that have it are forgotten
                `keep_sent` seconds after the end, the others stay.

        Raises:
            ValueError: There is no such outcome.
        """
        state = ON_ITS_WAY + 1 + OUTCOMES.index(outcome)
        found = await self._at_once.rows(self._sql["chats"], {"id": number, "state": state})
        return [row.chat_id for row in found]

    async def _change(self, how: str, number: int) -> BroadcastCounts:
        await self._at_once.count(self._sql[how], {"id": number})
        return await self.progress(number)
