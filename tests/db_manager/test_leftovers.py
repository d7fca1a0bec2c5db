"""What read-only units leave behind: nothing of it reaches the next unit, and no write passes."""

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from db_manager.database.database import Database
from db_manager.database.leftovers import leaves_something
from db_manager.database.open_unit import ReadOnly
from db_manager.dialects.sqlite.in_thread import FIRST_ROWS
from db_manager.errors import UnitOfWorkStateError
from db_manager.unit.uow import UnitOfWork

Open = Callable[..., Database]

#: For each backend: what a read-only unit says, and what then reads as before it.
STATE = {
    "postgresql": [
        ("SET statement_timeout = 77000", "SHOW statement_timeout"),
        ("  /* x */ set\nstatement_timeout to 77000", "SHOW statement_timeout"),
        ("-- x\nSET statement_timeout = 77000", "SHOW statement_timeout"),
        ("SELECT set_config('my.own', 'x', false)", "SELECT current_setting('my.own', true)"),
        ("SELECT pg_advisory_lock(7)", "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"),
        (
            "SELECT Pg_Try_Advisory_Lock_Shared (7)",
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
        ),
        (
            "WITH x AS (SELECT pg_advisory_lock(8)) SELECT * FROM x",
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
        ),
        (
            "PREPARE mine AS SELECT 1",
            "SELECT count(*) FROM pg_prepared_statements WHERE name = 'mine'",
        ),
        ("LISTEN somebody", "SELECT count(*) FROM pg_listening_channels()"),
        (
            "DO $$ BEGIN PERFORM set_config('my.own', 'x', false); END $$",
            "SELECT current_setting('my.own', true)",
        ),
        ("SET SESSION AUTHORIZATION DEFAULT", "SELECT session_user"),
    ],
    "sqlite": [
        ("PRAGMA cache_size = 77", "PRAGMA cache_size"),
        ("/* x */ pragma cache_size(77)", "PRAGMA cache_size"),
        ("ATTACH ':memory:' AS other", "SELECT count(*) FROM pragma_database_list"),
    ],
    "mysql": [
        ("SET SESSION sort_buffer_size = 77777", "SELECT @@sort_buffer_size"),
        ("SET @mine = 7", "SELECT @mine"),
        ("SELECT @mine := 7", "SELECT @mine"),
        ("SELECT GET_LOCK('mine', 0)", "SELECT IS_FREE_LOCK('mine')"),
        ("SELECT 7 INTO @mine", "SELECT @mine"),
    ],
}


@pytest.fixture
def database(any_database_url: URL, open_database: Open) -> Database:
    """A database whose pools hold one connection."""
    return open_database(any_database_url, pool_size=1, max_overflow=0, pool_timeout=2)


def in_memory(database: Database) -> bool:
    """Return True for the database that lives in its one connection."""
    return database.engine.url.database == ":memory:"


@pytest.mark.parametrize("read_only", [True, "snapshot"])
async def test_state_of_the_session_does_not_survive_a_read_only_unit(
    database: Database, read_only: ReadOnly
) -> None:
    """What a read-only unit set, locked, attached or prepared is gone with its connection."""
    for leave, ask in STATE[database.engine.url.get_backend_name()]:
        async with UnitOfWork(database, read_only=read_only) as uow:
            before = await uow.connection.scalar(text(ask))
        async with UnitOfWork(database, read_only=read_only) as uow:
            with suppress(DBAPIError):
                await uow.connection.exec_driver_sql(leave)
            if uow.failed is not None:
                await uow.rollback()
        async with UnitOfWork(database, read_only=read_only) as uow:
            after = await uow.connection.scalar(text(ask))
        if not in_memory(database):
            assert (leave, after) == (leave, before)


