"""What ends a transaction on MariaDB by the way, and what a failed statement does to it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from asyncmy.errors import Error
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from db_manager.database.database import Database
from db_manager.database.open_unit import UnitState
from db_manager.dialects.mysql.asyncmy_connection import PatientConnection
from db_manager.unit.uow import UnitOfWork


@pytest.fixture
async def database(mariadb_database: URL, open_database: Callable[..., Database]) -> Database:
    """A table with the row 1."""
    opened = open_database(mariadb_database)
    async with opened.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE t (id INT PRIMARY KEY, n INT DEFAULT 0)"))
        await connection.execute(text("INSERT INTO t (id) VALUES (1)"))
    return opened


async def says(uow: UnitOfWork, sql: str) -> None:
    """Say *sql* at the bare driver."""
    driver: Any = await uow.driver()
    async with driver.cursor() as cursor:
        await cursor.execute(sql)


@pytest.mark.parametrize(
    ("sql", "state"),
    [
        ("CREATE TABLE u (id INT)", UnitState.OUTCOME_UNKNOWN),
        ("DROP TABLE nobody", UnitState.OUTCOME_UNKNOWN),
        ("CREATE TEMPORARY TABLE u (id INT)", UnitState.ROLLED_BACK),
    ],
)
async def test_ddl_is_told_on_an_engine_of_ones_own_as_well(
    database: Database, mariadb_database: URL, sql: str, state: UnitState
) -> None:
    """The stock driver does not count what DDL committed: what SQLAlchemy sends is looked at."""
    engine = create_async_engine(mariadb_database)
    unit = UnitOfWork(engine)
    with pytest.raises((ZeroDivisionError, DBAPIError)) as caught:
        async with unit:
            await unit.connection.execute(text("INSERT INTO t (id) VALUES (2)"))
            await unit.session.execute(text(sql))
            raise ZeroDivisionError
    await engine.dispose()
    assert unit.state is state
    assert await ids(database) == ([1] if state is UnitState.ROLLED_BACK else [1, 2])
    told = "committed everything before it" in str(getattr(caught.value, "__notes__", ""))
    assert told is (state is UnitState.OUTCOME_UNKNOWN)


async def ids(database: Database) -> list[int]:
    """Return what is in the table."""
    async with UnitOfWork(database) as uow:
        return list(await uow.session.scalars(text("SELECT id FROM t ORDER BY id")))


@pytest.mark.parametrize(
    ("sql", "state"),
    [
        ("CREATE TABLE u (id INT)", UnitState.OUTCOME_UNKNOWN),
        ("TRUNCATE t", UnitState.OUTCOME_UNKNOWN),
        ("EXECUTE IMMEDIATE 'CREATE TABLE u (id INT)'", UnitState.OUTCOME_UNKNOWN),
        ("DROP TABLE t, nobody", UnitState.OUTCOME_UNKNOWN),  # the first is gone
        ("CREATE TABLE t (id INT, m INT)", UnitState.ROLLED_BACK),  # it is there already
        ("LOCK TABLES t WRITE", UnitState.ROLLED_BACK),
        ("ANALYZE TABLE t", UnitState.ROLLED_BACK),
        ("SELECT 1", UnitState.ROLLED_BACK),
    ],
)
async def test_what_no_rollback_undoes_is_told_as_the_first_statement_too(
    database: Database, sql: str, state: UnitState
) -> None:
    """A unit that fails after DDL did write something, whether a transaction was begun or not."""
    unit = UnitOfWork(database)
    with pytest.raises((ZeroDivisionError, Error)):
        async with unit:
            await says(unit, sql)
            raise ZeroDivisionError
    assert unit.state is state


@pytest.mark.parametrize("first", [True, False])
async def test_ddl_that_nobody_waited_for_is_told(database: Database, first: bool) -> None:
    """A cancelled CREATE TABLE may be there, and what was before it is committed."""
    unit = UnitOfWork(database)
    async with database.engine.connect() as other:
        await other.execute(text("SELECT GET_LOCK('gate', 1)"))
        with pytest.raises(TimeoutError):
            async with unit:
                await says(unit, "SELECT 1" if first else "INSERT INTO t (id) VALUES (2)")
                async with asyncio.timeout(0.05):
                    await unit.session.execute(text("CREATE TABLE u AS SELECT GET_LOCK('gate', 9)"))
    assert unit.state is UnitState.OUTCOME_UNKNOWN
    assert await ids(database) == ([1] if first else [1, 2])


async def _conflict(database: Database, unit: UnitOfWork) -> None:
    """Let the server undo the transaction of *unit*: a row has changed since it was read."""
    await says(unit, "SET innodb_snapshot_isolation = ON")
    await says(unit, "INSERT INTO t (id) VALUES (2)")
    await says(unit, "SELECT * FROM t")
    async with database.engine.begin() as other:
        await other.execute(text("UPDATE t SET n = 1 WHERE id = 1"))


@pytest.mark.parametrize("by_hand", ["", "begin", "commit", "rollback", "prepare"])
async def test_what_the_server_undid_is_not_committed_in_part(
    database: Database, by_hand: str
) -> None:
    """Swallowed at the bare driver, an error that undid the transaction lets nothing through."""
    unit = UnitOfWork(database)
    with pytest.raises(Exception, match=r"swallowed|ended the transaction"):
        async with unit:
            await _conflict(database, unit)
            driver: Any = await unit.driver()
            update = "UPDATE t SET n = 2 WHERE id = 1"
            with pytest.raises(Error, match="1020"):
                if by_hand == "prepare":
                    await (await driver.prepare(update)).execute()
                else:
                    await driver.query(update)
            if by_hand in {"begin", "commit", "rollback"}:
                await getattr(driver, by_hand)()
            await says(unit, "INSERT INTO t (id) VALUES (3)")
    assert await ids(database) == [1]
    assert unit.state in {UnitState.ROLLED_BACK, UnitState.OUTCOME_UNKNOWN}
    assert (unit.state is UnitState.ROLLED_BACK) == (by_hand in {"", "prepare"})


async def test_who_lets_such_an_error_out_is_rolled_back(database: Database) -> None:
    """The error of the server says what became of the unit, and `run` may try it again."""
    unit = UnitOfWork(database)
    with pytest.raises(DBAPIError, match="1020"):
        async with unit:
            await _conflict(database, unit)
            await unit.session.execute(text("UPDATE t SET n = 2 WHERE id = 1"))
    assert unit.state is UnitState.ROLLED_BACK


@pytest.mark.parametrize(
    "sql", ["INSERT INTO t (id) VALUES (1)", "ANALYZE SELECT * FROM nobody", "nonsense"]
)
async def test_an_error_that_undid_its_statement_only_ends_nothing(
    database: Database, sql: str
) -> None:
    """Swallowed at the bare driver it is the block's to see; the rest is committed, and said so."""
    async with UnitOfWork(database) as unit:
        await says(unit, "INSERT INTO t (id) VALUES (2)")
        with pytest.raises(Error):
            await says(unit, sql)
    assert unit.state is UnitState.COMMITTED
    assert await ids(database) == [1, 2]


