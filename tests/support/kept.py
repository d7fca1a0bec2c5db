"""Applications with an outbox on one database, and what is in its table."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.utils.backoff import BackoffConfig
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.delivery import DeliveryPlugin
from db_manager.delivery.inbox.updates import Updates
from db_manager.delivery.table.claims import Claims
from db_manager.plugin import DatabasePlugin
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.application import Application
from lifecycle.bot import attach
from lifecycle.testing import BotApiServer
from observability.testing import EventRecorder

#: Seconds until a test gives up.
PATIENCE = 20
#: aiogram's pause after a getUpdates that failed: by default it is a second, and grows.
AT_ONCE = BackoffConfig(min_delay=0.01, max_delay=0.1, factor=1.3, jitter=0.01)


class Kept:
    """A running application with an outbox."""

    def __init__(self, app: Application, events: EventRecorder) -> None:
        self.app = app
        self.events = events

    @property
    def units(self) -> UnitOfWorkFactory:
        """Makes units."""
        factory: UnitOfWorkFactory = self.app.services["db_manager:uow_factory"]
        return factory

    async def sql(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement in a unit."""
        async with self.units() as uow:
            found = await uow.connection.execute(text(sql), parameters)
            return [tuple(row) for row in found] if found.returns_rows else []

    async def rows(self, what: str = "id, lane, method, state, attempts") -> list[tuple[Any, ...]]:
        """Return columns of the table, in the order in which they were written."""
        return await self.sql(f"SELECT {what} FROM delivery__outbox ORDER BY id")

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait until *holds* returns True."""
        async with asyncio.timeout(PATIENCE):
            while not await holds():  # noqa: ASYNC110 -- of a database
                await asyncio.sleep(0.01)

    async def is_settled(self) -> bool:
        """Return whether no message is open."""
        return await self.sql("SELECT count(*) FROM delivery__outbox WHERE state = 0") == [(0,)]

    async def settled(self) -> None:
        """Wait until no message is open."""
        await self.until(self.is_settled)

    async def bury(self) -> None:
        """Let the next process have at once what dead ones had, as who judges does after a lease.

        On SQLite it takes that by itself when it begins.
        """
        engine: AsyncEngine = self.app.services["db_manager:engine"]
        if engine.dialect.name == "postgresql":
            await self.sql("DELETE FROM delivery__member")
            await Claims(engine, has_members=True).release()
            await Updates(engine, has_members=True).release()

    def of(self, topic: str) -> list[Any]:
        """Return the events of a topic that there are."""
        return list(self.events.topic(topic).events)


@asynccontextmanager
async def client(server: BotApiServer, token: str | None = None) -> AsyncIterator[Bot]:
    """Yield a real client; its connections close without aiogram's pause of 250 ms for TLS."""
    session = AiohttpSession(api=TelegramAPIServer.from_base(server.url))
    connections = await session.create_session()
    try:
        yield Bot(token or server.token, session=session)
    finally:
        await connections.close()


@asynccontextmanager
async def kept(url: URL, *bots: Bot, **keys: Any) -> AsyncIterator[Kept]:
    """Run an application with an outbox during the block.

    Args:
        url: Its database.
        *bots: Its bots; without one it sends nothing itself.
        **keys: Keys of [delivery]; `app` and `database` are keys of those sections.
    """
    app = application(url, **keys)
    if bots:
        app.services.provide("aiogram:bots", bots)
    with EventRecorder(app.bus) as events:
        async with app:
            yield Kept(app, events)


@asynccontextmanager
async def polling(url: URL, dispatcher: Dispatcher, bot: Bot, **keys: Any) -> AsyncIterator[Kept]:
    """Run an application with an inbox, and the polling of its bot, during the block."""
    app = application(url, inbox=True, **keys)
    attach(app, dispatcher)
    with EventRecorder(app.bus) as events:
        run = dispatcher.start_polling(
            bot, handle_signals=False, close_bot_session=False, backoff_config=AT_ONCE
        )
        task = asyncio.create_task(run)
        try:
            await events.wait_for("app.started")
            yield Kept(app, events)
        finally:
            with suppress(RuntimeError):  # it has ended by itself
                await dispatcher.stop_polling()
            await task


def application(url: URL, **keys: Any) -> Application:
    """Return an application that keeps messages; see `kept`."""
    database, of_app = keys.pop("database", {}), keys.pop("app", {})
    return Application(
        [DatabasePlugin, DeliveryPlugin],
        config={
            "app": {"journal": "memory", **of_app},
            "database": {
                "url": url.render_as_string(hide_password=False),
                "slow_unit": 60,
                **database,
            },
            "delivery": {"poll": 0.1, **keys},
        },
    )
