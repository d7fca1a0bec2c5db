"""Giving a connection back: whatever a unit asked of it, the pool has its entry again."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from psycopg.rows import dict_row
from sqlalchemy import delete, event, func, literal, select, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.pool import QueuePool
from support.suspension import cancel_everywhere

from db_manager.base import Base
from db_manager.database.database import Database
from db_manager.database.open_unit import ReadOnly
from db_manager.errors import CommitOutcomeUnknownError
from db_manager.unit.uow import UnitOfWork
from observability.testing import EventRecorder

Open = Callable[..., Database]


class Many(Base):
    """One of many rows."""

    __tablename__ = "giving_back_test__many"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


SELECT = text("SELECT 1")
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
#: More than every pool here holds.
UNITS = 7


def used(database: Database) -> int:
    """Return how many connections the pools of *database* miss."""
    engines = [database.engine, database.checkout.reader]
    pools = [engine.sync_engine.pool for engine in engines if engine is not None]
    return sum(pool.checkedout() for pool in pools if isinstance(pool, QueuePool))


async def use(uow: UnitOfWork, lane: str) -> None:
    """Say one statement on *lane* of *uow*."""
    if lane == "session":
        await uow.session.execute(SELECT)
    elif lane == "connection":
        await uow.connection.execute(SELECT)
    else:
        driver: Any = await uow.driver()
        if hasattr(driver, "cursor") and not hasattr(driver, "execute"):  # asyncmy
            async with driver.cursor() as cursor:
                await cursor.execute("SELECT 1")
        else:
            await driver.execute("SELECT 1")


@pytest.mark.parametrize("level", ["SERIALIZABLE", "other"])
@pytest.mark.parametrize("read_only", [False, True, "snapshot"])
@pytest.mark.parametrize("lane", ["session", "connection", "driver"])
async def test_a_unit_with_an_isolation_level_gives_its_connection_back(
    any_database_url: URL, open_database: Open, level: str, read_only: ReadOnly, lane: str
) -> None:
    """More such units than the pool holds are served, however they end, by one connection."""
    if level == "other":
        sqlite = any_database_url.get_backend_name() == "sqlite"
        level = "READ UNCOMMITTED" if sqlite else "READ COMMITTED"
    database = open_database(any_database_url, pool_size=2, max_overflow=0, pool_timeout=1)
    opened: list[object] = []
    engine = database.checkout.reading_engine() if read_only else database.engine
    event.listen(engine.sync_engine, "connect", lambda driver, _record: opened.append(driver))
    for number in range(UNITS):
        unit = UnitOfWork(database, isolation_level=level, read_only=read_only)
        try:
            async with unit:
                await use(unit, lane)
                if number % 3 == 2:
                    raise ZeroDivisionError  # noqa: TRY301 -- the block is what raises
        except ZeroDivisionError:
            assert unit.state == "rolled_back"
        else:
            assert unit.state == "committed"
        assert used(database) == 0
    assert len(opened) == 1
    async with UnitOfWork(database) as uow:
        await uow.session.execute(SELECT)


async def test_an_isolation_level_of_sqlite_holds_no_lock_afterwards(
    sqlite_database: URL, open_database: Open
) -> None:
    """When such a unit is over, another program can write at once, and updates are not lost."""
    database = open_database(sqlite_database, pool_size=1, max_overflow=0)
    other = open_database(sqlite_database, lock_timeout=0.001)
    async with UnitOfWork(other) as uow:
        await uow.session.execute(text("CREATE TABLE t (id INTEGER)"))
    for level in ("READ UNCOMMITTED", "SERIALIZABLE"):
        async with UnitOfWork(database, isolation_level=level) as uow:
            await uow.session.execute(SELECT)
            driver = await uow.driver()
            assert driver.in_transaction  # BEGIN IMMEDIATE all the same
        for unit in (UnitOfWork(other), UnitOfWork(database), UnitOfWork(other)):
            async with unit as uow:
                await uow.session.execute(text("INSERT INTO t VALUES (1)"))


async def test_autocommit_on_an_engine_of_sqlite_begins_nothing(
    sqlite_database: URL, open_database: Open
) -> None:
    """`engine.connect()` with AUTOCOMMIT can VACUUM; the next unit has its transaction again."""
    database = open_database(sqlite_database, pool_size=1, max_overflow=0)
    async with database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM"))
    async with UnitOfWork(database) as uow:
        await uow.session.execute(SELECT)
        assert (await uow.driver()).in_transaction
    assert used(database) == 0


@pytest.mark.parametrize("where", ["checkin", "finalizer", "reset"])
@pytest.mark.parametrize("size", [1, 2])
async def test_a_return_that_fails_loses_no_entry(
    any_database_url: URL, open_database: Open, where: str, size: int
) -> None:
    """Whatever raises while a connection is given back is told, and the next unit has one."""
    database = open_database(any_database_url, pool_size=size, max_overflow=0, pool_timeout=1)

    def fail(*_: object) -> None:
        raise RuntimeError(where)

    if where != "finalizer":
        event.listen(database.engine.sync_engine, where, fail)
    events = EventRecorder(database.bus, "uow.callback_failed")
    for _ in range(UNITS):
        async with UnitOfWork(database) as uow:
            await uow.session.execute(SELECT)
            raw = await uow.connection.get_raw_connection()
            if where == "finalizer":
                raw._connection_record.finalize_callback.append(fail)
        assert used(database) == 0
    if where != "reset":  # SQLAlchemy logs that by itself, and replaces the connection
        told = [getattr(said, "error", "").partition(":")[0] for said in events.events]
        assert told == ["RuntimeError"] * UNITS
    if where != "finalizer":
        event.remove(database.engine.sync_engine, where, fail)


@pytest.mark.parametrize("how", ["terminate", "stop", "close", "invalidate"])
@pytest.mark.parametrize("read_only", [False, True])
async def test_a_connection_that_was_dropped_inside_of_a_unit_is_replaced(
    sqlite_database: URL, open_database: Open, how: str, read_only: bool
) -> None:
    """After `terminate`, `stop`, `close` or `invalidate` the pool misses none and serves on."""
    database = open_database(sqlite_database, pool_size=1, max_overflow=0, pool_timeout=1)
    for _ in range(UNITS):
        unit = UnitOfWork(database, read_only=read_only)
        try:
            async with unit:
                await unit.session.execute(SELECT)
                if how == "invalidate":
                    await unit.connection.invalidate()
                elif how == "terminate":
                    raw: Any = await unit.connection.get_raw_connection()
                    raw.dbapi_connection.terminate()
                else:
                    ending = getattr(await unit.driver(), how)()
                    if how == "close":
                        await ending
        except Exception:  # noqa: BLE001, S110 -- what it says is not the matter here
            pass
        assert used(database) == 0
    async with UnitOfWork(database, read_only=read_only) as uow:
        assert await uow.session.scalar(SELECT) == 1


async def test_units_that_are_cancelled_while_they_give_back_lose_no_entry(
    any_database_url: URL, open_database: Open
) -> None:
    """A cancellation at any turn of a unit with an isolation level costs the pool nothing."""
    database = open_database(any_database_url, pool_size=1, max_overflow=0, pool_timeout=5)

    async def work() -> None:
        async with UnitOfWork(database, isolation_level="SERIALIZABLE") as uow:
            await uow.session.execute(SELECT)

    for turns in range(25):
        task = asyncio.create_task(work())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert used(database) == 0
    await work()


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_unit_that_is_abandoned_in_a_statement_is_rolled_back(
    database_url: URL, open_database: Open, read_only: bool
) -> None:
    """A coroutine that is closed while its unit waits leaves no connection and no open unit."""
    database = open_database(database_url, pool_size=1, max_overflow=0, pool_timeout=5)
    unit = UnitOfWork(database, read_only=read_only)
    sleeping = "SELECT pg_sleep(60)" if database.engine.dialect.name == "postgresql" else ENDLESS

    async def work() -> None:
        async with unit:
            await unit.session.execute(SELECT)
            begun.append(True)
            await unit.session.execute(text(sleeping))

    begun: list[bool] = []
    working = work()
    while not begun:  # by hand, as the task that runs here: a task would cancel what it waits for
        future = working.send(None)
        if future is not None and not begun:
            future._asyncio_future_blocking = False
            await asyncio.wait([future])
    working.close()
    assert unit.state == "rolled_back"
    assert (used(database), len(database.open)) == (0, 0)
    async with UnitOfWork(database, read_only=read_only) as uow:
        assert await uow.session.scalar(SELECT) == 1


@pytest.mark.parametrize("own", [True, False], ids=["our engine", "an engine of one's own"])
async def test_a_begin_that_was_cancelled_is_no_part_of_the_next_unit(
    postgres_database: URL, open_database: Open, *, own: bool
) -> None:
    """Asyncpg remembers a transaction whose BEGIN was cancelled; such a connection is replaced."""
    if own:
        database = open_database(postgres_database, pool_size=1, max_overflow=0)
    else:
        database = Database(create_async_engine(postgres_database, pool_size=1, max_overflow=0))

    def begin(connection: Any) -> None:
        task: Any = asyncio.current_task()
        asyncio.get_running_loop().call_soon(task.cancel)  # before the server answers
        connection.connection.cursor().execute("SELECT 1")  # past SQLAlchemy, which would notice

    for _ in range(3):
        unit = UnitOfWork(database, isolation_level="SERIALIZABLE")
        with pytest.raises(asyncio.CancelledError):
            async with unit:
                await unit.connection.run_sync(begin)
        assert unit.state == "rolled_back"
        async with UnitOfWork(database) as uow:
            await uow.session.execute(SELECT)
    await database.dispose()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("times", [1, 2, None])
async def test_a_flush_of_many_that_was_cancelled_spoils_no_later_unit(
    postgres_database: URL, open_database: Open, times: int | None, *, late: bool
) -> None:
    """Psycopg sends many rows as a pipeline; wherever that is cancelled, the next unit is well."""
    url = postgres_database.set(drivername="postgresql+psycopg")
    database = open_database(url, pool_size=1, max_overflow=0)
    async with UnitOfWork(database) as uow:
        await uow.connection.run_sync(Base.metadata.tables[Many.__tablename__].create)

    async def write(k: int) -> None:
        async with UnitOfWork(database) as uow:
            uow.session.add_all([Many(id=10 * k + number) for number in range(3)])
            await uow.session.flush()

    await database.engine.dispose()  # the first unit connects, and learns the types
    async for _outcome in cancel_everywhere(write, times=times, late=late):
        async with UnitOfWork(database) as uow:
            assert await uow.session.scalar(select(func.count()).select_from(Many)) in {0, 3}
            await uow.session.execute(delete(Many))
        assert used(database) == 0


async def test_what_makes_rows_is_put_back(any_database_url: URL, open_database: Open) -> None:
    """A factory of rows that a unit sets on the driver's connection is gone at the unit's end."""
    database = open_database(any_database_url, pool_size=1, max_overflow=0)
    async with UnitOfWork(database, resolvable=True) as uow:
        driver = await uow.driver()
        driver.row_factory = dict_row if hasattr(driver, "pgconn") else lambda *_: {}
        driver.text_factory = bytes
    async with UnitOfWork(database) as uow:
        row = (await uow.session.execute(select(literal("text"), literal(1)))).one()
        assert (*row,) == ("text", 1)


@pytest.mark.parametrize("stock", [False, True])
async def test_two_phases_that_were_left_spoil_no_later_unit(
    postgres_database: URL, open_database: Open, *, stock: bool
) -> None:
    """A connection of psycopg that is still in a transaction of two phases is not used again."""
    url = postgres_database.set(drivername="postgresql+psycopg")
    sizes = {"pool_size": 1, "max_overflow": 0}
    database = Database(create_async_engine(url, **sizes)) if stock else open_database(url, **sizes)
    with pytest.raises(CommitOutcomeUnknownError):
        async with UnitOfWork(database) as uow:
            driver = await uow.driver()
            await driver.tpc_begin(driver.xid(1, "a", "b"))
            await driver.execute("SELECT 1")
    async with UnitOfWork(database) as uow:
        assert await uow.session.scalar(SELECT) == 1
    await database.dispose()


async def test_a_pipeline_that_was_left_open_spoils_no_later_unit(
    postgres_database: URL, open_database: Open
) -> None:
    """A connection of psycopg that is still in a pipeline is not used again."""
    url = postgres_database.set(drivername="postgresql+psycopg")
    database = open_database(url, pool_size=1, max_overflow=0)
    left: list[Any] = []
    with pytest.raises(ZeroDivisionError):
        async with UnitOfWork(database) as uow:
            await uow.session.execute(SELECT)
            left.append((await uow.driver()).pipeline())
            await left[0].__aenter__()
            raise ZeroDivisionError
    for _ in range(3):
        async with UnitOfWork(database) as uow:
            assert await uow.session.scalar(SELECT) == 1
    assert used(database) == 0
