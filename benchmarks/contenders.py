"""What a user would write without us: SQLAlchemy by hand, other toolkits on it, the bare drivers.

Every function takes an exit stack that closes what it opened, and returns units by their work.
"""

import asyncio
import sqlite3
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any, Final

import aiosqlite
import asyncpg
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from benchmarks.drivers import DRIVER_PARTS, MARK, ROW_PARTS, asyncpg_select
from benchmarks.rounds import Case
from benchmarks.statements import (
    CORE_PARTS,
    GET,
    INSERT,
    ORM_PARTS,
    SELECT,
    SESSION_PARTS,
    THREE,
    key,
    nested,
    nothing,
    whole,
)

#: Connections of every pool that takes part.
POOL: Final = 10

BASE: Final = "sessionmaker.begin()"
#: What SQLAlchemy does with objects whoever ends the transaction.
ALONE: Final = "the ORM alone (floor)"
#: Units of one contender, by their work.
Units = dict[str, Case]


def engine(stack: AsyncExitStack, url: URL, **options: Any) -> AsyncEngine:
    """Return SQLAlchemy's engine with its default settings, but for the size of the pool."""
    made = create_async_engine(url, **{"pool_size": POOL, "max_overflow": 0, **options})
    stack.push_async_callback(made.dispose)
    return made


def by_hand(engine: AsyncEngine) -> dict[str, Units]:
    """Return SQLAlchemy's own two ways of a transaction in one block."""
    maker = async_sessionmaker(engine, expire_on_commit=False)
    return {
        BASE: {work: whole(maker.begin, part) for work, part in SESSION_PARTS.items()},
        "engine.begin()": {work: whole(engine.begin, part) for work, part in CORE_PARTS.items()},
    }


async def orm_alone(stack: AsyncExitStack, engine: AsyncEngine) -> dict[str, Units]:
    """Return the ORM's own work: one session for all, on one connection in one transaction.

    It holds locks of the rows that it changes until *stack* is closed: nobody may come after it.
    """
    session = await stack.enter_async_context(AsyncSession(engine))

    def unit(part: Callable[[Any], Any]) -> Case:
        async def run() -> None:
            await part(session)
            await session.flush()
            session.expunge_all()

        return run

    return {ALONE: {work: unit(part) for work, part in ORM_PARTS.items()}}


def toolkits(stack: AsyncExitStack, engine: AsyncEngine) -> dict[str, Units]:
    """Return the sessions of other toolkits, on the same engine."""
    # Half of what all contenders together take to import, and few settings have toolkits.
    from advanced_alchemy.config import (  # noqa: PLC0415 -- see above
        AsyncSessionConfig,
        SQLAlchemyAsyncConfig,
    )

    config = SQLAlchemyAsyncConfig(
        engine_instance=engine, session_config=AsyncSessionConfig(expire_on_commit=False)
    )
    opened = {"advanced-alchemy": config.get_session, "nonebot-plugin-orm": _nonebot(stack, engine)}
    return {
        name: {work: nested(open_session, part) for work, part in SESSION_PARTS.items()}
        for name, open_session in opened.items()
    }


def _nonebot(stack: AsyncExitStack, engine: AsyncEngine) -> Callable[[], Any]:
    """Return nonebot's `get_session`; it has one engine in a process, which is this one."""
    import nonebot  # noqa: PLC0415 -- see above
    from loguru import logger  # noqa: PLC0415 -- see above

    logger.remove()  # nonebot's
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    nonebot.init(
        driver="~none",
        sqlalchemy_database_url=engine,
        sqlalchemy_session_options={"expire_on_commit": False},
        localstore_cache_dir=folder,
        localstore_config_dir=folder,
        localstore_data_dir=folder,
    )
    get_session: Callable[[], Any] = nonebot.require("nonebot_plugin_orm").get_session
    return get_session


# -- the drivers of PostgreSQL -----------------------------------------------------------------

ASYNCPG: Final = "asyncpg pool and transaction"
ASYNCPG_FLOOR: Final = "asyncpg, no reset (floor)"
#: How SQLAlchemy's users reach the driver.
ASYNCPG_POOLED: Final = "engine.connect(), asyncpg's transaction"
#: Of a unit that only reads: each statement stands for itself.
ASYNCPG_READ_FLOOR: Final = "asyncpg, no reset, no transaction (floor of read_only)"


