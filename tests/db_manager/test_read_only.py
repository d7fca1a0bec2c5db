"""Read-only units: what a unit without a transaction refuses, alike on every database."""

import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError

from db_manager.database.database import Database
from db_manager.database.open_unit import ReadOnly
from db_manager.errors import UnitOfWorkStateError
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork

SELECT = text("SELECT 1")
WRITE = "INSERT INTO t VALUES (1)"


@pytest.fixture
def database(any_database_url: URL, open_database: Callable[..., Database]) -> Database:
    """A database whose pools hold one connection."""
    return open_database(any_database_url, pool_size=1, max_overflow=0, pool_timeout=2)


@pytest.mark.parametrize("used", [False, True])
async def test_a_savepoint_is_refused_where_there_is_no_transaction(
    database: Database, used: bool
) -> None:
    """With read_only=True a savepoint is an error that says what to do, and the unit goes on."""
    async with UnitOfWork(database, read_only=True) as uow:
        if used:
            await uow.session.execute(SELECT)
        with pytest.raises(UnitOfWorkStateError, match='read_only="snapshot"'):
            async with uow.savepoint():
                pytest.fail("it began")
        with pytest.raises(UnitOfWorkStateError, match='read_only="snapshot"'):
            async with uow.session.begin_nested():
                pytest.fail("it began")
        assert await uow.session.scalar(SELECT) == 1
        assert await uow.connection.scalar(SELECT) == 1
    assert uow.state == "committed"
    assert database.pool_levels()["used"] == 0


async def test_a_refused_savepoint_is_not_tried_again(database: Database) -> None:
    """`run` does not repeat work that asks for a savepoint where there is none."""
    asked = 0

    async def work(uow: UnitOfWork) -> None:
        nonlocal asked
        asked += 1
        async with uow.savepoint():
            pytest.fail("it began")

    with pytest.raises(UnitOfWorkStateError, match="needs a transaction"):
        await UnitOfWorkFactory(database).run(work, read_only=True, attempts=3)
    assert asked == 1


@pytest.mark.parametrize("read_only", [True, "snapshot"])
async def test_sqlite_refuses_writes_to_the_end_of_the_unit(
    sqlite_database: URL, open_database: Callable[..., Database], read_only: ReadOnly
) -> None:
    """A PRAGMA does not let the unit that says it write either."""
    database = open_database(sqlite_database)
    unit = UnitOfWork(database, read_only=read_only)
    with pytest.raises(OperationalError, match="readonly"):
        async with unit:
            await unit.session.execute(text("PRAGMA query_only = 0"))
            await unit.session.execute(text("CREATE TABLE t (id INTEGER)"))
    assert unit.state == "rolled_back"


async def _switch_off(driver: Any) -> None:
    await driver.execute("PRAGMA query_only = 0")
    await driver.execute(WRITE)


async def _commit_first(driver: Any) -> None:
    await driver.commit()
    await driver.execute(WRITE)


async def _commit_what_only_read(driver: Any) -> None:
    await driver.execute("SELECT 1")
    await driver.commit()
    await driver.cursor().execute(WRITE)  # as the other lanes do


async def _commit_itself(driver: Any) -> None:
    driver.isolation_level = None
    try:
        await driver.execute(WRITE)
    finally:
        driver.isolation_level = ""


async def _hide_in_a_comment(driver: Any) -> None:
    await driver.cursor().execute(f"{WRITE} /* busy_timeout */")


@pytest.mark.parametrize("memory", [False, True], ids=["file", "memory"])
@pytest.mark.parametrize("read_only", [True, "snapshot"])
@pytest.mark.parametrize(
    "write",
    [_switch_off, _commit_first, _commit_what_only_read, _commit_itself, _hide_in_a_comment],
)
async def test_sqlite_refuses_writes_on_the_drivers_lane(
    sqlite_database: URL,
    open_database: Callable[..., Database],
    write: Callable[[Any], Awaitable[None]],
    read_only: ReadOnly,
    memory: bool,
) -> None:
    """Whatever was done with the bare driver, its next statement cannot write; later units can."""
    database = open_database(
        sqlite_database.set(database=":memory:") if memory else sqlite_database
    )
    async with UnitOfWork(database) as uow:
        await uow.session.execute(text("CREATE TABLE t (id INTEGER)"))
    unit = UnitOfWork(database, read_only=read_only)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        async with unit:
            await write(await unit.driver())
    assert unit.state == "rolled_back"
    async with UnitOfWork(database) as uow:
        assert (await uow.session.scalars(text("SELECT id FROM t"))).all() == []
        await uow.session.execute(text(WRITE))


async def test_a_snapshot_has_savepoints(database: Database) -> None:
    """A part of a snapshot that fails is undone alone, and the rest is still one snapshot."""
    async with UnitOfWork(database, read_only="snapshot") as uow:
        await uow.session.execute(SELECT)
        with pytest.raises(Exception, match="nowhere"):
            async with uow.savepoint():
                await uow.session.execute(text("SELECT * FROM nowhere"))
        async with uow.savepoint():
            assert await uow.session.scalar(SELECT) == 1
    assert uow.state == "committed"


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("lane", ["session", "connection"])
async def test_what_postgresql_refuses_without_a_transaction_says_so(
    postgres_database: URL, open_database: Callable[..., Database], driver: str, lane: str
) -> None:
    """A stream with read_only=True is the same error as a savepoint; with a snapshot it works."""
    url = postgres_database.set(drivername=f"postgresql+{driver}")
    database = open_database(url, pool_size=1, max_overflow=0)
    for _ in range(3):
        unit = UnitOfWork(database, read_only=True)
        with pytest.raises(UnitOfWorkStateError, match='read_only="snapshot"'):
            async with unit:
                await getattr(unit, lane).stream(SELECT)
        assert unit.state == "rolled_back"
        assert isinstance(unit.failed, DBAPIError)
    async with UnitOfWork(database, read_only="snapshot") as uow:
        stream = await getattr(uow, lane).stream(SELECT)
        assert [row async for row in stream] == [(1,)]
    async with UnitOfWork(database, read_only=True) as uow:
        assert await uow.session.scalar(SELECT) == 1
