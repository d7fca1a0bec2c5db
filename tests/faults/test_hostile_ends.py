"""Stranger ends of a unit's transaction than COMMIT by hand: the state fits the rows, U23."""

import asyncio
import contextlib
import inspect
import time
from collections.abc import Callable
from typing import Any

import pytest
from asyncmy.cursors import Cursor, SSCursor
from psycopg.sql import SQL
from sqlalchemy import Integer, event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column
from support.accounting import accounted
from support.ends import BEFORE, Rows, Way

from db_manager.base import Base
from db_manager.database.database import Database
from db_manager.database.open_unit import UnitState
from db_manager.errors import UnitOfWorkStateError
from db_manager.unit.uow import UnitOfWork

pytestmark = pytest.mark.usefixtures("runner")

Row = Callable[..., None]
PENDING, NEXT, ALONE = 3, 4, 5
WRITE = f"INSERT INTO hostile_ends__row (id) VALUES ({PENDING})"
ROWS = Rows("hostile_ends__row")


class Ended(Base):
    """A row that is there or not."""

    __tablename__ = "hostile_ends__row"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)


def says(*statements: Any) -> Way:
    """Return the way of who says *statements* to the driver, whichever it is."""

    async def way(uow: UnitOfWork) -> None:
        driver = await uow.driver()
        for sql in statements:
            await say(driver, sql)

    way.__name__ = f"says {statements}"
    return way


async def say(driver: Any, sql: Any) -> None:
    """Let a driver's connection execute *sql*, whichever driver it is."""
    if hasattr(driver, "is_in_transaction"):
        await driver.execute(sql)
        return
    opened = driver.cursor()
    async with await opened if inspect.isawaitable(opened) else opened as cursor:
        await cursor.execute(sql)


def executes(sql: str) -> Way:
    """Return the way of who executes *sql* on the Core lane."""

    async def way(uow: UnitOfWork) -> None:
        await uow.connection.execute(text(sql))

    way.__name__ = f"executes {sql}"
    return way


def calls(name: str, *statements: str) -> Way:
    """Return the way of who calls the method *name* of the driver for each of *statements*."""

    async def way(uow: UnitOfWork) -> None:
        driver = await uow.driver()
        for sql in statements:
            await getattr(driver, name)(sql, *([[()]] if name == "executemany" else []))

    way.__name__ = f"calls {name} {statements}"
    return way


def hears(name: str, act: Callable[[Session], object]) -> Way:
    """Return the way of a listener that acts at the event *name*, with an object to be flushed."""

    async def way(uow: UnitOfWork) -> None:
        event.listen(uow.session.sync_session, name, lambda session, *_: act(session))
        uow.session.add(Ended(id=PENDING))

    way.__name__ = f"hears {name} {inspect.getsource(act).strip()}"
    return way


def pipelines(*statements: Any) -> Way:
    """Return the way of who sends *statements* in a pipeline of psycopg's."""

    async def way(uow: UnitOfWork) -> None:
        driver = await uow.driver()
        async with driver.pipeline():
            for sql in statements:
                await driver.execute(sql)

    way.__name__ = f"pipelines {statements}"
    return way


def prepares(*statements: str) -> Way:
    """Return the way of who prepares *statements* with asyncmy and executes them."""

    async def way(uow: UnitOfWork) -> None:
        driver = await uow.driver()
        for sql in statements:
            await (await driver.prepare(sql)).execute()

    way.__name__ = f"prepares {statements}"
    return way


def leaves_unread(sql: str, cursor: type[Cursor] = Cursor) -> Way:
    """Return the way of who executes *sql* with a cursor of asyncmy's and reads no answer."""

    async def way(uow: UnitOfWork) -> None:
        uow.unread = (await uow.driver()).cursor(cursor)  # type: ignore[attr-defined]  # it lives
        await uow.unread.execute(sql)  # type: ignore[attr-defined]  # as above

    way.__name__ = f"leaves unread {sql} by {cursor.__name__}"
    return way


async def _savepoints_left_open(uow: UnitOfWork) -> None:
    await uow.session.begin_nested()
    uow.session.add(Ended(id=PENDING))
    await uow.session.begin_nested()


async def _outer_savepoint_undone_first(uow: UnitOfWork) -> None:
    outer = await uow.session.begin_nested()
    inner = await uow.session.begin_nested()
    await outer.rollback()
    with contextlib.suppress(Exception):
        await inner.commit()


