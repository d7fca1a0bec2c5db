"""An outbox as one writes it in an afternoon, right or with one of the usual mistakes."""

import asyncio
from typing import Any, Final

from aiogram import Bot
from aiogram.exceptions import AiogramError
from sqlalchemy import text

from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.plugin import Plugin

#: For PostgreSQL.
TABLE: Final = """
    CREATE TABLE delivery__outbox (
        id bigserial PRIMARY KEY, chat bigint, message text, state smallint DEFAULT 0,
        claimed timestamptz DEFAULT '-infinity'
    )
"""
#: Seconds until others take what is claimed.
LEASE: Final = 1.5
_PAUSE: Final = 0.03
_INSERT: Final = text("INSERT INTO delivery__outbox (chat, message) VALUES (:chat, :message)")
_CLAIM: Final = """
    UPDATE delivery__outbox AS o SET claimed = now() FROM ({candidates}) AS candidate
    WHERE o.id = candidate.id AND o.state = 0 AND o.claimed < now() - :lease * interval '1 s'
    RETURNING o.id, o.chat, o.message
"""
#: Who may be claimed: the first message of each chat, or any.
_HEADS: Final = "SELECT min(id) AS id FROM delivery__outbox WHERE state = 0 GROUP BY chat"
_ROWS: Final = """
    SELECT id FROM delivery__outbox WHERE state = 0 AND claimed < now() - :lease * interval '1 s'
    ORDER BY id LIMIT 10 FOR UPDATE SKIP LOCKED
"""
_MARK: Final = text("UPDATE delivery__outbox SET state = 1 WHERE id = :id")
#: The ways; the first one is right, except for processes that freeze.
WAYS: Final = ("heads", "rows", "mark-first", "once-tried")


class NaiveOutbox(Plugin):
    """Sends what `send` has put into its table.

    Args:
        bot: Who sends.
        way: `heads`, or a wrong one: `rows` are claimed without regard to chats, `mark-first` says
            that a message is sent before it is, `once-tried` gives up after an error.
    """

    name = "naive_outbox"
    requires = ("db_manager",)

    def __init__(self, bot: Bot, way: str) -> None:
        self._bot = bot
        self._way = way
        candidates = _ROWS if way == "rows" else _HEADS
        self._claim = text(_CLAIM.format(candidates=candidates))

    @staticmethod
    async def send(uow: UnitOfWork, answer: Any) -> None:
        """Send a message once the unit is committed."""
        row = {"chat": answer.chat_id, "message": answer.text}
        await uow.connection.execute(_INSERT, row)

    async def start(self, context: PluginContext) -> None:
        """Begin to send."""
        context.spawn(self._relay(context.services["db_manager:uow_factory"]))

    async def _relay(self, units: UnitOfWorkFactory) -> None:
        while True:
            async with units() as uow:
                rows = (await uow.connection.execute(self._claim, {"lease": LEASE})).all()
            await asyncio.gather(*(self._send(units, *row) for row in rows))
            await asyncio.sleep(0 if rows else _PAUSE)

    async def _send(self, units: UnitOfWorkFactory, number: int, chat: int, message: str) -> None:
        if self._way == "mark-first":
            await _mark(units, number)
        try:
            await self._bot.send_message(chat, message)
        except AiogramError:
            if self._way != "once-tried":
                return  # again, when the claim is over
        await _mark(units, number)


async def _mark(units: UnitOfWorkFactory, number: int) -> None:
    async with units() as uow:
        await uow.connection.execute(_MARK, {"id": number})
