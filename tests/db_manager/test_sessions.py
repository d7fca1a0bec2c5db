"""Sessions of code that is not moved yet, on the engine of the units: a maker beside the units."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert, select, text, update
from sqlalchemy.engine import URL
from sqlalchemy.exc import InvalidRequestError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Mapped, Session, mapped_column

from db_manager.base import Base
from db_manager.database.database import Database
from db_manager.engine.one_writer import OneWriter
from db_manager.errors import PoolExhaustedError, UnitOfWorkStateError
from db_manager.plugin import DatabasePlugin
from db_manager.unit.uow import UnitOfWork
from lifecycle import Application, Plugin, PluginContext

Sessions = async_sessionmaker[AsyncSession]
#: A pool so small that sessions can hold all of it.
POOL = 3


class Account(Base):
    """Something to count on."""

    __tablename__ = "sessions_test__account"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    balance: Mapped[int] = mapped_column(default=0)


BALANCE = select(Account.balance)
ADD = update(Account).values(balance=Account.balance + 1)


@pytest.fixture
async def database(database_url: URL, open_database: Callable[..., Database]) -> Database:
    """A database with one account, once on SQLite and once on PostgreSQL."""
    return await with_account(open_database(database_url, pool_size=POOL, pool_timeout=30))


@pytest.fixture
async def file(sqlite_database: URL, open_database: Callable[..., Database]) -> Database:
    """The same on SQLite only, where nobody waits long."""
    return await with_account(open_database(sqlite_database, pool_size=POOL, pool_timeout=0.5))


async def with_account(database: Database) -> Database:
    """Make the table with one account in it."""
    async with database.engine.begin() as connection:
        tables = [Base.metadata.tables[Account.__tablename__]]
        await connection.run_sync(Base.metadata.create_all, tables)
        await connection.execute(insert(Account).values(id=1))
    return database


def maker(database: Database) -> Sessions:
    """Return what code that is not moved yet has."""
    return async_sessionmaker(database.engine, expire_on_commit=False)


async def add(database: Database) -> None:
    """Add one in a unit."""
    async with UnitOfWork(database) as uow:
        await uow.session.execute(ADD)


async def balance(database: Database) -> int:
    """Return what is committed."""
    async with UnitOfWork(database, read_only=True) as uow:
        return int((await uow.session.execute(BALANCE)).scalar_one())


async def test_readers_block_nobody(database: Database) -> None:
    """Two sessions that have read and are open keep no unit from writing, nor each other."""
    sessions = maker(database)
    async with sessions() as one, sessions() as other:
        assert await one.scalar(BALANCE) == 0
        assert await other.scalar(BALANCE) == 0
        await add(database)
    assert await balance(database) == 1


async def test_who_writes_stands_in_the_line_of_the_units(database: Database) -> None:
    """Sessions and units that write at once all get their turn, and none is lost."""
    sessions = maker(database)

    async def old() -> None:
        async with sessions() as session:
            await session.execute(ADD)
            await session.commit()

    await asyncio.gather(*(old() if n % 2 else add(database) for n in range(40)))
    assert await balance(database) == 40


@pytest.mark.parametrize("end", ["commit", "rollback", "close", "cancel"])
async def test_a_turn_ends_with_the_transaction(file: Database, end: str) -> None:
    """However a session that has written ends, the next unit writes."""
    sessions = maker(file)
    written = asyncio.Event()

    async def old() -> None:
        async with sessions() as session:
            await session.execute(ADD)
            if end == "cancel":
                written.set()
                await asyncio.Event().wait()
            await getattr(session, end)()

    task = asyncio.create_task(old())
    if end == "cancel":
        await written.wait()
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await add(file)
    assert await balance(file) == (2 if end == "commit" else 1)


async def test_a_statement_that_fails_keeps_nobody_waiting(file: Database) -> None:
    """A write that SQLite refuses, and one on a connection in AUTOCOMMIT, end their turn."""
    async with file.engine.connect() as connection:
        alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(OperationalError):
            await alone.execute(text("INSERT INTO nowhere VALUES (1)"))
        await add(file)
        await alone.execute(ADD)
        await add(file)
    assert await balance(file) == 3


async def test_an_old_snapshot_may_not_write(file: Database) -> None:
    """A session that has read before a unit wrote gets an error with the fix; nothing is lost."""
    async with maker(file)() as session:
        seen = await session.scalar(BALANCE)
        assert seen is not None
        await add(file)
        with pytest.raises(OperationalError, match="read before somebody else wrote") as caught:
            await session.execute(update(Account).values(balance=seen + 1))
        assert "BEGIN IMMEDIATE" in str(caught.value)
        await add(file)  # it keeps nobody waiting, though it is open
        await session.rollback()
        await session.execute(ADD)
        await session.commit()
    assert await balance(file) == 3


async def test_a_session_may_take_the_writer_first(file: Database) -> None:
    """With BEGIN IMMEDIATE first, sessions that read and then write lose nothing."""

    class Writing(Session):
        """Sessions that write."""

    @event.listens_for(Writing, "after_begin")
    def _take_writer(_session: Session, _transaction: object, connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    sessions = async_sessionmaker(file.engine, sync_session_class=Writing)

    async def old() -> None:
        async with sessions() as session:
            account = await session.get_one(Account, 1)
            account.balance += 1
            await session.commit()

    await asyncio.gather(*(old() for _ in range(POOL)), add(file))
    assert await balance(file) == POOL + 1


async def test_an_end_of_the_line_is_an_error_with_names(file: Database) -> None:
    """Who waits too long is told who writes, be it a session or a unit."""
    sessions = maker(file)

    async def old() -> None:
        async with sessions() as session:
            await session.execute(ADD)

    task = asyncio.current_task()
    assert task is not None
    task.set_name("old code")
    async with sessions() as session:
        await session.execute(ADD)
        with pytest.raises(PoolExhaustedError, match="a session of task 'old code', outside"):
            await asyncio.create_task(add(file))
        await session.commit()
    async with UnitOfWork(file) as uow:
        await uow.session.execute(ADD)
        with pytest.raises(OperationalError, match=rf"unit {uow.number}.* 0.5 s"):
            await asyncio.create_task(old())
    assert await balance(file) == 2


async def test_a_task_that_would_wait_for_itself_is_told_at_once(file: Database) -> None:
    """A session in a unit that writes, and a unit beside such a session, do not wait."""
    sessions = maker(file)
    async with UnitOfWork(file) as uow:
        await uow.session.execute(ADD)
        async with sessions() as session:
            with pytest.raises(OperationalError, match="this same task"):
                await session.execute(ADD)
    async with sessions() as session:
        await session.execute(ADD)
        with pytest.raises(UnitOfWorkStateError, match="commit or close that session first"):
            await add(file)
    assert await balance(file) == 1


async def test_sessions_that_hold_every_connection_can_still_write(
    sqlite_database: URL, open_database: Callable[..., Database]
) -> None:
    """A unit that waits for a connection lets them write: otherwise both would wait."""
    database = open_database(sqlite_database, pool_size=POOL, pool_timeout=5)
    await with_account(database)
    sessions, unit_waits = maker(database), asyncio.Event()
    ready = asyncio.Barrier(POOL + 1)

    async def old() -> None:
        async with sessions() as session:
            await session.execute(text("SELECT 1"))  # a connection, and no snapshot of the file
            await ready.wait()
            await unit_waits.wait()
            await session.execute(ADD)
            await session.commit()

    old_ones = [asyncio.create_task(old()) for _ in range(POOL)]
    await ready.wait()
    unit = asyncio.create_task(add(database))
    pool: Any = database.engine.sync_engine.pool
    while not pool._pool.waiting:  # noqa: ASYNC110 -- a pool has no event for that
        await asyncio.sleep(0)
    unit_waits.set()
    await asyncio.gather(unit, *old_ones)
    assert await balance(database) == POOL + 1


async def test_a_maker_that_is_there_before_the_engine(sqlite_database: URL) -> None:
    """A plugin binds it, and code that has imported it works on the engine of the units."""
    sessions = async_sessionmaker(expire_on_commit=False)

    class OldSessions(Plugin):
        name = "old_sessions"
        requires = ("db_manager",)

        async def load(self, context: PluginContext) -> None:
            sessions.configure(bind=context.services["db_manager:engine"])

    url = sqlite_database.render_as_string()
    app = Application([DatabasePlugin, OldSessions], config={"database": {"url": url}})
    async with app:
        async with sessions.begin() as session:
            session.add(Account(id=7, balance=5))
        async with app.services["db_manager:uow_factory"](read_only=True) as uow:
            account = await uow.session.get(Account, 7)
    assert account.balance == 5


async def test_an_object_belongs_to_the_session_that_has_loaded_it(database: Database) -> None:
    """A unit refuses it while that session is open, and takes one whose unit has ended."""
    async with maker(database)() as session:
        account = await session.get_one(Account, 1)
        async with UnitOfWork(database) as uow:
            with pytest.raises(InvalidRequestError, match="is already attached to session"):
                uow.session.add(account)
            own = await uow.session.get_one(Account, account.id)
            own.balance = 5
        assert account.balance == 0
    async with UnitOfWork(database) as later:
        own.balance += 1
        later.session.add(own)
    assert await balance(database) == 6


@pytest.mark.parametrize(
    "sql", ["/* of the report */ UPDATE {} SET balance = 7", "PRAGMA user_version(7)"]
)
async def test_what_writes_waits_however_it_is_written(file: Database, sql: str) -> None:
    """A comment or another spelling does not let it pass the line and meet SQLite's lock."""

    async def old() -> None:
        async with maker(file)() as session:
            await session.execute(text(sql.format(Account.__tablename__)))

    async with UnitOfWork(file) as uow:
        await uow.session.execute(ADD)
        with pytest.raises(OperationalError, match=rf"unit {uow.number}.* 0.5 s"):
            await asyncio.create_task(old())


