"""The three lanes of a unit: one transaction, in every mixture, ended by the unit alone."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import permutations
from typing import Any

import pytest
from sqlalchemy import DDL, Sequence, event, func, insert, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.ext.asyncio.exc import AsyncMethodRequired
from sqlalchemy.orm import Mapped, close_all_sessions, mapped_column

from db_manager.base import Base
from db_manager.database.database import Database
from db_manager.errors import TransactionEndedError, UnitOfWorkStateError, UnitOfWorkTaskError
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork

pytestmark = pytest.mark.usefixtures("runner")

Lane = Callable[[UnitOfWork, str], Awaitable[None]]


class Word(Base):
    """A word."""

    __tablename__ = "lanes_test__word"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(unique=True)


async def by_session(uow: UnitOfWork, word: str) -> None:
    """Write through the ORM."""
    uow.session.add(Word(text=word))
    await uow.session.flush()


async def by_text(uow: UnitOfWork, word: str) -> None:
    """Write a Core statement through the session, which may pass it on to the connection."""
    statement = text("INSERT INTO lanes_test__word (text) VALUES (:word)")
    await uow.session.execute(statement, {"word": word})


async def by_core(uow: UnitOfWork, word: str) -> None:
    """Write through SQLAlchemy Core."""
    await uow.connection.execute(insert(Word).values(text=word))


async def by_driver(uow: UnitOfWork, word: str) -> None:
    """Write through the driver's own connection."""
    driver = await uow.driver()
    await driver.execute(f"INSERT INTO lanes_test__word (text) VALUES ('{word}')")


LANES: list[Lane] = [by_session, by_text, by_core, by_driver]
ORDERS = [order for length in (1, 2, 3) for order in permutations(LANES, length)]


@pytest.fixture
async def uow_factory(database: Database) -> UnitOfWorkFactory:
    """Makes units on a database with the table."""
    await create_table(database.engine)
    return UnitOfWorkFactory(database)