@pytest.mark.parametrize("read_only", [True, "snapshot"])
async def test_reading_keeps_the_connection(database: Database, read_only: ReadOnly) -> None:
    """Units that only read are all served by one connection, with savepoints and many rows."""
    drivers: set[int] = set()
    for statement in (
        text("SELECT 1"),
        text("(SELECT 1)") if database.engine.dialect.name != "sqlite" else text("VALUES (1)"),
        text("/* why */ SELECT ';'"),
        select(func.length("SET x = 1")),
        text("WITH x AS (SELECT 1) SELECT * FROM x"),
    ):
        async with UnitOfWork(database, read_only=read_only) as uow:
            await uow.session.execute(statement)
            if read_only == "snapshot":
                async with uow.savepoint():
                    await uow.session.execute(statement)
            drivers.add(id(await uow.driver()))
    assert len(drivers) == 1


@pytest.mark.parametrize("read_only", [True, "snapshot"])
@pytest.mark.parametrize("lane", ["session", "driver"])
async def test_the_refusal_of_writes_cannot_be_switched_off_for_a_later_unit(
    database: Database, read_only: ReadOnly, lane: str
) -> None:
    """Whatever a read-only unit says about it, and on whatever lane, the next one refuses."""
    ways = {
        "postgresql": [
            "SET default_transaction_read_only = off",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
            "SELECT set_config('default_transaction_read_only', 'off', false)",
            "DO $$ BEGIN SET default_transaction_read_only = off; END $$",
            "RESET default_transaction_read_only",
        ],
        "sqlite": ["PRAGMA query_only = 0", "/**/pRaGmA main.Query_Only(off)"],
        "mysql": ["SET SESSION TRANSACTION READ WRITE", "SET tx_read_only = 0", "COMMIT"],
    }[database.engine.url.get_backend_name()]
    async with UnitOfWork(database) as uow:
        await uow.session.execute(text("CREATE TABLE t (id INTEGER)"))
    for way in ways:
        async with UnitOfWork(database, read_only=read_only) as uow:
            if lane == "session":
                with suppress(UnitOfWorkStateError):  # a COMMIT is refused before it is sent
                    await uow.connection.exec_driver_sql(way)
            else:
                await say(await uow.driver(), way)
        for _ in range(2):
            for write in ("INSERT INTO t VALUES (1)", "DELETE FROM t", "CREATE TABLE u (id INT)"):
                if database.engine.dialect.name in {"mysql", "mariadb"} and "CREATE" in write:
                    continue  # it commits by itself and is no part of any transaction
                unit = UnitOfWork(database, read_only=read_only)
                with pytest.raises(DBAPIError, match=r"(?i)read.?only"):
                    async with unit:
                        await unit.session.execute(text(write))
                assert unit.state == "rolled_back"
    async with UnitOfWork(database) as uow:
        await uow.session.execute(text("INSERT INTO t VALUES (1)"))
        assert await uow.session.scalar(text("SELECT count(*) FROM t")) == 1


async def say(driver: Any, sql: str) -> None:
    """Say *sql* on the driver's own connection."""
    if hasattr(driver, "execute"):
        await driver.execute(sql)
    else:  # asyncmy
        async with driver.cursor() as cursor:
            await cursor.execute(sql)