async def asyncpg_pool(stack: AsyncExitStack, url: URL, *, reset: bool = True) -> Units:
    """Return asyncpg's own pool and transaction; without its reset of connections: the floor."""
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    options: dict[str, Any] = {} if reset else {"reset": nothing}
    pool = await stack.enter_async_context(
        asyncpg.create_pool(plain, min_size=0, max_size=POOL, **options)
    )

    def unit(part: Callable[[Any], Any]) -> Case:
        async def run() -> None:
            async with pool.acquire() as connection, connection.transaction():
                await part(connection)

        return run

    parts = {**DRIVER_PARTS["asyncpg"], **ROW_PARTS["asyncpg"]}
    return {work: unit(part) for work, part in parts.items()}


def pooled_asyncpg(engine: AsyncEngine) -> Units:
    """Return asyncpg's own transaction on a connection of SQLAlchemy's pool, given back unreset."""

    def unit(part: Callable[[Any], Any]) -> Case:
        async def run() -> None:
            async with engine.connect() as connection:
                raw = (await connection.get_raw_connection()).driver_connection
                assert raw is not None
                async with raw.transaction():
                    await part(raw)

        return run

    parts = {**DRIVER_PARTS["asyncpg"], **ROW_PARTS["asyncpg"]}
    return {work: unit(part) for work, part in parts.items()}


async def asyncpg_reads(stack: AsyncExitStack, url: URL) -> Units:
    """Return what reads through asyncpg's own pool, without reset and transaction."""
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    pool = await stack.enter_async_context(
        asyncpg.create_pool(plain, min_size=0, max_size=POOL, reset=nothing)
    )
    unit = whole(pool.acquire, asyncpg_select)
    return {SELECT: unit, GET: unit}


async def psycopg_pool(stack: AsyncExitStack, url: URL) -> dict[str, Units]:
    """Return psycopg's own pool, whose block is a transaction."""
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    pool = AsyncConnectionPool(plain, min_size=1, max_size=POOL, open=False)
    await stack.enter_async_context(pool)
    return {
        "psycopg pool (floor)": {
            work: whole(pool.connection, part)
            for work, part in {**DRIVER_PARTS["psycopg"], **ROW_PARTS["psycopg"]}.items()
        }
    }


# -- SQLite ------------------------------------------------------------------------------------


def with_wal(engine: AsyncEngine) -> AsyncEngine:
    """Give *engine* the settings that ours has: write-ahead log, no fsync at each commit."""

    @event.listens_for(engine.sync_engine, "connect")
    def pragmas(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")

    return engine


def with_begin_immediate(engine: AsyncEngine) -> AsyncEngine:
    """Let *engine* begin with BEGIN IMMEDIATE, as SQLAlchemy's pages show: no update is lost."""

    @event.listens_for(engine.sync_engine, "connect")
    def own_begin(connection: Any, _record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


async def raw_aiosqlite(stack: AsyncExitStack, path: str) -> Units:
    """Return units on one aiosqlite connection, one at a time."""
    connection = await stack.enter_async_context(aiosqlite.connect(path, isolation_level=None))
    await connection.execute("PRAGMA journal_mode = WAL")
    await connection.execute("PRAGMA synchronous = NORMAL")
    lock = asyncio.Lock()

    def unit(part: Callable[[Any], Any]) -> Case:
        async def run() -> None:
            async with lock:
                await connection.execute("BEGIN IMMEDIATE")
                await part(connection)
                await connection.commit()

        return run

    return {work: unit(part) for work, part in DRIVER_PARTS["aiosqlite"].items()}


def raw_sqlite3(stack: AsyncExitStack, path: str) -> Units:
    """Return whole transactions in one thread of their own, one crossing each: the floor."""
    thread = stack.enter_context(ThreadPoolExecutor(1))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    stack.callback(connection.close)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")

    def select() -> None:
        connection.execute(MARK[0], (key(),)).fetchone()

    def insert() -> None:
        connection.execute(MARK[2], ("new", 1))

    def three() -> None:
        mine = key()
        connection.execute(MARK[0], (mine,)).fetchone()
        connection.execute(MARK[1], (mine,))
        connection.execute(MARK[2], ("new", 1))

    def unit(part: Callable[[], None]) -> Case:
        def whole_transaction() -> None:
            connection.execute("BEGIN IMMEDIATE")
            part()
            connection.execute("COMMIT")

        async def run() -> None:
            await asyncio.get_running_loop().run_in_executor(thread, whole_transaction)

        return run

    return {SELECT: unit(select), INSERT: unit(insert), THREE: unit(three)}


def sqlite3_in_place(stack: AsyncExitStack, path: str) -> Units:
    """Return a read in the thread of the event loop, which it blocks: the floor of reading."""
    connection = sqlite3.connect(path, isolation_level=None)
    stack.callback(connection.close)

    async def select() -> None:
        connection.execute(MARK[0], (key(),)).fetchone()

    return {SELECT: select}