async def create_table(engine: AsyncEngine) -> None:
    """Create the table of words."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.tables["lanes_test__word"].create)


async def read(uow: UnitOfWork) -> set[int]:
    """Return how many words each lane sees."""
    driver: Any = await uow.driver()
    if hasattr(driver, "fetchval"):  # asyncpg
        by_driver = await driver.fetchval("SELECT count(*) FROM lanes_test__word")
    else:
        cursor = await driver.execute("SELECT count(*) FROM lanes_test__word")
        [by_driver] = await cursor.fetchone()
        await cursor.close()
    count = select(func.count(Word.id))
    return {await uow.session.scalar(count), await uow.connection.scalar(count), by_driver}


async def write_all(uow: UnitOfWork, order: tuple[Lane, ...], prefix: str) -> None:
    """Write one word through each lane of *order*."""
    for lane in order:
        await lane(uow, f"{prefix}-{lane.__name__}")


async def test_every_mixture_commits_and_rolls_back_as_one(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """In whatever order the lanes are used, each sees the others, and all end together."""
    written = 0
    for number, order in enumerate(ORDERS):
        with pytest.raises(ZeroDivisionError):
            async with uow_factory() as uow:
                await write_all(uow, order, f"lost{number}")
                raise ZeroDivisionError
        async with uow_factory() as uow:
            await write_all(uow, order, f"kept{number}")
            written += len(order)
            assert await read(uow) == {written}, order
        async with uow_factory() as uow:
            assert await read(uow) == {written}, order
    assert database.pool_levels()["used"] == 0


async def test_a_savepoint_holds_all_lanes(uow_factory: UnitOfWorkFactory) -> None:
    """What the lanes wrote in a part is undone together with it, in every order."""
    for number, order in enumerate(ORDERS):
        async with uow_factory() as uow:
            with pytest.raises(ZeroDivisionError):
                async with uow.savepoint():
                    await write_all(uow, order, f"lost{number}")
                    raise ZeroDivisionError
            assert await read(uow) == {0}, order


@pytest.mark.parametrize("driver", ["psycopg"])
async def test_psycopg_mixes_as_well(
    driver: str, postgres_database: URL, open_database: Callable[..., Database]
) -> None:
    """With psycopg the lanes mix in the same way."""
    database = open_database(postgres_database.set(drivername=f"postgresql+{driver}"))
    await create_table(database.engine)
    for number, order in enumerate(ORDERS):
        with pytest.raises(ZeroDivisionError):
            async with UnitOfWork(database) as uow:
                await write_all(uow, order, f"lost{number}")
                raise ZeroDivisionError
        async with UnitOfWork(database) as uow:
            await write_all(uow, order, f"kept{number}")
    async with UnitOfWork(database) as uow:
        count = await uow.session.scalar(select(func.count(Word.id)))
    assert count == sum(len(order) for order in ORDERS)


async def test_lanes_mix_on_a_plain_engine(database_url: URL) -> None:
    """An engine as SQLAlchemy builds it has the three lanes too."""
    engine = create_async_engine(database_url)
    await create_table(engine)
    for number, order in enumerate(ORDERS):
        with pytest.raises(ZeroDivisionError):
            async with UnitOfWork(engine) as uow:
                await write_all(uow, order, f"lost{number}")
                raise ZeroDivisionError
        async with UnitOfWork(engine) as uow:
            await write_all(uow, order, f"kept{number}")
    async with UnitOfWork(engine) as uow:
        count = await uow.session.scalar(select(func.count(Word.id)))
    assert count == sum(len(order) for order in ORDERS)
    await engine.dispose()


async def test_a_swallowed_driver_error_on_a_plain_engine(postgres_database: URL) -> None:
    """Also on asyncpg's own connections a swallowed error is never a silent loss."""
    engine = create_async_engine(postgres_database)
    await create_table(engine)
    with pytest.raises(Exception, match="its error was swallowed"):
        async with UnitOfWork(engine) as uow:
            await by_session(uow, "apple")
            with pytest.raises(Exception, match="duplicate key"):
                await by_driver(uow, "apple")
    assert uow.state == "rolled_back"
    await engine.dispose()


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("read_only", [True, "snapshot"])
async def test_reading_units_refuse_writes_on_each_lane(
    uow_factory: UnitOfWorkFactory, lane: Lane, *, read_only: Any
) -> None:
    """A read-only unit reads on all lanes and writes on none; a later unit writes on each."""
    async with uow_factory(read_only=read_only) as uow:
        assert await read(uow) == {0}
    with pytest.raises(Exception, match=r"(?i)read-?only"):
        async with uow_factory(read_only=read_only) as uow:
            await lane(uow, "lost")
    async with uow_factory() as uow:
        await lane(uow, "kept")
    async with uow_factory(read_only=read_only) as uow:
        assert await read(uow) == {1}


async def test_pending_objects_reach_core_when_flushed(uow_factory: UnitOfWorkFactory) -> None:
    """The session writes before its own queries, and for the other lanes when it is told to."""
    async with uow_factory() as uow:
        uow.session.add(Word(text="apple"))
        count = select(func.count(Word.id))
        assert await uow.connection.scalar(count) == 0
        assert await uow.session.scalar(count) == 1
        assert await uow.connection.scalar(count) == 1


ENDINGS: dict[str, Callable[[UnitOfWork], Any]] = {
    "session.commit()": lambda uow: uow.session.commit(),
    "session.rollback()": lambda uow: uow.session.rollback(),
    "session.close()": lambda uow: uow.session.close(),
    "session.begin()": lambda uow: uow.session.begin(),
    "`async with session`": lambda uow: uow.session.__aenter__(),
    "connection.commit()": lambda uow: uow.connection.commit(),
    "connection.rollback()": lambda uow: uow.connection.rollback(),
    "connection.close()": lambda uow: uow.connection.close(),
    "connection.begin()": lambda uow: uow.connection.begin(),
    "connection.begin_nested()": lambda uow: uow.connection.begin_nested(),
}


