"""Sessions of code that is not moved yet, on the engine of the units: a maker beside the units."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, insert, select, text, update
from sqlalchemy.engine import URL
from sqlalchemy.exc import InvalidRequestError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Mapped, Session, mapped_column

from db_manager.base import Base
from db_manager.database.database import Database
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
    return await with_account(open_database(sqlite_database, pool_size=POOL, pool_timeout=0.2))


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
        with pytest.raises(OperationalError, match=rf"unit {uow.number}.* 0.2 s"):
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