async def test_a_script_of_the_driver_waits(file: Database) -> None:
    """Whatever its first statement is, another one may write."""

    async def old() -> None:
        async with file.engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            await driver.executescript(f"SELECT 1; UPDATE {Account.__tablename__} SET balance = 7")

    async with UnitOfWork(file) as uow:
        await uow.session.execute(ADD)
        with pytest.raises(sqlite3.OperationalError, match=rf"unit {uow.number}.* 0.5 s"):
            await asyncio.create_task(old())
    assert await balance(file) == 1


async def test_the_end_of_a_reader_by_hand_waits_for_nobody(file: Database) -> None:
    """COMMIT and ROLLBACK in words write nothing either."""
    async with file.engine.connect() as connection, UnitOfWork(file) as uow:
        await uow.session.execute(ADD)
        for end in ("COMMIT", "ROLLBACK"):
            await connection.execute(BALANCE)
            await connection.exec_driver_sql(end)
    assert await balance(file) == 1


async def test_a_lock_on_an_attached_file_does_not_end_the_turn(
    file: Database, tmp_path: Path
) -> None:
    """Who has written holds SQLite's lock until its transaction ends, whatever else fails."""
    with closing(sqlite3.connect(tmp_path / "other", isolation_level=None)) as other:
        other.execute("CREATE TABLE x (y)")
        async with file.engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            await driver.execute("ATTACH ? AS other", (str(tmp_path / "other"),))
            await driver.execute("PRAGMA busy_timeout = 50")
            await connection.execute(BALANCE)
            await connection.execute(ADD)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(OperationalError, match="database is locked"):
                await connection.execute(text("INSERT INTO other.x VALUES (1)"))
            with pytest.raises(PoolExhaustedError, match="a session of task"):
                await asyncio.create_task(add(file))
            await connection.rollback()
        other.execute("ROLLBACK")
        await add(file)


async def test_what_an_old_event_loop_left_lets_nobody_pass(file: Database) -> None:
    """A session or unit of a loop that is gone does not end the turn of somebody in the next."""
    line, old, new = OneWriter.of(file.engine.dialect), object(), object()
    await asyncio.to_thread(asyncio.run, line.turn(old))
    left = UnitOfWork(file)
    left.holds_writer = True
    await line.turn(new)
    file.checkout._free_writer(left)
    line.free(old)
    assert line.holder is new
    assert not line.idle
    line.free(new)
    assert len(line.idle) == 1