@pytest.mark.parametrize("name", ENDINGS)
async def test_a_lane_cannot_end_the_unit(
    database: Database, uow_factory: UnitOfWorkFactory, name: str
) -> None:
    """To commit, roll back, close or begin is the unit's own: refused with what to do instead."""
    async with uow_factory() as uow:
        await by_session(uow, "apple")
        with pytest.raises(UnitOfWorkStateError) as caught:
            ended = ENDINGS[name](uow)
            await ended
        assert str(caught.value) == (
            f"{name} is not allowed in the block: the unit of work is active; it commits at the "
            f"end of its block; raise or `await uow.rollback()` to roll it back, and use "
            f"`async with uow.savepoint():` for a part that may fail"
        )
        await by_core(uow, "pear")
    assert uow.state == "committed"
    async with uow_factory() as uow:
        assert await read(uow) == {2}
    assert database.pool_levels()["used"] == 0


@pytest.mark.parametrize("method", ["commit", "rollback", "close", "begin"])
async def test_run_sync_cannot_end_the_unit_either(
    uow_factory: UnitOfWorkFactory, method: str
) -> None:
    """The session that `run_sync` hands out refuses to end the unit as well."""
    async with uow_factory() as uow:
        await by_session(uow, "apple")
        with pytest.raises(UnitOfWorkStateError, match=rf"session\.{method}\(\) is not"):
            await uow.session.run_sync(lambda session: getattr(session, method)())
    assert uow.state == "committed"


async def test_begin_nested_of_the_session_is_a_savepoint(uow_factory: UnitOfWorkFactory) -> None:
    """SQLAlchemy's own savepoint works: what failed in it is undone alone."""
    async with uow_factory() as uow:
        await by_session(uow, "apple")
        with pytest.raises(ZeroDivisionError):
            async with uow.session.begin_nested():
                await by_core(uow, "pear")
                raise ZeroDivisionError
        assert await read(uow) == {1}
    assert uow.state == "committed"


async def test_an_error_handled_by_begin_nested_is_handled(
    uow_factory: UnitOfWorkFactory,
) -> None:
    """A statement that failed in SQLAlchemy's own savepoint does not abort the unit."""
    async with uow_factory() as uow:
        await by_session(uow, "apple")
        with pytest.raises(IntegrityError):
            async with uow.session.begin_nested():
                await by_core(uow, "apple")
        await by_core(uow, "pear")
    assert uow.state == "committed"


async def test_the_session_is_made_once(uow_factory: UnitOfWorkFactory) -> None:
    """A unit has one session and one connection, however often it is asked."""
    async with uow_factory() as uow:
        assert uow.session is uow.session
        assert uow.connection is uow.connection
        assert await uow.driver() is await uow.driver()


async def test_core_can_do_what_a_connection_does(uow_factory: UnitOfWorkFactory) -> None:
    """Scalars, streams, run_sync, driver SQL and exec options work on the unit's connection."""
    async with uow_factory() as uow:
        connection = uow.connection
        await connection.exec_driver_sql("INSERT INTO lanes_test__word (text) VALUES ('a')")
        await connection.execute(insert(Word), [{"text": "b"}, {"text": "c"}])
        words = select(Word.text).order_by(Word.text)
        assert list(await connection.scalars(words)) == ["a", "b", "c"]
        stream = await connection.stream(words)
        assert [row.text async for row in stream] == ["a", "b", "c"]
        async with connection.stream_scalars(words) as scalars:
            assert [word async for word in scalars] == ["a", "b", "c"]
        assert await connection.run_sync(lambda sync: sync.scalar(words)) == "a"
        assert connection.in_transaction()
        assert connection.dialect.name in {"sqlite", "postgresql"}
        assert (await connection.get_raw_connection()).driver_connection is await uow.driver()


async def test_a_fresh_connection_is_whole(uow_factory: UnitOfWorkFactory) -> None:
    """Before its first statement the connection answers questions about itself."""
    async with uow_factory() as uow:
        connection = uow.connection
        assert (connection.closed, connection.invalidated) == (False, False)
        assert not connection.in_transaction()
        stream = await connection.stream(text("SELECT 1"))
        assert await stream.scalar_one() == 1