async def _core_savepoint_left_open(uow: UnitOfWork) -> None:
    await uow.connection.run_sync(lambda connection: connection.begin_nested())


async def _stream_left_open(uow: UnitOfWork) -> None:
    await (await uow.connection.stream(text("SELECT 1 UNION ALL SELECT 2"))).fetchone()


async def _serializable_in_the_middle(uow: UnitOfWork) -> None:
    await uow.connection.execution_options(isolation_level="SERIALIZABLE")


async def _driver_transaction(uow: UnitOfWork) -> None:
    driver = await uow.driver()
    async with driver.transaction():
        await driver.execute("SELECT 1")


def goes_below(name: str, *args: Any, **kwargs: Any) -> Way:
    """Return the way of who calls *name* of the driver below SQLAlchemy's connection."""

    async def way(uow: UnitOfWork) -> None:
        driver = await uow.connection.run_sync(lambda lane: lane.connection.driver_connection)
        await getattr(driver, name)(*args, **kwargs)

    way.__name__ = f"goes below, to {name} {args}"
    return way


async def _psycopg_executemany(uow: UnitOfWork) -> None:
    async with (await uow.driver()).cursor() as cursor:
        await cursor.executemany("COMMIT", [()])


def runs_through(method: str, sql: str, *args: Any) -> Way:
    """Return the way of who says *sql* by a *method* of a psycopg cursor, or an asyncpg cursor."""

    async def way(uow: UnitOfWork) -> None:
        driver = await uow.driver()
        if method == "cursor":
            _ = [row async for row in driver.cursor(sql)]
        elif method == "copy":
            async with driver.cursor().copy(sql):
                pass
        elif method == "stream":
            _ = [row async for row in driver.cursor().stream(sql)]
        else:
            await getattr(driver.cursor(), method)(sql, *args)

    way.__name__ = f"runs {sql} through {method}"
    return way


async def _psycopg_autocommit_for_a_while(uow: UnitOfWork) -> None:
    driver = await uow.driver()
    await driver.set_autocommit(True)
    await driver.execute(ALONE_SQL)
    await driver.set_autocommit(False)


async def _psycopg_autocommit(uow: UnitOfWork) -> None:
    await (await uow.driver()).set_autocommit(True)


async def _mariadb_autocommit(uow: UnitOfWork) -> None:
    await (await uow.driver()).autocommit(True)  # noqa: FBT003 -- asyncmy's signature


async def _mariadb_autocommit_for_a_while(uow: UnitOfWork) -> None:
    driver = await uow.driver()
    await driver.autocommit(True)  # noqa: FBT003 -- as above
    await driver.query(f"INSERT INTO hostile_ends__row VALUES ({ALONE})")
    await driver.autocommit(False)  # noqa: FBT003 -- as above


async def _mariadb_reconnects(uow: UnitOfWork) -> None:
    driver = await uow.driver()
    driver.close()
    await driver.ping()


async def _closed(uow: UnitOfWork) -> None:
    await (await uow.driver()).close()


async def _raw_sqlite_commit(uow: UnitOfWork) -> None:
    driver = await uow.driver()
    await driver._execute(driver._conn.commit)


async def _sqlite_autocommit_for_a_moment(uow: UnitOfWork) -> None:
    driver = await uow.driver()
    driver.isolation_level = None
    await driver.execute(WRITE)
    driver.isolation_level = ""


async def _sqlite_autocommit_for_the_core_lane(uow: UnitOfWork) -> None:
    driver = await uow.driver()
    driver.isolation_level = None
    await uow.connection.execute(text(WRITE))
    driver.isolation_level = ""


async def _sqlite_commit_first(uow: UnitOfWork) -> None:
    driver = await uow.driver()
    await driver.commit()
    await driver.execute(WRITE)


async def _sqlite_rollback_first(uow: UnitOfWork) -> None:
    driver = await uow.driver()
    await driver.rollback()
    await driver.executemany(WRITE, [()])


async def _sqlite_raw_commit_first(uow: UnitOfWork) -> None:
    await _raw_sqlite_commit(uow)
    await (await uow.driver()).execute(WRITE)


async def _write_after_a_rollback(uow: UnitOfWork) -> None:
    driver = await uow.driver()
    await say(driver, "SELECT 1")
    await uow.connection.run_sync(lambda connection: connection.rollback())
    await say(driver, WRITE)


