"""A place in the pool is free again, and its connection closed, whatever fails with them."""

import asyncio
from collections.abc import Callable
from threading import Event
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.util import greenlet_spawn
from support.line import Line

from db_manager.database.database import Database
from db_manager.dialects.sqlite.connection import SqliteConnection
from db_manager.errors import TransactionEndedError
from db_manager.unit.uow import UnitOfWork

Open = Callable[..., Database]


def assert_free(database: Database, *closed: Any) -> None:
    """Assert that no place of the pool is in use, and that these driver connections are closed."""
    pool: Any = database.engine.sync_engine.pool
    assert pool.checkedout() == 0
    assert [database.dialect.is_closed(driver) for driver in closed] == [True] * len(closed)


async def take(database: Database) -> tuple[Any, SqliteConnection]:
    """Take a connection to a SQLite file out of the pool, and return it and the driver's own."""
    pooled = await greenlet_spawn(database.engine.sync_engine.raw_connection)
    driver = pooled.driver_connection
    assert isinstance(driver, SqliteConnection)
    return pooled, driver


def hold_up(driver: SqliteConnection) -> Event:
    """Let the thread of *driver* wait until the event that is returned is set."""
    go_on = Event()
    driver.call_unawaited(go_on.wait)
    return go_on


async def cancel_in_wait(work: "asyncio.Task[Any]", go_on: Event) -> BaseException | None:
    """Cancel *work* where it waits for the thread, let the thread go on, and return the error."""
    for _ in range(10):
        await asyncio.sleep(0)
    assert not work.done()
    work.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.wait({work})
    return None if work.cancelled() else work.exception()


async def test_a_connection_that_a_listener_refuses_is_closed(
    any_database_url: URL, open_database: Open
) -> None:
    """When a `connect` listener raises, nobody knows the connection, so the pool closes it."""
    database, opened = open_database(any_database_url), []

    def refuse(adapter: Any, _entry: object) -> None:
        opened.append(adapter.driver_connection)
        raise LookupError

    event.listen(database.engine.sync_engine, "connect", refuse)
    with pytest.raises(LookupError):
        async with database.engine.connect():
            pass
    assert len(opened) == 1
    assert_free(database, *opened)


async def test_a_listener_cannot_keep_a_connection_that_is_given_up(
    any_database_url: URL, open_database: Open
) -> None:
    """When an `invalidate` listener raises, the connection is closed and its place free."""
    database = open_database(any_database_url)

    def fail(*_given: object) -> None:
        raise LookupError

    event.listen(database.engine.sync_engine, "invalidate", fail)
    async with database.engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        with pytest.raises(LookupError):
            await connection.invalidate()
        assert_free(database, driver)
    assert_free(database)


async def test_a_close_that_is_cancelled_frees_the_place(
    sqlite_database: URL, open_database: Open
) -> None:
    """An invalidation that is cut short gives the place back, and the connection ends by itself."""
    database = open_database(sqlite_database)
    pooled, driver = await take(database)
    go_on = hold_up(driver)
    work = asyncio.create_task(greenlet_spawn(pooled.invalidate))
    assert await cancel_in_wait(work, go_on) is None
    assert work.cancelled()
    assert_free(database, driver)
    await driver.close()


async def test_a_unit_knows_that_its_connection_was_given_up(
    sqlite_database: URL, open_database: Open
) -> None:
    """Who swallows the cancellation of a close is told what was lost by the next statement."""
    database = open_database(sqlite_database)
    with pytest.raises(TransactionEndedError, match="invalidated"):
        async with UnitOfWork(database) as uow:
            driver = await uow.driver()
            go_on = hold_up(driver)
            connection = uow.checked_out
            assert connection is not None
            work = asyncio.create_task(greenlet_spawn(connection.invalidate))
            await cancel_in_wait(work, go_on)
            assert work.cancelled()
            await uow.session.execute(text("SELECT 1"))
    assert_free(database, driver)


async def test_a_rollback_that_is_cancelled_frees_the_place(
    sqlite_database: URL, open_database: Open
) -> None:
    """Who keeps the error of a cancelled ROLLBACK outside of units keeps no place of the pool."""
    database = open_database(sqlite_database)
    kept: list[BaseException] = []
    pooled, driver = await take(database)
    await driver.execute("BEGIN")

    async def give_back() -> None:
        try:
            await greenlet_spawn(pooled.close)
        except asyncio.CancelledError as error:
            kept.append(error)
            raise

    go_on = hold_up(driver)
    await cancel_in_wait(asyncio.create_task(give_back()), go_on)
    assert kept
    assert_free(database, driver)
    async with database.engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1


async def test_who_is_cancelled_while_a_connection_is_given_up_hears_of_it(
    postgres_database: URL, open_database: Open
) -> None:
    """A cancellation that arrives while asyncpg says good-bye is not swallowed."""
    async with Line(postgres_database.host or "", postgres_database.port or 5432) as line:
        database = open_database(line.url(postgres_database))
        pooled = await greenlet_spawn(database.engine.sync_engine.raw_connection)
        driver = pooled.driver_connection
        line.fall_silent()
        work = asyncio.create_task(greenlet_spawn(pooled.invalidate))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not work.done()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert_free(database, driver)
        line.speak()


async def test_what_asyncpg_says_of_itself_is_an_error_of_the_database(
    postgres_database: URL, open_database: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that dies between two steps of a statement is no error of a kind of its own."""
    database = open_database(postgres_database)

    async def fail(*_: object, **_more: object) -> None:
        raise asyncpg.InternalClientError("cannot switch to state 12")

    with pytest.raises(DBAPIError, match="cannot switch"):
        async with UnitOfWork(database) as uow:
            driver = await uow.driver()
            monkeypatch.setattr(type(driver), "prepare", fail)
            await uow.session.execute(text("SELECT 1"))
    assert uow.state == "rolled_back"
    monkeypatch.undo()
    assert_free(database)
