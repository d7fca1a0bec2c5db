"""Handlers hold every connection of the pool, and wait for what they have sent: O22."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from aiogram import Dispatcher
from aiogram.methods import SendMessage
from aiogram.types import Message
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.accounting import connected
from support.kept import Kept, client, kept, polling

from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.testing import BotApiServer

Row = Callable[..., None]
#: Seconds without a sign of life until others take over; nobody judges before that.
LEASE = 1.0
_DONE = "SELECT done_at IS NOT NULL FROM delivery__inbox WHERE update_id > 0"


async def test_handlers_that_hold_the_pool_hold_nothing_else_up(
    postgres_database: URL, row: Row, *, full: bool
) -> None:
    """O22: messages are sent and marked, updates stored, and the process lives for all others."""
    held = (10.0 if full else 0.0) + 3 * LEASE
    waiting, go_on = asyncio.Event(), asyncio.Event()
    dispatcher = Dispatcher()

    @dispatcher.message()
    async def hold(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        async with uow_factory() as uow:
            await uow.connection.execute(text("SELECT 1"))  # there is no other one now
            waiting.set()
            await go_on.wait()
            uow.send(message.answer(message.text or ""))

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(BotApiServer())
        one, two, admin = [
            await stack.enter_async_context(each)
            for each in (client(server), client(server), connected(postgres_database))
        ]
        pool = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 60}
        app = await stack.enter_async_context(
            polling(postgres_database, dispatcher, one, lease=LEASE, database=pool)
        )
        judge = await stack.enter_async_context(kept(postgres_database, two, lease=LEASE))
        async with app.units() as uow:
            sending = uow.send(SendMessage(chat_id=7, text="before"))
        await server.user(7, "Ada").say("a")
        await waiting.wait()
        await sending
        await server.user(8, "Bob").say("b")
        await admin.execute("SELECT pg_sleep($1)", held)
        await judge.until(lambda: _is_stored(judge))
        marked = await judge.rows("state")
        go_on.set()
        await judge.until(lambda: _all_done(judge))
        expelled = len(app.of("member.expelled")) + len(judge.of("member.expelled"))
    assert marked == [(1,)]
    assert expelled == 0
    row(
        "O22",
        load=f"a handler holds the only connection of the pool for {held:g} s, lease {LEASE:g} s",
        result="sent and marked, stored, nobody expelled; handled when it was free",
    )


async def _is_stored(app: Kept) -> bool:
    return len(await app.sql(_DONE)) == 2


async def _all_done(app: Kept) -> bool:
    return await app.sql(_DONE) == [(True,)] * 2 and await app.rows("state") == [(1,)] * 3