async def _write_after_a_failed_flush(uow: UnitOfWork) -> None:
    driver = await uow.driver()
    await say(driver, WRITE)
    with contextlib.suppress(IntegrityError):
        uow.session.add_all([Ended(id=PENDING), Ended(id=PENDING)])
        await uow.session.flush()
    await say(driver, WRITE)


async def _sqlite_write_after_a_conflict(uow: UnitOfWork) -> None:
    driver = await uow.driver()
    await driver.execute(WRITE)
    with contextlib.suppress(Exception):
        await driver.execute(WRITE.replace("INSERT", "INSERT OR ROLLBACK"))
    await driver.execute(WRITE)


async def _sqlite_half_of_many(uow: UnitOfWork) -> None:
    rows = [(BEFORE,), (2**70,)]
    await (await uow.driver()).executemany("INSERT INTO hostile_ends__row VALUES (?)", rows)


async def _sqlite_script_of_a_cursor(uow: UnitOfWork) -> None:
    cursor = await (await uow.driver()).execute("SELECT 1")
    await cursor.executescript(f"BEGIN; {WRITE}")


async def _interrupt(uow: UnitOfWork) -> Any:
    """Give up a statement that writes, once it runs, and swallow that; SQLite undoes it all."""
    driver, loop = await uow.driver(), asyncio.get_running_loop()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None) as scope:

            def started() -> int:
                loop.call_soon_threadsafe(scope.reschedule, loop.time())
                return PENDING

            await driver.create_function("started", 0, started)
            await driver.execute(
                "INSERT INTO hostile_ends__row WITH RECURSIVE c(x) AS "
                "(SELECT started() UNION ALL SELECT x + 1 FROM c) SELECT x FROM c"
            )
    return driver


async def _sqlite_interrupted(uow: UnitOfWork) -> None:
    await _interrupt(uow)


async def _sqlite_write_after_an_interrupt(uow: UnitOfWork) -> None:
    driver = await _interrupt(uow)
    await driver.execute(WRITE)


async def _sqlite_cancelled_while_it_commits_itself(uow: UnitOfWork) -> None:
    driver, loop = await uow.driver(), asyncio.get_running_loop()
    driver.isolation_level = None
    try:
        async with asyncio.timeout(None) as scope:

            def slow() -> int:
                loop.call_soon_threadsafe(scope.reschedule, loop.time())
                time.sleep(0.1)  # longer than the unit lives
                return PENDING

            await driver.create_function("slow", 0, slow)
            await driver.execute("INSERT INTO hostile_ends__row VALUES (slow())")
    finally:
        driver.isolation_level = ""


