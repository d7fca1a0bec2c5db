"""SIGTERM while handlers work: what can end is committed, the rest is rolled back and named: L5."""

import asyncio
import os
import signal
import time
from collections.abc import Callable

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.types import Message
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.accounting import connected

from db_manager.plugin import DatabasePlugin
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.application import Application
from lifecycle.bot import run_polling
from lifecycle.testing import BotApiServer
from observability.testing import EventRecorder

SHORT, LONG = 20, 2
SHORT_SECONDS, LONG_SECONDS = 0.6, 30.0
NAME = "stopping_under_load"


async def serve_until_sigterm(url: URL, drain: float) -> tuple[EventRecorder, float]:
    """Run a bot, send SIGTERM while all handlers work; return the story, and the stop's time."""
    app = Application(
        [DatabasePlugin()],
        config={
            "app": {"drain": drain, "grace": drain + 6},
            "database": {
                "url": url.render_as_string(hide_password=False),
                "application_name": NAME,
                "pool_size": SHORT + LONG,
            },
        },
    )
    events = EventRecorder(app.bus)
    dispatcher = Dispatcher()
    at_work = asyncio.Semaphore(0)

    @dispatcher.message()
    async def handle(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        async with uow_factory() as uow:
            await uow.session.execute(
                text("INSERT INTO work VALUES (:what)"), {"what": message.text}
            )
            at_work.release()
            await asyncio.sleep(SHORT_SECONDS if message.text == "short" else LONG_SECONDS)

    async with BotApiServer() as server:
        bot = Bot(server.token, AiohttpSession(api=TelegramAPIServer.from_base(server.url)))
        polling = asyncio.create_task(run_polling(app, dispatcher, bot))
        user = server.user(id=7, name="Ada")
        for what in ["short"] * SHORT + ["long"] * LONG:
            await user.say(what)
        for _ in range(SHORT + LONG):
            await at_work.acquire()
        begun = time.perf_counter()
        os.kill(os.getpid(), signal.SIGTERM)
        await polling
    seconds = time.perf_counter() - begun
    return events, seconds


async def count(url: URL) -> dict[str, int]:
    """Return the rows of each kind, and the backends that are left."""
    async with connected(url) as connection:
        rows = await connection.fetch("SELECT what, count(*) AS n FROM work GROUP BY what")
        left = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", NAME
        )
    return {**{row["what"]: row["n"] for row in rows}, "backends": left}


async def test_a_stop_drains_before_it_disposes(
    postgres_database: URL, row: Callable[..., None]
) -> None:
    """L5: 20 units that can end are committed, 2 are rolled back at the deadline and named."""
    async with connected(postgres_database) as connection:
        await connection.execute("CREATE TABLE work (what text)")
    events, seconds = await serve_until_sigterm(postgres_database, drain=2.0)
    assert await count(postgres_database) == {"short": SHORT, "backends": 0}
    drained = events.assert_event("app.drained").as_dict()
    assert drained["waited"] == SHORT + LONG
    handler = f"{__name__}.serve_until_sigterm.<locals>.handle"
    last = range(SHORT + 1, SHORT + LONG + 1)
    assert sorted(drained["cancelled"]) == [f"update {number} ({handler})" for number in last]
    rolled_back = events.topic("uow.rollback").events
    assert [event.as_dict()["cause"] for event in rolled_back] == ["cancelled"] * LONG
    events.assert_sequence("app.drained", "plugin.stopping", "database.drained", "app.stopped")
    assert seconds < 8.0, "the grace time"
    row(
        "L5",
        load=f"SIGTERM with {SHORT} handlers in units of {SHORT_SECONDS} s and {LONG} of 30 s",
        result=f"{SHORT} committed, {LONG} rolled back and named, no backend left, {seconds:.1f} s",
    )


async def test_without_the_drain_work_is_lost(postgres_database: URL) -> None:
    """L5, the wrong way: a stop that does not wait commits none of the 20."""
    async with connected(postgres_database) as connection:
        await connection.execute("CREATE TABLE work (what text)")
    await serve_until_sigterm(postgres_database, drain=0.0)
    assert await count(postgres_database) == {"backends": 0}
