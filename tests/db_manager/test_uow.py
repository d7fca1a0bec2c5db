"""The contract of the unit of work, on SQLite and on PostgreSQL: outcome, order, guards."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, nullcontext, suppress
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Mapped, mapped_column

from db_manager.base import Base
from db_manager.config import DatabaseConfig
from db_manager.database.database import Database
from db_manager.engine.create import create_engine
from db_manager.errors import (
    DatabaseUnavailableError,
    ReadOnlyUnsupportedError,
    TransactionAbortedError,
    UnitOfWorkStateError,
    UnitOfWorkTaskError,
)
from db_manager.events import UnitClosed
from db_manager.schema import create_missing_tables
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork
from lifecycle.correlation import current_correlation
from lifecycle.event import Event
from observability.testing import EventRecorder

pytestmark = pytest.mark.usefixtures("runner")


class Item(Base):
    """Something with a name that nothing else has."""

    __tablename__ = "uow_test__item"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


@pytest.fixture
async def uow_factory(database: Database) -> UnitOfWorkFactory:
    """Makes units on a database with the table."""
    await create_table(database.engine)
    return UnitOfWorkFactory(database)


async def create_table(engine: AsyncEngine) -> None:
    """Create the table of items."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.tables["uow_test__item"].create)


async def names(database: Database) -> list[str]:
    """Return the items that are really there, as another connection sees them."""
    async with database.engine.connect() as connection:
        return list(await connection.scalars(select(Item.name).order_by(Item.name)))


def used(database: Database) -> int:
    """Return how many connections are out of the pool."""
    return int(database.pool_levels()["used"])


def life(events: EventRecorder, uow: UnitOfWork) -> list[str]:
    """Return what was told about a unit, without its statements."""
    story = events.only(unit=uow.number).events
    return [event.topic for event in story if event.topic != "database.statement"]


# -- outcomes --------------------------------------------------------------------------------


@pytest.fixture
async def plain_engine(database_url: URL) -> AsyncIterator[AsyncEngine]:
    """An engine as SQLAlchemy builds it, with the table."""
    engine = create_async_engine(database_url)
    await create_table(engine)
    yield engine
    await engine.dispose()


async def test_the_sentence_that_everything_grew_from(plain_engine: AsyncEngine) -> None:
    """On any engine the block commits at its end, rolls back on an error, and is closed then."""
    async with UnitOfWork(plain_engine) as uow:
        await uow.session.execute(insert(Item).values(name="kept"))
    with pytest.raises(ZeroDivisionError):
        async with UnitOfWork(plain_engine) as uow:
            await uow.session.execute(insert(Item).values(name="lost"))
            raise ZeroDivisionError
    async with plain_engine.connect() as connection:
        assert list(await connection.scalars(select(Item.name))) == ["kept"]
    pool: Any = plain_engine.sync_engine.pool
    assert pool.checkedout() == 0


@pytest.mark.parametrize("make", [UnitOfWork, lambda engine: UnitOfWorkFactory(engine)()])
async def test_options_of_an_engine_hold_in_its_units(
    plain_engine: AsyncEngine, make: Callable[[AsyncEngine], UnitOfWork]
) -> None:
    """`engine.execution_options(…)` makes an engine that units take as it is, and only that one."""
    async with make(plain_engine) as uow:
        await uow.session.execute(insert(Item).values(name="first"))
    elsewhere = plain_engine.execution_options(schema_translate_map={None: "nowhere"})
    by_itself = plain_engine.execution_options(isolation_level="AUTOCOMMIT")
    for refused in (elsewhere, by_itself):
        with pytest.raises((DBAPIError, UnitOfWorkStateError)):
            async with make(refused) as uow:
                await uow.session.execute(insert(Item).values(name="lost"))
        assert uow.state == "rolled_back"
    async with make(plain_engine) as uow:
        await uow.session.execute(insert(Item).values(name="last"))
    async with plain_engine.connect() as connection:
        assert set(await connection.scalars(select(Item.name))) == {"first", "last"}


