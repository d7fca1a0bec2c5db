"""Whole updates through a bot: a unit in the handler, beside the usual session middleware."""

import itertools
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from aiogram import Bot, Dispatcher
from aiogram.types import Message, Update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from benchmarks.report import Scale, Section, Table
from benchmarks.rounds import Case, Clock, Sample, interleave, median, ratio
from benchmarks.statements import CORE_PARTS, INSERT, SELECT, clean, prepare
from db_manager import UnitOfWorkFactory
from db_manager.middleware import DatabaseMiddleware
from db_manager.plugin import DatabasePlugin
from lifecycle import Application
from lifecycle.bot import attach

NAME = "bot"

#: Connections of every pool.
POOL: Final = 10
#: Updates that take turns: more than any cache of aiogram remembers.
DIFFERENT: Final = 1000
MODES: Final = {"sequential": 1, "50 tasks": 50}

BARE, USUAL, MIDDLEWARE, ATTACHED, ALL = (
    "no middleware at all",
    "the usual session middleware",
    "our middleware alone",
    "lifecycle attached, no database",
    "lifecycle attached, db_manager loaded",
)

Handler = Callable[..., Awaitable[None]]
Samples = dict[str, list[Sample]]


# -- handlers ------------------------------------------------------------------------------------


async def ignore(_: Message) -> None:
    """Need no database."""


def with_session(work: str) -> Handler:
    """Return a handler that gets an open session, as aiogram's users have it."""
    part = CORE_PARTS[work]

    async def handle(_: Message, session: AsyncSession) -> None:
        await part(session)
        if work == INSERT:
            await session.commit()

    return handle


def with_unit(work: str) -> Handler:
    """Return a handler that opens a unit of work."""
    part = CORE_PARTS[work]

    async def handle(_: Message, uow_factory: UnitOfWorkFactory) -> None:
        async with uow_factory() as uow:
            await part(uow.session)

    return handle


# -- bots ----------------------------------------------------------------------------------------


class Bots:
    """Makes dispatchers that are fed as a webhook or polling feeds them.

    Args:
        stack: Closes what was opened.
        url: The database.
    """

    def __init__(self, stack: AsyncExitStack, url: URL) -> None:
        self._stack = stack
        self._url = url
        self._bot = Bot("42:TEST")
        pool = {"pool_size": POOL, "max_overflow": 0}
        self.engine = create_async_engine(url, **pool)
        stack.push_async_callback(self.engine.dispose)
        self._updates = itertools.cycle([_update(number) for number in range(DIFFERENT)])

    def bare(self, handler: Handler) -> Case:
        """Return an update through a bot of aiogram alone."""
        return self._fed(Dispatcher(), handler)

    def usual(self, handler: Handler) -> Case:
        """Return an update through a bot whose middleware opens a session for each."""
        dispatcher = Dispatcher()
        maker = async_sessionmaker(self.engine, expire_on_commit=False)

        async def open_session(handler: Any, event: Any, data: dict[str, Any]) -> Any:
            async with maker() as session:
                data["session"] = session
                return await handler(event, data)

        dispatcher.update.middleware(open_session)
        return self._fed(dispatcher, handler)

    async def middleware(self, handler: Handler) -> Case:
        """Return an update through a bot with our middleware, and nothing else of ours."""
        app = await self._started(None)
        dispatcher = Dispatcher()
        dispatcher.update.middleware(DatabaseMiddleware(app.services["db_manager:uow_factory"]))
        return self._fed(dispatcher, handler)

    async def attached(self, handler: Handler, *, database: bool) -> Case:
        """Return an update through a bot as our users have it.

        Args:
            handler: The handler.
            database: False for a bot without the plugin.
        """
        dispatcher = Dispatcher()
        await self._started(dispatcher, database=database)
        return self._fed(dispatcher, handler)

    async def _started(
        self, dispatcher: Dispatcher | None, *, database: bool = True
    ) -> Application:
        settings = {
            "url": self._url.render_as_string(hide_password=False),
            "pool_size": POOL,
            "max_overflow": 0,
            "create_tables": False,
            "drift": "ignore",
        }
        if database:
            app = Application([DatabasePlugin], config={"database": settings})
        else:
            app = Application([])
        if dispatcher is None:
            await self._stack.enter_async_context(app)
        else:
            attach(app, dispatcher)
            await dispatcher.emit_startup(bot=self._bot)
            self._stack.push_async_callback(dispatcher.emit_shutdown, bot=self._bot)
        return app

    def _fed(self, dispatcher: Dispatcher, handler: Handler) -> Case:
        dispatcher.message.register(handler)

        async def feed() -> None:
            update = Update.model_validate(next(self._updates), context={"bot": self._bot})
            await dispatcher.feed_update(self._bot, update)

        return feed


