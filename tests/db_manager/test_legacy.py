"""`uow.legacy_session()`: code that commits by itself works in a unit, which commits all of it."""

import asyncio
import logging
import sys
import warnings
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_object_session
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from db_manager import LegacySessionWarning
from db_manager.database.database import Database
from db_manager.errors import TransactionAbortedError, UnitOfWorkStateError, UnitOfWorkTaskError
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork

pytestmark = [
    pytest.mark.usefixtures("runner"),
    pytest.mark.filterwarnings("ignore::db_manager.LegacySessionWarning"),
]


class Own(DeclarativeBase):
    """Not the Base of the plugins: these are an owner's tables."""


class User(Own):
    """Somebody with a name that nobody else has."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


class Users:
    """A repository as bots have them: it commits by itself, and takes back what failed."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def add(self, name: str) -> User | None:
        """Add a user; None if the name is taken."""
        user = User(name=name)
        self.session.add(user)
        try:
            await self.session.commit()
        except IntegrityError:
            await self.session.rollback()
            return None
        await self.session.refresh(user)
        return user

    async def add_all(self, *names: str) -> None:
        """Add several users in a block of their own."""
        async with self.session.begin():
            for name in names:
                await self.session.execute(insert(User).values(name=name))

    async def rename(self, old: str, new: str) -> None:
        """Rename a user, with the steps of a transaction one by one."""
        await self.session.begin()
        user = (await self.session.scalars(select(User).where(User.name == old))).one()
        user.name = new
        await self.session.commit()
        await self.session.close()


@pytest.fixture
async def uow_factory(database: Database) -> UnitOfWorkFactory:
    """Makes units on a database with the table."""
    await create_table(database.engine)
    return UnitOfWorkFactory(database)


async def create_table(engine: AsyncEngine) -> None:
    """Create the table of users."""
    async with engine.begin() as connection:
        await connection.run_sync(Own.metadata.create_all)


async def names(database: Database) -> list[str]:
    """Return the users that are really there, as another connection sees them."""
    async with database.engine.connect() as connection:
        return list(await connection.scalars(select(User.name).order_by(User.name)))


class Failed(Exception):  # noqa: N818 -- it is what happened to the block
    """An error of the block."""


@pytest.mark.parametrize("fails", [False, True])
async def test_what_it_commits_is_committed_by_the_unit(
    database: Database, uow_factory: UnitOfWorkFactory, *, fails: bool
) -> None:
    """All of several commits is there when the unit has ended, or nothing of them."""
    with suppress(Failed):
        async with uow_factory() as uow:
            async with uow.legacy_session() as session:
                users = Users(session)
                assert await users.add("ann")
                await users.add_all("bob", "eve")
                await users.rename("bob", "bill")
            uow.session.add(User(name="moved already"))
            if fails:
                raise Failed
    assert uow.state == ("rolled_back" if fails else "committed")
    assert await names(database) == ([] if fails else ["ann", "bill", "eve", "moved already"])