async def test_listeners_of_the_session_hear_core_statements(
    uow_factory: UnitOfWorkFactory,
) -> None:
    """A Core statement takes no short cut past somebody who listens to the session."""
    heard: list[str] = []
    async with uow_factory() as uow:
        session = uow.session.sync_session
        for name in ("do_orm_execute", "after_begin", "before_commit", "after_commit"):
            event.listen(session, name, lambda *_, name=name: heard.append(name))
        await uow.session.execute(text("SELECT 1"))
    assert heard == ["do_orm_execute", "after_begin", "before_commit", "after_commit"]


async def test_a_listener_that_comes_late_hears_the_commit(uow_factory: UnitOfWorkFactory) -> None:
    """Who begins to listen to the session after a Core statement still hears its commit."""
    heard: list[str] = []
    async with uow_factory() as uow:
        await uow.session.execute(text("SELECT 1"))
        event.listen(uow.session.sync_session, "after_commit", lambda _: heard.append("commit"))
    assert heard == ["commit"]


async def test_core_statements_of_the_session_see_pending_objects_as_sqlalchemy_has_it(
    uow_factory: UnitOfWorkFactory,
) -> None:
    """A Core statement flushes first what was added, if that of SQLAlchemy does: from 2.1 on."""

    async def seen(session: AsyncSession) -> object:
        session.add(Word(text="new"))
        return await session.scalar(text("SELECT count(*) FROM lanes_test__word"))

    async with AsyncSession(uow_factory.engine) as stock:
        expected = await seen(stock)
    async with uow_factory() as uow:
        await uow.session.execute(text("SELECT 1"))
        assert await seen(uow.session) == expected


@pytest.mark.parametrize("lane", ["session", "connection"])
async def test_execute_refuses_to_stream(uow_factory: UnitOfWorkFactory, lane: str) -> None:
    """A result with rows still at the server needs `stream()`: the error names that of its lane."""
    async with uow_factory() as uow:
        await uow.connection.execution_options(stream_results=True)
        with pytest.raises(AsyncMethodRequired, match=rf"Use the Async{lane.title()}\.stream\(\)"):
            await getattr(uow, lane).execute(text("SELECT 1"))


# -- what SQLAlchemy's own lanes answer, and ours too ------------------------------------------


async def test_a_session_tells_its_engine_before_the_first_statement(
    uow_factory: UnitOfWorkFactory, database: Database
) -> None:
    """`session.bind` and `get_bind()` are the engine until there is a connection; none is taken."""
    async with uow_factory() as uow:
        assert uow.session.bind is database.engine
        assert uow.session.get_bind() is database.engine.sync_engine
        assert database.pool_levels()["used"] == 0
        await uow.session.execute(text("SELECT 1"))
        assert uow.session.get_bind().engine is database.engine.sync_engine


async def test_the_connection_of_the_session_is_the_core_lane(
    uow_factory: UnitOfWorkFactory,
) -> None:
    """`await session.connection()` gives the lane that refuses to commit, with its options set."""
    async with uow_factory() as uow:
        lane = await uow.session.connection(execution_options={"stream_results": False})
        assert lane is uow.connection
        assert (await lane.get_raw_connection()).is_valid
        with pytest.raises(UnitOfWorkStateError, match=r"connection\.commit\(\)"):
            await lane.commit()


async def test_a_connection_tells_what_its_engine_knows(
    uow_factory: UnitOfWorkFactory, database: Database
) -> None:
    """Before the first statement the Core lane answers from the engine, or says why it cannot."""
    async with uow_factory() as uow:
        assert uow.connection.sync_connection.engine is database.engine.sync_engine
        assert (
            uow.connection.default_isolation_level
            == database.engine.dialect.default_isolation_level
        )
        with pytest.raises(InvalidRequestError, match="before its first statement"):
            _ = uow.connection.info
        assert database.pool_levels()["used"] == 0