def _update(number: int) -> dict[str, Any]:
    """Return an update as Telegram sends it."""
    person = {"id": number, "is_bot": False, "first_name": "A"}
    message = {
        "message_id": number,
        "date": 1_800_000_000 + number,
        "chat": {"id": number, "type": "private"},
        "from": person,
        "text": "hello",
    }
    return {"update_id": number, "message": message}


async def _idle(bots: Bots, scale: Scale) -> dict[str, Samples]:
    cases = {
        BARE: bots.bare(ignore),
        MIDDLEWARE: await bots.middleware(ignore),
        ATTACHED: await bots.attached(ignore, database=False),
        ALL: await bots.attached(ignore, database=True),
        USUAL: bots.usual(ignore),
    }
    return {
        mode: await interleave(cases, rounds=4 * scale.rounds, units=scale.units, tasks=tasks)
        for mode, tasks in MODES.items()
    }


async def _working(bots: Bots, work: str, scale: Scale) -> dict[str, Samples]:
    cases = {
        USUAL: bots.usual(with_session(work)),
        MIDDLEWARE: await bots.middleware(with_unit(work)),
        ALL: await bots.attached(with_unit(work), database=True),
    }
    return {
        mode: await interleave(cases, rounds=2 * scale.rounds, units=scale.units, tasks=tasks)
        for mode, tasks in MODES.items()
    }


def _table(title: str, modes: dict[str, Samples], base: str, note: str = "") -> Table:
    columns = [""]
    for mode in modes:
        columns += [f"{mode}: updates/s", "wall µs", "ratio", "CPU µs", "ratio"]
    rows: list[tuple[str | float, ...]] = []
    for name in next(iter(modes.values())):
        row: list[str | float] = [name]
        for samples in modes.values():
            wall = median(samples[name], "wall")
            row += [round(1e6 / wall), wall, ratio(samples[name], samples[base], "wall")]
            row += [median(samples[name], "cpu"), ratio(samples[name], samples[base], "cpu")]
        rows.append(tuple(row))
    return Table(title, tuple(columns), rows, note)


async def measure(scale: Scale) -> Section:
    """Measure updates through a bot.

    Args:
        scale: How much; the first of its `urls` is a PostgreSQL server.
    """
    tables: list[Table] = []
    facts: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="db_manager_bench_") as folder:
        databases = {
            "PostgreSQL": make_url(scale.urls[0]),
            "SQLite": make_url(f"sqlite+aiosqlite:///{Path(folder) / 'bench.sqlite3'}"),
        }
        for system, url in databases.items():
            async with AsyncExitStack() as stack:
                bots = Bots(stack, url)
                await prepare(bots.engine)
                stack.push_async_callback(clean, bots.engine)
                if system == "PostgreSQL":
                    idle = await _idle(bots, scale)
                    tables.append(_table("A handler that needs no database", idle, BARE, _IDLE))
                    facts |= _facts("bot.unused", idle, {MIDDLEWARE: BARE, ALL: ATTACHED})
                    facts |= _facts("bot.attached", idle, {ALL: BARE})
                for work in (SELECT, INSERT):
                    working = await _working(bots, work, scale)
                    title = f"{system}: a handler with one unit, one statement ({work})"
                    tables.append(_table(title, working, USUAL))
                    if system == "PostgreSQL":
                        found = _facts("bot.unit", working, {ALL: USUAL})
                        facts = {k: max(v, facts.get(k, 0)) for k, v in (facts | found).items()}
    text = (
        "An update is parsed and goes through `Dispatcher.feed_update` to its one handler, as in "
        "polling. The usual session middleware is the one of every tutorial: "
        "`async with async_sessionmaker() as session`, handed to the handler, which commits when "
        "it wrote. Ours is measured as our users have it: `attach` (correlation, counting of the "
        "updates in flight, names of handlers) and the plugin; "
        f"and the middleware alone. {scale.note}"
    )
    return Section("Through a bot", text, tables, [], facts)


def _facts(name: str, modes: dict[str, Samples], pairs: dict[str, str]) -> dict[str, float]:
    """Return the largest ratio of the steady numbers: CPU at 50 tasks, wall one by one."""
    steady: tuple[tuple[str, Clock], ...] = (("sequential", "wall"), ("50 tasks", "cpu"))
    ratios = [
        ratio(modes[mode][ours], modes[mode][base], clock)
        for mode, clock in steady
        for ours, base in pairs.items()
    ]
    return {name: max(ratios)}


_IDLE: Final = (
    "SQLAlchemy's session is lazy: without a statement it takes no connection, but it is made, "
    "and closed in a task and greenlets of its own."
)