ALONE_SQL = f"INSERT INTO hostile_ends__row VALUES ({ALONE})"
EVERYWHERE: list[Way] = [
    _write_after_a_rollback,
    _write_after_a_failed_flush,
    _savepoints_left_open,
    _outer_savepoint_undone_first,
    _core_savepoint_left_open,
    _serializable_in_the_middle,
    hears("before_commit", lambda session: session.connection().commit()),
    hears("before_commit", lambda session: session.connection().rollback()),
    hears("before_commit", lambda s: s.connection().dialect.do_commit(s.connection().connection)),
    hears("before_commit", lambda s: s.connection().dialect.do_rollback(s.connection().connection)),
    hears("before_commit", lambda session: session.connection().invalidate()),
    hears("after_flush", lambda session: session.connection().commit()),
    hears("after_flush", lambda session: session.connection().rollback()),
    hears("after_commit", lambda session: session.execute(text("SELECT 1"))),
    says("PREPARE TRANSACTION 'x'"),
]
POSTGRES: list[Way] = [
    _driver_transaction,
    _closed,
    executes("DO $$ BEGIN COMMIT; END $$"),
    says("COMMIT AND CHAIN"),
    says("ROLLBACK AND CHAIN"),
    says("SELECT 1; COMMIT; BEGIN"),
    says("SELECT 1; ROLLBACK AND CHAIN"),
    says("/* a /* b */ c */ ROLLBACK AND CHAIN"),
    says("-- a\rROLLBACK AND CHAIN"),
    says("; ROLLBACK AND CHAIN"),
]
WAYS: dict[str, list[Way]] = {
    "asyncpg": [
        *(EVERYWHERE + POSTGRES),
        _stream_left_open,
        *(calls(name, "COMMIT", "BEGIN") for name in ("fetch", "fetchval", "fetchrow")),
        calls("executemany", "ROLLBACK", "BEGIN"),
        calls("fetch", "ROLLBACK", "BEGIN"),
        runs_through("cursor", "COMMIT AND CHAIN"),
        runs_through("cursor", "ROLLBACK AND CHAIN"),
        *(goes_below(name, WRITE) for name in ("execute", "fetch", "fetchrow", "fetchval")),
        goes_below("executemany", "INSERT INTO hostile_ends__row VALUES ($1)", [(PENDING,)]),
        goes_below("copy_records_to_table", Ended.__tablename__, records=[(PENDING,)]),
        goes_below("execute", f"SELECT 1; {WRITE}"),
        goes_below("execute", "SELECT 1"),
    ],
    "psycopg": [
        *(EVERYWHERE + POSTGRES),
        goes_below("execute", WRITE),
        _psycopg_executemany,
        _psycopg_autocommit,
        _psycopg_autocommit_for_a_while,
        runs_through("executemany", "COMMIT AND CHAIN", [()]),
        runs_through("executemany", "ROLLBACK AND CHAIN", [()]),
        runs_through("stream", "COMMIT AND CHAIN"),
        runs_through("stream", "ROLLBACK AND CHAIN"),
        runs_through("copy", "COMMIT AND CHAIN"),
        runs_through("copy", "ROLLBACK AND CHAIN"),
        pipelines("COMMIT", "BEGIN"),
        pipelines(SQL("COMMIT"), SQL("BEGIN")),
        pipelines(b"ROLLBACK", b"BEGIN"),
        pipelines(SQL("COMMIT"), SQL("SELECT 1")),
    ],
    "aiosqlite": [
        *EVERYWHERE,
        _stream_left_open,
        _closed,
        _raw_sqlite_commit,
        calls("execute_fetchall", "COMMIT", "BEGIN"),
        calls("execute_insert", "ROLLBACK"),
        calls("executemany", "COMMIT"),
        executes("INSERT OR ROLLBACK INTO hostile_ends__row VALUES (1)"),
        executes(f"{WRITE} /* busy_timeout */"),
        says(f"{WRITE} -- PRAGMA busy_timeout"),
        says("COMMIT", WRITE),
        _sqlite_autocommit_for_a_moment,
        _sqlite_autocommit_for_the_core_lane,
        _sqlite_commit_first,
        _sqlite_rollback_first,
        _sqlite_raw_commit_first,
        _sqlite_write_after_a_conflict,
        _sqlite_half_of_many,
        _sqlite_script_of_a_cursor,
        _sqlite_interrupted,
        _sqlite_write_after_an_interrupt,
        _sqlite_cancelled_while_it_commits_itself,
    ],
    "asyncmy": [
        *EVERYWHERE,
        _stream_left_open,
        _mariadb_autocommit,
        *map(
            executes,
            [
                "CALL hostile_commits()",
                "CALL hostile_rolls_back()",
                "CALL hostile_commits_fails()",
                "EXECUTE IMMEDIATE 'ROLLBACK'",
                "BEGIN NOT ATOMIC ROLLBACK; END",
                "IF 1 THEN ROLLBACK; END IF",
                "/*! ROLLBACK */",
                "/*M! COMMIT */",
                "# no\nROLLBACK",
                "SET autocommit = 1",
                "CREATE OR REPLACE TABLE hostile_other (i INT)",
                "CREATE TABLE hostile_ends__row (i INT)",
                "LOCK TABLES hostile_ends__row WRITE",
            ],
        ),
        says("CALL hostile_rolls_back()"),
        says("DROP TABLE hostile_nobody"),
        says("SET @@session.autocommit = 1"),
        _mariadb_autocommit_for_a_while,
        _mariadb_reconnects,
        executes("SET LOCAL autocommit=1"),
        executes("SET @x=1, autocommit=1"),
        executes("SET STATEMENT max_statement_time=9 FOR COMMIT"),
        says("SET autocommit=1", ALONE_SQL, "SET autocommit=0"),
        says("SET @@autocommit=1", ALONE_SQL, "SET @@autocommit=0"),
        says(f"SET autocommit=1; {ALONE_SQL}; SET autocommit=0"),
        says(f"{ALONE_SQL}; COMMIT; BEGIN"),
        says("SELECT 1; COMMIT AND CHAIN"),
        says("CALL hostile_writes()"),
        *map(prepares, ["COMMIT", "ROLLBACK", "ROLLBACK AND CHAIN", "CALL hostile_shows()"]),
        prepares("COMMIT", "BEGIN"),
        prepares("CALL hostile_commits_fails()"),
        *(
            leaves_unread(sql, cursor)
            for cursor in (Cursor, SSCursor)
            for sql in (
                f"{ALONE_SQL}; COMMIT",
                f"SELECT 1; {ALONE_SQL}; COMMIT",
                "SELECT 1; ROLLBACK",
                "SELECT 1; ROLLBACK AND CHAIN",
                "SELECT 1; SELECT 2; COMMIT; nonsense",
                "CALL hostile_shows()",
                "SELECT '; COMMIT'; SELECT 2",
            )
        ),
    ],
}
PROCEDURES = {
    "commits": "COMMIT;",
    "rolls_back": "ROLLBACK;",
    "commits_fails": "COMMIT; SIGNAL SQLSTATE '45000';",
    "shows": "SELECT 1; COMMIT; SELECT 2;",
    "writes": f"{ALONE_SQL}; COMMIT;",
}