async def test_a_connection_knows_no_default_level_of_an_engine_that_never_connected(
    database_url: URL,
) -> None:
    """The default isolation level is None until the engine has connected for the first time."""
    engine = create_async_engine(database_url)
    async with UnitOfWork(engine) as uow:
        known = [uow.connection.default_isolation_level]
        await uow.connection.execute(text("SELECT 1"))
        known.append(uow.connection.default_isolation_level)
    assert (known[0], isinstance(known[1], str)) == (None, True)
    await engine.dispose()


async def test_a_session_gives_the_next_value_of_a_sequence(postgres_database: URL) -> None:
    """`session.scalar(Sequence(…))` is the number itself, as on a plain session."""
    engine = create_async_engine(postgres_database)
    async with UnitOfWork(engine) as uow:
        await uow.session.execute(text("CREATE SEQUENCE lanes_test__numbers"))
        sequence = Sequence("lanes_test__numbers")
        assert [await uow.session.scalar(sequence) for _ in range(2)] == [1, 2]
    await engine.dispose()


async def test_sessions_of_ended_units_are_closed_with_all_others(
    uow_factory: UnitOfWorkFactory,
) -> None:
    """`close_all_sessions()` meets no refusal of a unit that is over."""
    async with uow_factory() as uow:
        session = uow.session
        await session.execute(text("SELECT 1"))
    close_all_sessions()
    with pytest.raises(UnitOfWorkStateError, match="committed"):
        await session.execute(text("SELECT 1"))


async def test_a_connection_that_the_block_gave_up_is_not_replaced_in_silence(
    uow_factory: UnitOfWorkFactory,
) -> None:
    """After `connection.invalidate()` nothing more is sent, and the end says that all is undone."""
    for goes_on in (True, False):
        uow = uow_factory()
        with pytest.raises(TransactionEndedError, match="nothing was written"):
            async with uow:
                await by_core(uow, "lost")
                await uow.connection.invalidate()
                if goes_on:
                    await by_core(uow, "more")
        assert uow.state == "rolled_back"
    async with uow_factory() as uow:
        assert await uow.session.scalar(select(func.count()).select_from(Word)) == 0


async def test_a_unit_that_was_not_entered_says_so_on_every_lane(
    uow_factory: UnitOfWorkFactory,
) -> None:
    """`get` on a session that outlived its unit is refused in the words of `execute`."""
    async with uow_factory() as uow:
        session = uow.session
    for call in (
        partial(session.get, Word, 1),
        session.flush,
        partial(session.execute, text("SELECT 1")),
    ):
        with pytest.raises(UnitOfWorkStateError, match="committed"):
            await call()


@pytest.mark.parametrize(
    "statement",
    [
        text("COMMIT").columns(),
        DDL("ROLLBACK"),  # type: ignore[no-untyped-call]  # untyped there
        text("/* by hand */ commit"),
    ],
    ids=["columns", "DDL", "comment"],
)
@pytest.mark.parametrize("way", ["session", "connection", "stream"])
async def test_an_end_in_sql_is_refused_in_whatever_clause(
    uow_factory: UnitOfWorkFactory, statement: Any, way: str
) -> None:
    """COMMIT and ROLLBACK that somebody wrote out are not sent, whatever clause carries them."""
    uow = uow_factory()
    with pytest.raises(UnitOfWorkStateError, match="is not allowed in the block"):
        async with uow:
            lane = uow.session if way == "session" else uow.connection
            await (lane.stream if way == "stream" else lane.execute)(statement)
    assert uow.state == "rolled_back"


async def test_bulk_work_of_another_task_is_refused(uow_factory: UnitOfWorkFactory) -> None:
    """A task that does not own the unit cannot write through its session, bulk or not."""
    async with uow_factory() as uow:
        await uow.session.execute(text("SELECT 1"))
        session = uow.session

        async def child() -> None:
            await session.run_sync(lambda sync: sync.connection())

        with pytest.raises(UnitOfWorkTaskError):
            await asyncio.create_task(child())