async def test_it_goes_on_after_its_rollback(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """What `commit()` was refused is undone alone, as with a session of its own."""
    async with uow_factory() as uow:
        uow.session.add(User(name="before"))
        async with uow.legacy_session() as session:
            users = Users(session)
            assert await users.add("before") is None
            assert await users.add("ann")
            session.add(User(name="undone"))
            await session.flush()
            await session.rollback()
            await users.add("eve")
    assert await names(database) == ["ann", "before", "eve"]


async def test_a_failed_block_of_begin(database: Database, uow_factory: UnitOfWorkFactory) -> None:
    """An error that leaves `async with session.begin()` undoes that block, and passes."""
    async with uow_factory() as uow, uow.legacy_session() as session:
        users = Users(session)
        await users.add("ann")
        with pytest.raises(IntegrityError):
            await users.add_all("bob", "ann")
        with pytest.raises(IntegrityError):
            async with session.begin():
                session.add_all([User(name="eve"), User(name="ann")])
        with pytest.raises(Failed):
            async with session.begin() as transaction:
                assert transaction.is_active
                session.add(User(name="lost"))
                raise Failed
        async with session.begin() as transaction:
            session.add(User(name="kept"))
            await transaction.commit()
            session.add(User(name="lost"))
            await transaction.rollback()
    assert await names(database) == ["ann", "kept"]


async def test_its_own_savepoints(database: Database, uow_factory: UnitOfWorkFactory) -> None:
    """`begin_nested()` works; a commit in it is up to that block, a rollback in it is refused."""
    async with uow_factory() as uow, uow.legacy_session() as session:
        with suppress(Failed):
            async with session.begin_nested():
                session.add(User(name="undone"))
                await session.commit()
                raise Failed
        async with session.begin_nested():
            session.add(User(name="kept"))
            await session.commit()
            with pytest.raises(UnitOfWorkStateError, match="while a savepoint is open"):
                await session.rollback()
    assert await names(database) == ["kept"]


async def test_another_task_that_leaves_its_block(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """It is told, and the unit fails."""
    with pytest.raises(TransactionAbortedError):
        async with uow_factory() as uow:
            block = uow.legacy_session()
            session = await block.__aenter__()
            session.add(User(name="lost"))
            with pytest.raises(UnitOfWorkTaskError):
                await asyncio.create_task(leave(block))
    assert await names(database) == []


async def leave(block: AbstractAsyncContextManager[AsyncSession]) -> None:
    """Leave a block without an error."""
    await block.__aexit__(None, None, None)


async def test_it_is_the_session_of_the_unit(uow_factory: UnitOfWorkFactory) -> None:
    """An `AsyncSession` with the identity map of `uow.session`, which stays who owns objects."""
    async with uow_factory() as uow, uow.legacy_session() as session:
        assert isinstance(session, AsyncSession)
        assert session.sync_session is uow.session.sync_session
        ann = await Users(session).add("ann")
        assert ann is not None
        assert await uow.session.get(User, ann.id) is ann
        assert async_object_session(ann) is uow.session


async def test_nothing_is_allowed_elsewhere(uow_factory: UnitOfWorkFactory) -> None:
    """The refusals of `uow.session`, of its connection and of plain SQL stay, meanwhile too."""
    async with uow_factory() as uow, uow.legacy_session() as session:
        await Users(session).add("ann")
        connection = await session.connection()
        for refused in (
            *(uow.session.commit, uow.session.rollback, uow.session.close),
            *(connection.commit, connection.rollback, session.invalidate),
            lambda: session.execute(text("COMMIT")),
            lambda: session.run_sync(lambda sync: sync.commit()),
        ):
            with pytest.raises(UnitOfWorkStateError, match="not allowed in the block"):
                await refused()
    assert uow.state == "committed"


async def test_closing_it_takes_back_what_was_not_committed(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """`close` and `reset` do what they did: back to the last commit, and the code may go on."""
    async with uow_factory() as uow, uow.legacy_session() as session:
        users = Users(session)
        for end in (session.close, session.aclose, session.reset):
            await users.add(end.__name__)
            session.add(User(name="undone"))
            await session.begin_nested()  # and never ended
            session.add(User(name="undone as well"))
            await end()
        assert await users.add("eve")
    assert await names(database) == ["aclose", "close", "eve", "reset"]


async def test_a_block_of_the_session_is_a_session_of_its_own(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """`async with maker() as session` takes back what it did not commit, and nothing else."""

    def maker() -> AsyncSession:
        return lent

    async def save(*users: str, commit: bool) -> None:
        async with maker() as session:
            session.add_all(User(name=name) for name in users)
            await session.flush()
            if commit:
                await session.commit()

    async def save_once(name: str) -> None:
        async with maker() as session:
            session.add(User(name=name))
            with suppress(IntegrityError):
                await session.commit()  # and no rollback: the end of the block does that

    async with uow_factory() as uow, uow.legacy_session() as lent:
        uow.session.add(User(name="moved"))
        await save("ann", commit=True)
        await save("bob", "bill", commit=False)
        await save_once("ann")
        await save_once("eve")
        with suppress(Failed):
            async with maker() as session:
                session.add(User(name="undone"))
                raise Failed
        lent.add(User(name="kept"))
        await lent.commit()
    assert await names(database) == ["ann", "eve", "kept", "moved"]


@pytest.mark.parametrize("by", ["a block", "begin", "rollback", "close"])
async def test_a_cancelled_statement_passes_the_end_of_the_session(
    postgres_database: URL, open_database: Callable[..., Database], by: str
) -> None:
    """Its connection is lost, and the end of the session hides neither that nor the error."""
    uow_factory = UnitOfWorkFactory(open_database(postgres_database))
    units: list[UnitOfWork] = []
    asked = asyncio.Event()

    async def work() -> None:
        async with uow_factory() as uow, uow.legacy_session() as session:
            units.append(uow)
            await session.execute(text("SELECT 1"))
            asked.set()
            if by in {"rollback", "close"}:
                try:
                    await session.execute(text("SELECT pg_sleep(60)"))
                finally:
                    await getattr(session, by)()
            async with session.begin() if by == "begin" else session:
                await session.execute(text("SELECT pg_sleep(60)"))

    running = asyncio.create_task(work())
    await asked.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [unit.state for unit in units] == ["rolled_back"]


async def test_a_generator_that_keeps_a_block_open(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """What such a block did not commit is not committed by the unit either."""

    async def rows(session: AsyncSession) -> AsyncGenerator[int, None]:
        async with session:
            session.add(User(name="undone"))
            await session.flush()
            yield 1

    async with uow_factory() as uow:
        async with uow.legacy_session() as session:
            await Users(session).add("kept")
            generator = rows(session)
            await anext(generator)
        await generator.aclose()
    assert await names(database) == ["kept"]


async def test_a_swallowed_error_is_told_by_its_commit(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """A commit after a failed statement says so, where PostgreSQL would roll back in silence."""
    async with uow_factory() as uow, uow.legacy_session() as session:
        await Users(session).add("ann")
        with suppress(IntegrityError):
            await session.execute(insert(User).values(name="ann"))
        with pytest.raises(TransactionAbortedError):
            await session.commit()
        await session.rollback()
        await Users(session).add("eve")
    assert await names(database) == ["ann", "eve"]


async def test_an_error_that_leaves_its_block(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """It undoes what came after the last commit; the unit may swallow it and go on."""
    async with uow_factory() as uow:
        with suppress(Failed):
            async with uow.legacy_session() as session:
                await Users(session).add("kept")
                session.add(User(name="undone"))
                raise Failed
        with suppress(Failed):
            async with uow.legacy_session() as session:
                await session.begin_nested()  # and never ended
                session.add(User(name="undone as well"))
                raise Failed
    assert await names(database) == ["kept"]


@pytest.mark.parametrize("written", ["added", "flushed", "by Core", "read"])
async def test_what_is_not_committed_stays(
    database: Database, uow_factory: UnitOfWorkFactory, written: str
) -> None:
    """Code whose caller used to commit leaves that to the unit, which tells of it."""

    async def old(uow: UnitOfWork) -> None:
        async with uow.legacy_session() as session:
            await Users(session).add("ann")
            if written == "by Core":
                await session.execute(insert(User).values(name="eve"))
            elif written != "read":
                session.add(User(name="eve"))
            if written == "flushed":
                await session.flush()

    async with uow_factory() as uow:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            await old(uow)
    said = [str(each.message) for each in told if "what was written" in str(each.message)]
    assert len(said) == (0 if written == "read" else 1)
    assert {each.filename for each in told} == {__file__}
    assert await names(database) == (["ann"] if written == "read" else ["ann", "eve"])


async def test_after_its_block(uow_factory: UnitOfWorkFactory) -> None:
    """A session that was kept, and what its `begin()` has returned, end nothing any more."""
    async with uow_factory() as uow:
        async with uow.legacy_session() as session:
            begun = session.begin()
        for late in (session.commit, session.rollback, begun.commit, begun.rollback):
            with pytest.raises(UnitOfWorkStateError, match="is over, and its session"):
                await late()
        with pytest.raises(UnitOfWorkStateError, match="is over, and its session"):
            session.begin()
        for block in (session, begun):
            with pytest.raises(UnitOfWorkStateError, match="is over, and its session"):
                async with block:
                    pass
        await session.close()
        assert not uow.session.in_nested_transaction()
    with pytest.raises(UnitOfWorkStateError):
        await session.execute(select(User))
    await session.close()


async def test_inside_of_another_unit(database: Database, uow_factory: UnitOfWorkFactory) -> None:
    """An inner unit lends the session as well, and goes back to its savepoint with it."""
    async with uow_factory() as outer:
        outer.session.add(User(name="outer"))
        with suppress(Failed):
            async with uow_factory(nested="savepoint") as inner:
                async with inner.legacy_session() as session:
                    await Users(session).add("undone")
                raise Failed
        async with uow_factory(nested="join") as inner, inner.legacy_session() as session:
            await Users(session).add("kept")
    assert await names(database) == ["kept", "outer"]


async def test_an_inner_unit_that_ends_before_its_block(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """Its session can be closed, which is nothing any more, and ends nothing of the outer unit."""
    async with uow_factory() as outer:
        outer.session.add(User(name="kept"))
        async with uow_factory(nested="savepoint") as inner, inner.legacy_session() as session:
            async with session:
                await Users(session).add("undone")
                await inner.rollback()
            await session.close()
            with pytest.raises(UnitOfWorkStateError, match="the unit of work is rolled_back"):
                await session.commit()
    assert (outer.state, inner.state) == ("committed", "rolled_back")
    assert await names(database) == ["kept"]


async def test_a_unit_without_a_transaction_has_none(uow_factory: UnitOfWorkFactory) -> None:
    """With read_only=True there is nothing to go back to, and the fix is named."""
    async with uow_factory(read_only=True) as uow:
        with pytest.raises(UnitOfWorkStateError, match='open it with read_only="snapshot"'):
            async with uow.legacy_session():
                pass


async def test_each_place_is_told_once(
    uow_factory: UnitOfWorkFactory,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One log line for a place, with file, line and function, however often it commits."""
    monkeypatch.setattr("db_manager.unit.parts.legacy._told", set())
    caplog.set_level(logging.WARNING, "db_manager.legacy")
    async with uow_factory() as uow, uow.legacy_session() as session:
        for number in range(3):
            session.add(User(name=f"user {number}"))
            await session.commit()
        here = sys._getframe().f_lineno - 1
        async with session.begin():
            pass
    said = [record.getMessage() for record in caplog.records]
    assert [line.partition(" at ")[0] for line in said] == ["session.commit()", "session.begin()"]
    assert f" at db_manager/{Path(__file__).name}:{here} in test_each_place_is_told_once" in said[0]
    assert not any(str(Path(__file__).parent) in line for line in said)


async def test_tests_can_find_the_places(uow_factory: UnitOfWorkFactory) -> None:
    """The warning is of the caller's line, and as an error it stops the commit."""

    async def old(uow: UnitOfWork) -> None:
        async with uow.legacy_session() as session:
            session.add(User(name="ann"))
            await session.commit()

    async with uow_factory() as uow:
        with pytest.warns(LegacySessionWarning, match=r"session.commit\(\) is left") as caught:
            await old(uow)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("failing", [False, True])
async def test_every_driver(
    any_database_url: URL, open_database: Callable[..., Database], *, failing: bool
) -> None:
    """Commits and rollbacks of the code do the same on each driver."""
    database = open_database(any_database_url)
    write = text("INSERT INTO words VALUES (:word)")
    async with database.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE words (word VARCHAR(20) UNIQUE)"))
    uow_factory = UnitOfWorkFactory(database)
    with suppress(Failed):
        async with uow_factory() as uow, uow.legacy_session() as session:
            await session.execute(write, {"word": "ann"})
            await session.commit()
            with pytest.raises(DBAPIError):
                await session.execute(write, {"word": "ann"})
            await session.rollback()
            await session.execute(write, {"word": "eve"})
            await session.commit()
            if failing:
                raise Failed
    async with uow_factory(read_only=True) as uow:
        words = set(await uow.session.scalars(text("SELECT word FROM words")))
    assert words == (set() if failing else {"ann", "eve"})