async def test_a_normal_end_commits(
    database: Database, uow_factory: UnitOfWorkFactory, events: EventRecorder
) -> None:
    """A block that ends normally is committed; begin, commit and close are told in this order."""
    async with uow_factory() as uow:
        uow.session.add(Item(name="apple"))
        assert uow.state == "active"
    assert uow.state == "committed"
    assert await names(database) == ["apple"]
    assert life(events, uow) == ["uow.begin", "uow.commit", "uow.close"]
    closed = events.assert_event("uow.close", outcome="committed", cause="", error="")
    assert isinstance(closed, UnitClosed)
    assert (closed.statements, closed.attempt) == (1, 1)
    assert 0 < closed.database_time < closed.duration


async def test_everything_is_over_when_it_is_told(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """When the end of a unit is published, its connection is back and its state is final."""
    seen: list[tuple[str, str, int]] = []
    uow = uow_factory()

    def look(event: Event) -> None:
        seen.append((event.topic, uow.state, used(database)))

    with ExitStack() as subscriptions:
        for topic in ("uow.begin", "uow.commit", "uow.close"):
            subscriptions.enter_context(database.bus.subscribe(topic, look))
        async with uow:
            await uow.session.execute(insert(Item).values(name="apple"))
    assert seen == [
        ("uow.begin", "active", 0),
        ("uow.commit", "committed", 0),
        ("uow.close", "committed", 0),
    ]


async def test_an_error_rolls_back_and_is_the_same_object(
    database: Database, uow_factory: UnitOfWorkFactory, events: EventRecorder
) -> None:
    """The block's own exception reaches the caller, the very same object, without additions."""
    mine = ValueError("my own")
    with pytest.raises(ValueError, match="my own") as caught:
        async with uow_factory() as uow:
            await uow.session.execute(insert(Item).values(name="apple"))
            raise mine
    assert caught.value is mine
    assert not hasattr(mine, "__notes__")
    assert (mine.__cause__, mine.__context__) == (None, None)
    assert (uow.state, await names(database), used(database)) == ("rolled_back", [], 0)
    assert life(events, uow) == ["uow.begin", "uow.rollback", "uow.close"]
    rolled_back = events.assert_event("uow.rollback", cause="error")
    assert rolled_back.as_dict()["error"].startswith(f"ValueError: raised in {__name__}:")
    events.assert_event("uow.close", outcome="rolled_back", cause="error")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_whatever_leaves_the_block_rolls_back(
    database: Database, uow_factory: UnitOfWorkFactory, kind: type[BaseException]
) -> None:
    """Exceptions that are no Exception roll back too, and pass."""
    with pytest.raises(kind):
        async with uow_factory() as uow:
            await uow.session.execute(insert(Item).values(name="apple"))
            raise kind
    assert (uow.state, await names(database), used(database)) == ("rolled_back", [], 0)


async def test_a_cancelled_block_rolls_back(
    database: Database, uow_factory: UnitOfWorkFactory, events: EventRecorder
) -> None:
    """A cancellation inside of the block rolls back with that cause and goes on."""
    inside = asyncio.Event()

    async def work() -> None:
        async with uow_factory() as uow:
            await uow.session.execute(insert(Item).values(name="apple"))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert (await names(database), used(database), database.open) == ([], 0, {})
    events.assert_event("uow.rollback", cause="cancelled")


async def test_an_error_of_the_database_passes_as_it_is(
    uow_factory: UnitOfWorkFactory, events: EventRecorder
) -> None:
    """IntegrityError stays IntegrityError, and the events say nothing of the values."""
    async with uow_factory() as uow:
        await uow.session.execute(insert(Item).values(name="c4n4ry"))
    with pytest.raises(IntegrityError):
        async with uow_factory() as uow:
            await uow.session.execute(insert(Item).values(name="c4n4ry"))
    rolled_back = events.assert_event("uow.rollback", unit=uow.number, cause="error")
    assert "c4n4ry" not in str(rolled_back.as_dict())


async def test_an_error_of_the_flush_at_the_end_rolls_back(
    database: Database, uow_factory: UnitOfWorkFactory, events: EventRecorder
) -> None:
    """Pending objects are written at the end; when that fails nothing is, and the error passes."""
    with pytest.raises(IntegrityError):
        async with uow_factory() as uow:
            uow.session.add_all([Item(name="apple"), Item(name="apple")])
    assert (uow.state, await names(database), used(database)) == ("rolled_back", [], 0)
    assert life(events, uow) == ["uow.begin", "uow.rollback", "uow.close"]


async def test_a_refused_commit_is_a_rollback(
    postgres_database: URL, open_database: Callable[..., Database]
) -> None:
    """A deferred constraint that fails at COMMIT passes as it is, and the state is true."""
    database = open_database(postgres_database)
    async with database.engine.begin() as connection:
        await connection.execute(
            text("CREATE TABLE d (id INT UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        )
    with EventRecorder(database.bus) as events, pytest.raises(IntegrityError):
        async with UnitOfWork(database) as uow:
            await uow.session.execute(text("INSERT INTO d VALUES (1), (1)"))
    assert (uow.state, used(database)) == ("rolled_back", 0)
    events.assert_event("uow.rollback", cause="error")


async def test_a_failed_rollback_is_a_note(
    postgres_database: URL, open_database: Callable[..., Database]
) -> None:
    """When the connection is lost the block's own error is what the caller gets."""
    database = open_database(postgres_database)
    mine = ValueError("my own")
    with pytest.raises(ValueError, match="my own") as caught:
        async with UnitOfWork(database) as uow:
            backend = await uow.session.scalar(select(func.pg_backend_pid()))
            async with database.engine.connect() as other:
                await other.execute(text(f"SELECT pg_terminate_backend({backend}, 5000)"))
            raise mine
    assert caught.value is mine
    assert (uow.state, used(database)) == ("rolled_back", 0)
    async with UnitOfWork(database) as uow:
        assert await uow.session.scalar(text("SELECT 1")) == 1


async def test_objects_stay_readable_after_the_commit(uow_factory: UnitOfWorkFactory) -> None:
    """An object of a committed unit keeps its values, also those that the database made."""
    async with uow_factory() as uow:
        item = Item(name="apple")
        uow.session.add(item)
    assert (item.id, item.name) == (1, "apple")


async def test_a_raising_subscriber_changes_nothing(
    database: Database, uow_factory: UnitOfWorkFactory, events: EventRecorder
) -> None:
    """A subscriber of every event that always raises does not reach into the unit."""

    def fail(event: Event) -> None:
        raise RuntimeError(event.topic)

    with database.bus.subscribe("uow.*", fail):
        async with uow_factory() as uow:
            uow.session.add(Item(name="apple"))
    assert (uow.state, await names(database), used(database)) == ("committed", ["apple"], 0)
    events.assert_sequence("uow.begin", "uow.commit", "uow.close")


async def test_the_unit_is_in_the_correlation(uow_factory: UnitOfWorkFactory) -> None:
    """Inside of the block, and only there, the correlation names the unit."""
    async with uow_factory() as uow:
        assert current_correlation().unit == uow.number
        assert repr(uow) == f"<UnitOfWork {uow.number} active statements=0>"
    assert current_correlation().unit is None
    with pytest.raises(ZeroDivisionError):
        async with uow_factory():
            raise ZeroDivisionError
    assert current_correlation().unit is None


# -- empty units and explicit rollback -------------------------------------------------------


@pytest.fixture
async def nowhere() -> AsyncIterator[Database]:
    """A database whose server does not exist."""
    config = DatabaseConfig(driver="postgresql+asyncpg", host="127.0.0.1", port=1, database="bot")
    database = Database(create_engine(config))
    yield database
    await database.dispose()


async def test_an_empty_unit_needs_no_server(nowhere: Database) -> None:
    """A unit without a statement makes no connection, whatever it says about its end."""
    with EventRecorder(nowhere.bus) as events:
        async with UnitOfWork(nowhere) as committed:
            assert not committed.session.new
        with pytest.raises(ZeroDivisionError):
            async with UnitOfWork(nowhere) as failed:
                raise ZeroDivisionError
        async with UnitOfWork(nowhere) as undone:
            await undone.rollback()
    assert [unit.state for unit in (committed, failed, undone)] == [
        "committed",
        "rolled_back",
        "rolled_back",
    ]
    assert events.topics == [
        *("uow.begin", "uow.commit", "uow.close"),
        *("uow.begin", "uow.rollback", "uow.close"),
        *("uow.begin", "uow.rollback", "uow.close"),
    ]


async def test_an_explicit_rollback_ends_the_unit(
    database: Database, uow_factory: UnitOfWorkFactory, events: EventRecorder
) -> None:
    """After `rollback()` nothing is written, the connection is back and the unit cannot be used."""
    async with uow_factory() as uow:
        await uow.session.execute(insert(Item).values(name="apple"))
        await uow.rollback()
        assert (uow.state, used(database)) == ("rolled_back", 0)
        with pytest.raises(UnitOfWorkStateError, match="the unit of work is rolled_back"):
            await uow.session.execute(select(Item))
        async with uow_factory() as second:
            second.session.add(Item(name="pear"))
    assert await names(database) == ["pear"]
    assert life(events, uow) == ["uow.begin", "uow.rollback", "uow.close"]
    events.assert_event("uow.rollback", unit=uow.number, cause="explicit", error="")


async def test_an_error_after_an_explicit_rollback_passes(
    database: Database, uow_factory: UnitOfWorkFactory, events: EventRecorder
) -> None:
    """The rest of a block that was rolled back by hand may raise, the unit ended before."""
    with pytest.raises(ZeroDivisionError):
        async with uow_factory() as uow:
            await uow.rollback()
            raise ZeroDivisionError
    assert life(events, uow) == ["uow.begin", "uow.rollback", "uow.close"]
    assert database.open == {}


# -- guards ----------------------------------------------------------------------------------


async def test_entering_twice_is_refused(uow_factory: UnitOfWorkFactory) -> None:
    """A unit is entered once; the error names the state it is in."""
    async with uow_factory() as uow:
        with pytest.raises(UnitOfWorkStateError) as caught:
            await uow.__aenter__()
        assert str(caught.value) == (
            "it cannot be entered again: the unit of work is active; make a new one for each block"
        )
    with pytest.raises(UnitOfWorkStateError, match="the unit of work is committed") as caught:
        async with uow:
            pass
    assert caught.value.state == "committed"


async def test_a_unit_that_was_not_entered_cannot_be_used(uow_factory: UnitOfWorkFactory) -> None:
    """Before its block a unit has no session, no connection and no end."""
    uow = uow_factory()
    for use in uses(uow):
        with pytest.raises(UnitOfWorkStateError, match="the unit of work is new; use it inside"):
            await use()


def uses(uow: UnitOfWork) -> list[Callable[[], Awaitable[Any]]]:
    """Return every way to use a unit."""

    async def savepoint() -> None:
        async with uow.savepoint():
            pass

    async def session() -> None:
        await uow.session.execute(select(Item))

    async def connection() -> None:
        await uow.connection.execute(select(Item))

    async def after_commit() -> None:
        uow.after_commit(lambda: None)

    async def after_rollback() -> None:
        uow.after_rollback(lambda: None)

    return [session, connection, uow.driver, savepoint, uow.rollback, after_commit, after_rollback]


async def test_use_after_the_end_is_refused(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """A unit that is over, and a session or connection kept from it, begin nothing."""
    async with uow_factory() as uow:
        session, connection = uow.session, uow.connection
        item = Item(name="apple")
        session.add(item)
        await session.flush()
        await connection.execute(select(Item))
    late: list[Callable[[], Awaitable[Any]]] = [
        *uses(uow),
        lambda: session.execute(select(Item)),
        lambda: session.scalar(select(Item)),
        lambda: session.scalars(select(Item)),
        lambda: session.stream(select(Item)),
        lambda: session.get(Item, 1),
        session.connection,
        lambda: session.run_sync(lambda sync: sync.execute(select(Item))),
        lambda: connection.execute(select(Item)),
        lambda: connection.run_sync(lambda sync: sync.execute(select(Item))),
        connection.get_raw_connection,
    ]
    for use in late:
        with pytest.raises(UnitOfWorkStateError, match="the unit of work is committed"):
            await use()
    assert used(database) == 0


async def test_another_task_is_refused(uow_factory: UnitOfWorkFactory) -> None:
    """A task that does not own the unit cannot use it, nor what it holds; the unit goes on."""
    async with uow_factory() as uow:
        session, connection = uow.session, uow.connection
        await session.execute(insert(Item).values(name="apple"))
        foreign: list[Callable[[], Awaitable[Any]]] = [
            *uses(uow),
            lambda: session.execute(select(Item)),
            session.flush,
            lambda: session.get(Item, 1),
            lambda: connection.execute(select(Item)),
        ]
        for use in foreign:

            async def call(use: Callable[[], Awaitable[Any]] = use) -> None:
                await use()

            task = asyncio.create_task(call(), name="stranger")
            await asyncio.wait({task})
            error = task.exception()
            assert isinstance(error, UnitOfWorkTaskError), use
            assert error.user == "stranger"
            assert "was used by task 'stranger'" in str(error)
        assert await session.scalar(select(func.count(Item.id))) == 1
    assert uow.state == "committed"


async def test_a_statement_of_a_child_task_is_an_error(
    postgres_database: URL, open_database: Callable[..., Database]
) -> None:
    """A child that still runs a statement at the end is an error; the next units are not hurt."""
    database = open_database(postgres_database, pool_size=1)
    with pytest.raises(UnitOfWorkTaskError):
        async with UnitOfWork(database) as uow:
            driver = await uow.driver()
            child = asyncio.create_task(driver.execute("SELECT pg_sleep(10)"))
            await asyncio.sleep(0)
    await asyncio.wait({child})
    assert child.exception() is not None
    assert uow.state == "rolled_back"
    for _ in range(3):
        async with UnitOfWork(database) as uow:
            assert await uow.session.scalar(text("SELECT 1")) == 1
    assert used(database) == 0


async def test_another_task_cannot_end_the_block(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """A block that another task leaves is rolled back, and that task is told."""
    uow = uow_factory()
    await uow.__aenter__()
    await uow.session.execute(insert(Item).values(name="apple"))

    async def leave() -> None:
        await uow.__aexit__(None, None, None)

    task = asyncio.create_task(leave())
    await asyncio.wait({task})
    assert isinstance(task.exception(), UnitOfWorkTaskError)
    assert (uow.state, used(database), database.open) == ("rolled_back", 0, {})
    assert await names(database) == []


async def test_a_second_unit_in_the_task_is_refused(
    database: Database, uow_factory: UnitOfWorkFactory, events: EventRecorder
) -> None:
    """A unit inside of a unit could wait for itself: refused at once, the first one goes on."""
    async with uow_factory() as uow:
        await uow.session.execute(insert(Item).values(name="apple"))
        with pytest.raises(UnitOfWorkStateError, match=r"use its savepoint\(\)") as caught:
            async with uow_factory():
                pass
        assert caught.value.state == "active"
    assert await names(database) == ["apple"]
    assert life(events, uow) == ["uow.begin", "uow.commit", "uow.close"]
    async with uow_factory() as uow:
        assert uow.state == "active"


async def test_units_of_other_tasks_are_free(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """Each task may have its unit, also one that was begun inside of another's block."""

    async def add(name: str) -> None:
        async with uow_factory() as uow:
            uow.session.add(Item(name=name))

    async with uow_factory():
        await asyncio.gather(add("apple"), add("pear"))
    assert await names(database) == ["apple", "pear"]


# -- swallowed errors ------------------------------------------------------------------------


async def fail_in_core(uow: UnitOfWork) -> None:
    """Break the constraint through SQLAlchemy Core."""
    await uow.connection.execute(insert(Item).values(name="taken"))


async def fail_in_session(uow: UnitOfWork) -> None:
    """Break the constraint with a statement of the session."""
    await uow.session.execute(insert(Item).values(name="taken"))


async def fail_in_flush(uow: UnitOfWork) -> None:
    """Break the constraint with a pending object."""
    uow.session.add(Item(name="taken"))
    await uow.session.flush()


async def fail_in_driver(uow: UnitOfWork) -> None:
    """Break the constraint past SQLAlchemy."""
    driver = await uow.driver()
    await driver.execute("INSERT INTO uow_test__item (name) VALUES ('taken')")


async def fail_in_sql(uow: UnitOfWork) -> None:
    """Send what is no SQL."""
    await uow.session.execute(text("SELEKT 1"))


FAILURES = [fail_in_core, fail_in_session, fail_in_flush, fail_in_driver, fail_in_sql]


@pytest.mark.parametrize("fail", FAILURES)
async def test_a_swallowed_error_is_never_a_silent_loss(
    database: Database,
    uow_factory: UnitOfWorkFactory,
    events: EventRecorder,
    fail: Callable[[UnitOfWork], Awaitable[None]],
) -> None:
    """A block that goes on after a failed statement writes nothing and is told, on each lane."""
    async with uow_factory() as uow:
        uow.session.add(Item(name="taken"))
    with pytest.raises(TransactionAbortedError, match="its error was swallowed") as caught:
        async with uow_factory() as uow:
            await uow.session.execute(insert(Item).values(name="before"))
            try:
                await fail(uow)
            except Exception as error:  # noqa: BLE001 -- each lane has its own
                swallowed = error
    if fail is not fail_in_driver:
        assert caught.value.__cause__ is swallowed
    assert (uow.state, await names(database), used(database)) == ("rolled_back", ["taken"], 0)
    assert life(events, uow) == ["uow.begin", "uow.rollback", "uow.close"]


@pytest.mark.parametrize("use", [fail_in_core, fail_in_session, fail_in_flush, fail_in_driver])
async def test_a_swallowed_lack_of_a_connection_is_no_commit(
    nowhere: Database, use: Callable[[UnitOfWork], Awaitable[None]]
) -> None:
    """A statement that got no connection at all is as lost as one that failed: told at the end."""
    with EventRecorder(nowhere.bus) as events, pytest.raises(TransactionAbortedError) as caught:
        async with UnitOfWork(nowhere) as uow:
            with pytest.raises(DatabaseUnavailableError):
                await use(uow)
    assert isinstance(caught.value.__cause__, DatabaseUnavailableError)
    assert life(events, uow) == ["uow.begin", "uow.rollback", "uow.close"]
    assert (uow.state, used(nowhere), nowhere.open) == ("rolled_back", 0, {})


@pytest.mark.parametrize("fail", FAILURES)
async def test_an_error_in_a_savepoint_may_be_swallowed(
    database: Database,
    uow_factory: UnitOfWorkFactory,
    fail: Callable[[UnitOfWork], Awaitable[None]],
) -> None:
    """A failed part is undone alone when its error leaves the part; the unit commits the rest."""
    async with uow_factory() as uow:
        uow.session.add(Item(name="taken"))
    async with uow_factory() as uow:
        await uow.session.execute(insert(Item).values(name="before"))
        with pytest.raises(Exception, match=r"(?i)unique|syntax"):
            async with uow.savepoint():
                await uow.session.execute(insert(Item).values(name="undone"))
                await fail(uow)
        await uow.session.execute(insert(Item).values(name="later"))
    assert uow.state == "committed"
    assert await names(database) == ["before", "later", "taken"]


async def test_an_error_swallowed_inside_of_a_savepoint(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """A part that swallows its own failure is undone and says so; the unit may go on."""
    async with uow_factory() as uow:
        uow.session.add(Item(name="taken"))
    async with uow_factory() as uow:
        with pytest.raises(TransactionAbortedError):
            async with uow.savepoint():
                await uow.session.execute(insert(Item).values(name="undone"))
                with suppress(IntegrityError):
                    await fail_in_core(uow)
        uow.session.add(Item(name="later"))
    assert await names(database) == ["later", "taken"]


@pytest.mark.parametrize("error", [None, ZeroDivisionError()])
async def test_a_rollback_by_hand_ends_the_parts_as_well(
    database: Database, uow_factory: UnitOfWorkFactory, error: Exception | None
) -> None:
    """After `rollback()` in a part its blocks are left as that of the unit is: without an error."""
    with pytest.raises(type(error)) if error else nullcontext() as caught:
        async with uow_factory() as uow, uow.savepoint(), uow.savepoint():
            uow.session.add(Item(name="lost"))
            await uow.rollback()
            if error is not None:
                raise error
    assert uow.state == "rolled_back"
    assert await names(database) == []
    assert caught is None or not hasattr(caught.value, "__notes__")


async def test_savepoints_nest(database: Database, uow_factory: UnitOfWorkFactory) -> None:
    """An inner part may fail alone, an outer part takes its inner ones along."""
    async with uow_factory() as uow:
        async with uow.savepoint():
            uow.session.add(Item(name="outer"))
            with pytest.raises(ZeroDivisionError):
                async with uow.savepoint():
                    uow.session.add(Item(name="inner"))
                    raise ZeroDivisionError
        with pytest.raises(ZeroDivisionError):
            async with uow.savepoint():
                async with uow.savepoint() as part:
                    part.session.add(Item(name="taken along"))
                raise ZeroDivisionError
    assert await names(database) == ["outer"]


async def test_a_part_takes_a_savepoint_along_that_was_left_open(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """SQLAlchemy's own savepoint, begun by hand and never ended, does not save a failed part."""
    async with uow_factory() as uow:
        uow.session.add(Item(name="kept"))
        with suppress(ZeroDivisionError):
            async with uow.savepoint():
                uow.session.add(Item(name="undone"))
                await uow.session.begin_nested()
                uow.session.add(Item(name="undone as well"))
                raise ZeroDivisionError
        async with uow.savepoint():
            await uow.session.begin_nested()
            uow.session.add(Item(name="kept as well"))
    assert await names(database) == ["kept", "kept as well"]


async def test_an_error_before_sqlalchemy_asks_the_server_is_no_failed_statement(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """What fails without a statement (a missing row, say) may be handled and the unit commits."""
    async with uow_factory() as uow:
        uow.session.add(Item(name="apple"))
        with pytest.raises(Exception, match="No row was found"):
            (await uow.session.execute(select(Item).where(Item.id == 77))).scalar_one()
    assert await names(database) == ["apple"]


# -- reading and isolation -------------------------------------------------------------------


@pytest.mark.parametrize("read_only", [True, "snapshot"])
async def test_a_write_in_a_reading_unit_is_refused(
    database: Database, uow_factory: UnitOfWorkFactory, *, read_only: Any
) -> None:
    """The database itself refuses to write in a read-only unit, and a later unit may write."""
    for _ in range(2):
        with pytest.raises(DBAPIError, match=r"(?i)read-?only"):
            async with uow_factory(read_only=read_only) as uow:
                await uow.session.execute(insert(Item).values(name="apple"))
    async with uow_factory() as uow:
        uow.session.add(Item(name="pear"))
    assert await names(database) == ["pear"]
    assert used(database) == 0


async def test_reading_units_see_the_newest_or_one_state(uow_factory: UnitOfWorkFactory) -> None:
    """Statements of a read-only unit see what is committed meanwhile, those of a snapshot not."""
    count = select(func.count(Item.id))

    async def add(name: str) -> None:
        async with uow_factory() as uow:
            uow.session.add(Item(name=name))

    async with uow_factory(read_only=True) as uow:
        assert await uow.session.scalar(count) == 0
        await asyncio.create_task(add("apple"))
        assert await uow.session.scalar(count) == 1
    async with uow_factory(read_only="snapshot") as uow:
        assert await uow.connection.scalar(count) == 1
        await asyncio.create_task(add("pear"))
        assert await uow.session.scalar(count) == 1
    async with uow_factory(read_only=True) as uow:
        assert await uow.session.scalar(count) == 2


async def test_a_reading_unit_says_so(
    uow_factory: UnitOfWorkFactory, events: EventRecorder
) -> None:
    """The events of a read-only unit are those of any unit, and its begin says what it is."""
    async with uow_factory(read_only=True) as uow:
        await uow.session.execute(select(Item))
    assert life(events, uow) == ["uow.begin", "uow.commit", "uow.close"]
    events.assert_event("uow.begin", read_only=True)


async def test_an_engine_that_cannot_refuse_writes_says_so(sqlite_database: URL) -> None:
    """A read-only unit on an engine of the stock SQLite driver is refused."""
    engine = create_async_engine(sqlite_database)
    with pytest.raises(ReadOnlyUnsupportedError, match="for sqlite cannot refuse writes"):
        async with UnitOfWork(engine, read_only=True) as uow:
            await uow.session.execute(text("SELECT 1"))
    pool: Any = engine.sync_engine.pool
    assert pool.checkedout() == 0
    await engine.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_the_isolation_level_is_of_one_unit(
    driver: str, postgres_database: URL, open_database: Callable[..., Database]
) -> None:
    """A unit may ask for its own isolation level, the next one on the connection has the usual."""
    url = postgres_database.set(drivername=f"postgresql+{driver}")
    factory = UnitOfWorkFactory(open_database(url, pool_size=1))
    levels = []
    for level in ("SERIALIZABLE", None, "REPEATABLE READ", None):
        async with factory(isolation_level=level) as uow:
            levels.append(await uow.session.scalar(text("SHOW transaction_isolation")))
    assert levels == ["serializable", "read committed", "repeatable read", "read committed"]


async def test_autocommit_is_refused(uow_factory: UnitOfWorkFactory) -> None:
    """A unit that could not be rolled back is not made."""
    with pytest.raises(ValueError, match="a unit of work cannot be AUTOCOMMIT"):
        uow_factory(isolation_level="autocommit")


async def test_an_unknown_isolation_level_is_refused(
    database: Database, uow_factory: UnitOfWorkFactory
) -> None:
    """A level that the database does not know is an error of the first statement."""
    with pytest.raises(Exception, match="Invalid value 'SLOPPY' for isolation_level"):
        async with uow_factory(isolation_level="SLOPPY") as uow:
            await uow.session.execute(select(Item))
    assert (used(database), database.open) == (0, {})
    async with uow_factory() as uow:
        await uow.session.execute(select(Item))


async def test_the_table_is_what_start_would_create(sqlite_database: URL) -> None:
    """The model of these tests is one that the plugin would create at start."""
    engine = create_async_engine(sqlite_database)
    assert "uow_test__item" in await create_missing_tables(engine, Base.metadata)
    await engine.dispose()