@pytest.mark.parametrize("read_only", [False, True, "snapshot"])
@pytest.mark.parametrize("lane", ["session", "connection", "driver", "driver's cursor"])
async def test_a_stream_that_is_left_half_read_keeps_no_snapshot(
    sqlite_database: URL, open_database: Open, read_only: ReadOnly, lane: str
) -> None:
    """After the unit the log of SQLite can be emptied, though somebody still has the result."""
    database = open_database(sqlite_database, pool_size=1, max_overflow=0)
    rows = 3 * FIRST_ROWS
    async with UnitOfWork(database) as uow:
        await uow.session.execute(text("CREATE TABLE t (id INTEGER)"))
        await uow.session.execute(text("INSERT INTO t VALUES (:id)"), [{"id": 1}] * rows)
    kept: list[Any] = []
    for _ in range(2):
        async with UnitOfWork(database, read_only=read_only) as uow:
            if lane in {"session", "connection"}:
                result = await getattr(uow, lane).stream(text("SELECT id FROM t"))
                await result.fetchone()
            elif lane == "driver":
                result = await (await uow.driver()).execute("SELECT id FROM t")
                await result.fetchone()
            else:
                result = (await uow.driver()).cursor()
                await result.execute("SELECT id FROM t")
                await result.fetchone()
            kept.append(result)
        async with UnitOfWork(database) as uow:
            await uow.session.execute(text("UPDATE t SET id = id + 1"))
        with closing(sqlite3.connect(str(sqlite_database.database), timeout=0)) as other:
            busy, *_ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert busy == 0
    async with UnitOfWork(database, read_only=True) as uow:
        assert await uow.session.scalar(text("SELECT min(id) FROM t")) == 3


@pytest.mark.parametrize(
    ("sql", "leaves"),
    [
        ("SELECT 1", False),
        ("\n\t select 1", False),
        ("((SELECT 1))", False),
        ("SELECT 1;", False),
        ("SELECT pg_advisory_xact_lock(1)", False),
        ("SELECT target_lock FROM locks", False),
        ("PRAGMA main.table_info('t')", False),
        ("PRAGMA user_version", False),
        ("SAVEPOINT s", False),
        ("ROLLBACK TO SAVEPOINT s", False),
        ("RELEASE SAVEPOINT s", False),
        ("INSERT INTO t VALUES (1)", False),
        ("SELECT 1; SET x = 1", True),
        ("SELECTED", True),
        ("", True),
        ("-- SELECT", True),
        ("/* SELECT */ SET x = 1", True),
        ("PRAGMA user_version = 3", True),
        ("PRAGMA main.cache_size(3)", True),
        ('SELECT pg_catalog."set_config"(1, 2, false)', True),
        ("SELECT 1 INTO TEMP x", True),
        ("select\nload_extension('x')", True),
        ("CREATE TEMP TABLE t (id INT)", True),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", True),
        ("BEGIN", True),
        ("ROLLBACK", True),
        ("/* a */ SELECT 1", False),
        ("/* a */ PREPARE p AS /* b */ SELECT 1", True),
        ("SELECT 1; /* c */ SET search_path = x", True),
        ("SELECT 1; -- c\nSET search_path = x", True),
        ("/* a /* b */ SELECT */ SET search_path = x", True),  # PostgreSQL nests them
        ("SELECT 1 /*! INTO @a */", True),
    ],
)
def test_what_leaves_something_is_known_by_its_words(sql: str, leaves: bool) -> None:
    """A statement that is not known to be harmless is taken to leave something."""
    assert leaves_something(sql) is leaves


@pytest.mark.parametrize("read_only", [False, "snapshot"])
@pytest.mark.parametrize("lane", ["session", "connection"])
async def test_streams_work_alike_and_leave_nothing(
    database: Database, read_only: ReadOnly, lane: str
) -> None:
    """On every driver a unit can stream, and leave a stream half read, and the next one is well."""
    numbers = text(
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 900) "
        "SELECT a.x FROM c a, c b WHERE b.x < 10"
    )
    kept: list[Any] = []
    for _ in range(3):
        async with UnitOfWork(database, read_only=read_only) as uow:
            result = await getattr(uow, lane).stream(numbers)
            assert await result.fetchone() is not None
            if any(driver in str(database.engine.url) for driver in ("psycopg", "asyncmy")):
                await result.close()  # they warn of what nobody closed
            kept.append(result)
    async with UnitOfWork(database, read_only=read_only) as uow:
        result = await getattr(uow, lane).stream(numbers)
        assert len([row async for row in result]) == 8100
        assert await uow.session.scalar(text("SELECT 1")) == 1
    assert database.pool_levels()["used"] == 0