async def test_the_answers_of_a_script_come_one_by_one(database: Database) -> None:
    """They are read ahead, and given to who asks: an error where its answer would have been."""
    async with UnitOfWork(database) as unit:
        driver: Any = await unit.driver()
        cursor = driver.cursor()
        await cursor.execute("SELECT 1; INSERT INTO t (id) VALUES (2); SELECT id FROM t")
        assert await cursor.fetchall() == ((1,),)
        assert await cursor.nextset()
        assert cursor.rowcount == 1
        assert await cursor.nextset()
        assert await cursor.fetchall() == ((1,), (2,))
        assert not await cursor.nextset()
        await cursor.execute("SELECT 1; SELECT nobody")
        with pytest.raises(Error, match="1054"):
            await cursor.nextset()
        await cursor.execute("SELECT 2")
        assert await cursor.fetchall() == ((2,),)
    assert unit.state is UnitState.COMMITTED


async def test_an_old_server_ends_nothing_with_its_rows(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of rows that end in an old-fashioned packet asyncmy keeps no state, which is no end."""
    connection: Any = PatientConnection
    asked = connection._request_authentication

    async def of_old(self: Any) -> None:
        self.server_capabilities &= ~(1 << 24)  # CLIENT_DEPRECATE_EOF
        await asked(self)

    monkeypatch.setattr(PatientConnection, "_request_authentication", of_old)
    await database.engine.dispose()
    unit = UnitOfWork(database)
    async with unit:
        await says(unit, "INSERT INTO t (id) VALUES (2)")
        await says(unit, "SELECT * FROM t")
        driver: Any = await unit.driver()
        await (await driver.prepare("SELECT * FROM t")).execute()
    assert unit.state is UnitState.COMMITTED