async def prepare(database: Database) -> None:
    """Make the table, and procedures that end a transaction."""
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.tables[Ended.__tablename__].create)
        if database.engine.dialect.name == "mysql":
            for name, body in PROCEDURES.items():
                await connection.execute(
                    text(f"CREATE PROCEDURE hostile_{name}() BEGIN {body} END")
                )


async def next_is_well(database: Database) -> bool:
    """Return True when a unit that fails leaves no row, on the connection of the one before."""
    with contextlib.suppress(ZeroDivisionError):
        async with UnitOfWork(database) as after:
            await ROWS.write(after, NEXT)
            raise ZeroDivisionError
    return NEXT not in await ROWS.ids(database)


@pytest.mark.parametrize("first", [True, False], ids=["after a row", "at once"])
@pytest.mark.parametrize("swallow", [True, False], ids=["swallowed", "raised"])
@pytest.mark.parametrize("fail", [True, False], ids=["block fails", "block ends"])
async def test_strange_ends_do_not_lie(
    url: URL, first: bool, swallow: bool, fail: bool, row: Row
) -> None:
    """U23: whatever may end the transaction, the state fits the rows, and the next is well."""
    ways, lies = WAYS[url.get_driver_name()], []
    async with accounted(url, pool_size=1, max_overflow=0, pool_timeout=2) as database:
        await prepare(database)
        for way in ways:
            _, lie = await ROWS.play(database, way, first=first, swallow=swallow, fail=fail)
            if not lie and not await next_is_well(database):
                lie = "the next unit failed, and its row is there"
            lies += [f"{way.__name__}: {lie}"] if lie else []
            await ROWS.clear(database)
    assert lies == []
    row(
        "U23",
        load=f"{url.drivername}: {len(ways)} strange ends, "
        f"{'after a row' if first else 'at once'}, "
        f"{'swallowed' if swallow else 'raised'}, block {'fails' if fail else 'ends'}",
        result="each state fits its rows, each next unit is well",
    )


@pytest.mark.parametrize("word", ["commit", "rollback"])
async def test_a_listener_that_ends_what_is_to_be_flushed(url: URL, word: str) -> None:
    """U23: COMMIT in before_commit is refused before it is sent, ROLLBACK lets nothing through."""
    async with accounted(url, pool_size=1, max_overflow=0) as database:
        await prepare(database)
        unit = UnitOfWork(database)
        with pytest.raises(Exception) as caught:  # noqa: PT011 -- SQLAlchemy's after a ROLLBACK
            async with unit:
                await hears("before_commit", lambda s: getattr(s.connection(), word)())(unit)
        assert (unit.state, await ROWS.ids(database)) == (UnitState.ROLLED_BACK, set())
        assert isinstance(caught.value, UnitOfWorkStateError) is (word == "commit")


async def test_after_commit_comes_after_the_commit_of_any_lane(url: URL) -> None:
    """U24: a session that only listens hears after_commit when the Core lane's COMMIT is there."""
    states: list[str] = []
    async with accounted(url, pool_size=1, max_overflow=0) as database:
        await prepare(database)
        async with UnitOfWork(database) as uow:
            event.listen(
                uow.session.sync_session, "after_commit", lambda _: states.append(uow.state)
            )
            await ROWS.write(uow, BEFORE)
    assert states == ["committed"]
