"""Ends of units that nobody plans: deadlines, tasks that go away, generators that are left."""

import asyncio
import contextlib
import gc
import pickle
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import URL, Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Mapped, Session, mapped_column
from sqlalchemy.util import await_only

from db_manager.base import Base
from db_manager.database.database import Database
from db_manager.database.open_unit import UnitState
from db_manager.errors import (
    CommitOutcomeUnknownError,
    EndTimeoutError,
    PoolExhaustedError,
    TransactionAbortedError,
    TransactionEndedError,
    UnitOfWorkStateError,
    UnitOfWorkTaskError,
)
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.held import Guard
from db_manager.unit.resolve import resolve
from db_manager.unit.uow import UnitOfWork
from lifecycle.correlation import current_correlation
from observability.testing import EventRecorder

pytestmark = pytest.mark.usefixtures("runner")

OpenDatabase = Callable[..., Database]


class Thing(Base):
    """A row."""

    __tablename__ = "endings_test__thing"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


def used(database: Database) -> int:
    """Return how many connections are out of the pool."""
    return int(database.pool_levels()["used"])


async def make_table(database: Database) -> None:
    """Create the table."""
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.tables[Thing.__tablename__].create)


# -- deadlines -------------------------------------------------------------------------------


async def test_a_flush_that_takes_too_long_rolls_back(
    database_url: URL, open_database: object
) -> None:
    """What is not sent within exit_timeout is an EndTimeoutError, not somebody's cancellation."""
    database: Database = open_database(database_url, exit_timeout=0.5)  # type: ignore[operator]  # the fixture's function
    await make_table(database)
    uow = UnitOfWork(database)

    def hang(_session: Session) -> None:
        await_only(asyncio.Event().wait())

    with pytest.raises(EndTimeoutError, match=r"0\.5 s: COMMIT was not sent"):
        async with uow:
            uow.session.add(Thing(id=1))
            event.listen(uow.session.sync_session, "before_commit", hang)
    assert (uow.state, used(database)) == (UnitState.ROLLED_BACK, 0)


@pytest.mark.usefixtures("early_timers")
async def test_a_deadline_that_comes_early_is_no_cancellation_of_somebody(
    url: URL, open_database: OpenDatabase
) -> None:
    """By a timer that goes off before its time it is an EndTimeoutError still."""
    database = open_database(url, exit_timeout=0.5)
    await make_table(database)
    uow = UnitOfWork(database)

    def hang(_session: Session) -> None:
        await_only(asyncio.Event().wait())

    with pytest.raises(EndTimeoutError):
        async with uow:
            uow.session.add(Thing(id=1))
            event.listen(uow.session.sync_session, "before_commit", hang)
    assert uow.state is UnitState.ROLLED_BACK


async def stubborn(times: int = 1) -> None:
    """Wait without end, and ignore the first *times* cancellations."""
    for _ in range(times):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
    await asyncio.Event().wait()


@pytest.mark.parametrize("seen", ["no listener", "a listener of the pool raises"])
async def test_a_commit_that_was_not_sent_is_not_called_unknown(
    url: URL, open_database: OpenDatabase, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listener that ignores its cancellation before COMMIT: rolled back, whoever raises then."""
    monkeypatch.setattr("db_manager.running.plain.GRACE", 0.1)
    database = open_database(url, exit_timeout=0.5, slow_unit=60)
    await make_table(database)
    if seen != "no listener":
        event.listen(database.engine.sync_engine.pool, "invalidate", _fail)
    uow = UnitOfWork(database)
    with pytest.raises(EndTimeoutError):
        async with uow:
            uow.session.add(Thing(id=1))
            await uow.session.flush()
            event.listen(
                uow.session.sync_session, "before_commit", lambda _: await_only(stubborn())
            )
    assert uow.state is UnitState.ROLLED_BACK
    if seen != "no listener":
        event.remove(database.engine.sync_engine.pool, "invalidate", _fail)
    async with UnitOfWork(database) as after:  # also SQLite's one writer is free
        after.session.add(Thing(id=1))


def _fail(*_: object) -> None:
    raise ZeroDivisionError


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
async def test_a_listener_that_ignores_every_cancellation_is_left_behind(
    url: URL, open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What hangs after COMMIT was answered does not keep the unit, and is not asked in a loop."""
    for wait in ("GRACE", "LAST"):
        monkeypatch.setattr(f"db_manager.running.plain.{wait}", 0.1)
    database = open_database(url, exit_timeout=0.5)
    await make_table(database)
    uow, asked = UnitOfWork(database), 0
    ends = asyncio.Event()

    async def hang() -> None:
        nonlocal asked
        while not ends.is_set():
            try:
                await ends.wait()
            except asyncio.CancelledError:
                asked += 1

    async with uow:
        uow.session.add(Thing(id=1))
        event.listen(uow.session.sync_session, "after_commit", lambda _: await_only(hang()))
    assert (uow.state, asked) == (UnitState.COMMITTED, 2)  # politely, and rudely
    ends.set()


async def test_the_time_limit_of_a_listener_is_its_own(
    url: URL, open_database: OpenDatabase
) -> None:
    """`asyncio.timeout` in an `after_commit` listener cancels nobody but the listener."""
    database = open_database(url)
    await make_table(database)
    uow, late = UnitOfWork(database), []

    async def limited() -> None:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError as error:
            late.append(error)

    async with uow:
        uow.session.add(Thing(id=1))
        event.listen(uow.session.sync_session, "after_commit", lambda _: await_only(limited()))
    assert (uow.state, len(late)) == (UnitState.COMMITTED, 1)


@pytest.mark.filterwarnings("ignore:.*ended without leaving its unit:ResourceWarning")
async def test_who_leaves_an_abandoned_unit_is_told(url: URL, open_database: OpenDatabase) -> None:
    """A unit that was given up with its task is no success for who leaves it later."""
    database = open_database(url)
    uow = UnitOfWork(database)

    async def enter() -> None:
        await uow.__aenter__()
        await uow.session.execute(text("SELECT 1"))

    await asyncio.create_task(enter())
    await database.dispose()  # gives up what its task left open, as the watch does
    with pytest.raises(UnitOfWorkStateError, match="ended without leaving its unit"):
        await uow.__aexit__(None, None, None)


async def test_a_raw_connection_is_part_of_the_unit(url: URL, open_database: OpenDatabase) -> None:
    """What is done on `get_raw_connection()`, as the first thing, is undone with the unit."""
    database = open_database(url)
    await make_table(database)
    with pytest.raises(ZeroDivisionError):
        async with UnitOfWork(database) as uow:
            raw: Any = await uow.connection.get_raw_connection()
            sql = "INSERT INTO endings_test__thing VALUES (1)"
            if database.engine.dialect.driver == "asyncmy":
                async with raw.driver_connection.cursor() as cursor:
                    await cursor.execute(sql)
            else:
                await raw.driver_connection.execute(sql)
            raise ZeroDivisionError
    async with UnitOfWork(database) as uow:
        assert (await uow.session.scalars(text("SELECT id FROM endings_test__thing"))).all() == []


async def test_an_error_swallowed_below_sqlalchemy_aborts_on_an_engine_of_ones_own(
    postgres_database: URL,
) -> None:
    """The stock asyncpg hears nothing of a COMMIT that was answered by ROLLBACK: it is asked."""
    engine = create_async_engine(postgres_database)
    uow = UnitOfWork(engine)

    def swallow(connection: Connection) -> None:
        with contextlib.suppress(Exception):
            connection.connection.cursor().execute("SELECT 1/0")

    with pytest.raises(TransactionAbortedError):
        async with uow:
            await uow.connection.execute(text("CREATE TABLE gone (id int)"))
            await uow.connection.run_sync(swallow)
    assert uow.state is UnitState.ROLLED_BACK
    await engine.dispose()


async def test_a_unit_that_ended_well_is_not_rolled_back_again(
    mariadb_database: URL, open_database: OpenDatabase
) -> None:
    """The ROLLBACK of the pool is not sent where the driver knows that nothing is open."""
    database = open_database(mariadb_database, pool_size=1, max_overflow=0)
    counted = []
    for _ in range(3):
        async with UnitOfWork(database) as uow:
            said = await uow.session.execute(text("SHOW SESSION STATUS LIKE 'Com_rollback'"))
            counted.append(said.one().Value)
    assert len(set(counted)) == 1


async def hold_all(database: Database, held: asyncio.Event, release: asyncio.Event) -> None:
    """Keep the one connection, or the one writer, of *database* until *release*."""
    async with UnitOfWork(database) as holder:
        await holder.session.execute(text("SELECT 1"))
        held.set()
        await release.wait()


@pytest.fixture
async def full_database(url: URL, open_database: object) -> AsyncIterator[Database]:
    """A database whose one connection is taken, and in which an end may take 0.5 s."""
    database: Database = open_database(  # type: ignore[operator]  # the fixture's function
        url, pool_size=1, max_overflow=0, pool_timeout=0.7, exit_timeout=0.5
    )
    await make_table(database)
    held, release = asyncio.Event(), asyncio.Event()
    holder = asyncio.create_task(hold_all(database, held, release))
    await held.wait()
    yield database
    release.set()
    await holder


async def test_the_last_flush_waits_for_a_connection_as_any_statement_does(
    full_database: Database,
) -> None:
    """A unit that only added objects and gets no connection says so; that is no slow end."""
    uow = UnitOfWork(full_database)
    with pytest.raises(PoolExhaustedError) as caught:
        async with uow:
            uow.session.add(Thing(id=1))
    assert len(caught.value.holders) == 1
    assert uow.state is UnitState.ROLLED_BACK


async def test_a_unit_that_waits_for_the_connection_of_its_last_flush_can_be_cancelled(
    full_database: Database,
) -> None:
    """Nothing was sent, so nothing has to be waited for."""
    uow = UnitOfWork(full_database)

    async def add() -> None:
        async with uow:
            uow.session.add(Thing(id=1))

    adding = asyncio.create_task(add())
    for _ in range(5):
        await asyncio.sleep(0)  # it comes to its wait
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert uow.state is UnitState.ROLLED_BACK


async def test_an_answer_that_does_not_come_in_time_is_called_so(
    database: Database, monkeypatch: pytest.MonkeyPatch, events: EventRecorder
) -> None:
    """The reason of an unknown outcome by the deadline is "no answer in time"."""
    await make_table(database)
    uow = UnitOfWork(database)
    patience = database.settings.exit_timeout
    object.__setattr__(database.settings, "exit_timeout", 0.1)

    def hang(_connection: object) -> None:
        await_only(asyncio.Event().wait())

    with pytest.raises(CommitOutcomeUnknownError) as caught:
        async with uow:
            uow.session.add(Thing(id=1))
            await uow.session.flush()
            monkeypatch.setattr(Guard.of(database.engine.dialect), "send_commit", hang)
    object.__setattr__(database.settings, "exit_timeout", patience)
    assert caught.value.reason == "no answer in time"
    assert uow.state is UnitState.OUTCOME_UNKNOWN
    assert events.only(topic="uow.unknown").events[0].reason == caught.value.reason  # type: ignore[attr-defined]  # of this event
    assert used(database) == 0


async def test_a_unit_that_wrote_nothing_is_resolved_as_such(postgres_database: URL) -> None:
    """Resolve says `wrote_nothing` for a unit whose COMMIT had nothing to do."""
    engine = create_async_engine(postgres_database)
    unit = UnitOfWork(engine, resolvable=True)
    async with unit:
        await unit.session.execute(text("SELECT 1"))
    assert unit.xid == 0
    error = CommitOutcomeUnknownError(unit.number, "no answer in time", 0)
    assert "it had written nothing" in str(error)
    assert await resolve(engine, error) == "wrote_nothing"
    await engine.dispose()


# -- tasks and generators that go away -------------------------------------------------------------


async def test_a_unit_whose_task_is_over_gives_its_connection_back(
    url: URL, open_database: object
) -> None:
    """A unit that was entered by hand and never left is a ResourceWarning, and rolled back."""
    database: Database = open_database(url, slow_unit=0.05, pool_size=1, max_overflow=0)  # type: ignore[operator]  # the fixture's function
    await make_table(database)
    closed = asyncio.Event()
    database.bus.subscribe("uow.close", lambda _event: closed.set())

    async def forget() -> UnitOfWork:
        uow = UnitOfWork(database)
        await uow.__aenter__()
        await uow.connection.execute(text("INSERT INTO endings_test__thing VALUES (1)"))
        return uow

    uow = await asyncio.create_task(forget(), name="careless")
    with pytest.warns(ResourceWarning, match="'careless' ended without leaving its unit"):
        await asyncio.wait_for(closed.wait(), 5)
    assert (uow.state, used(database), database.open) == (UnitState.ROLLED_BACK, 0, {})
    async with UnitOfWork(database) as after:
        assert await after.session.scalar(text("SELECT count(*) FROM endings_test__thing")) == 0


async def test_a_forgotten_unit_that_was_ended_by_hand_is_unknown(
    url: URL, open_database: object
) -> None:
    """A unit that nobody left does not say that it is rolled back when a COMMIT was said in it."""
    database: Database = open_database(url, pool_size=1, max_overflow=0)  # type: ignore[operator]  # the fixture's function
    await make_table(database)

    async def forget() -> UnitOfWork:
        uow = UnitOfWork(database)
        await uow.__aenter__()
        await uow.connection.execute(text("INSERT INTO endings_test__thing VALUES (1)"))
        await uow.connection.run_sync(lambda connection: connection.connection.commit())
        return uow

    uow = await asyncio.create_task(forget())
    with pytest.warns(ResourceWarning, match="ended without leaving its unit"):
        await database.dispose()
    assert uow.state is UnitState.OUTCOME_UNKNOWN


async def test_a_forgotten_unit_is_told_at_the_end_of_the_engine(database: Database) -> None:
    """Closing the connections tells of a unit that nobody left."""

    async def forget() -> None:
        await UnitOfWork(database).__aenter__()

    await asyncio.create_task(forget())
    with pytest.warns(ResourceWarning, match="ended without leaving its unit"):
        await database.dispose()
    assert database.open == {}


async def forget_one(database: Database, **options: Any) -> UnitOfWork:
    """Enter a unit in a task of its own, which ends without leaving it."""

    async def forget() -> UnitOfWork:
        uow = UnitOfWork(database, **options)
        await uow.__aenter__()
        await uow.connection.execute(text("SELECT 1"))
        return uow

    return await asyncio.create_task(forget())


@pytest.mark.filterwarnings("ignore:.*ended without leaving its unit:ResourceWarning")
async def test_a_drain_ends_a_forgotten_unit_at_once(
    database_url: URL, open_database: object
) -> None:
    """Nobody can leave a unit whose task is over, so a stop does not wait for it."""
    database: Database = open_database(database_url, slow_unit=60)  # type: ignore[operator]  # the fixture's function
    uow = await forget_one(database)
    drained = await asyncio.wait_for(database.drain(3600, 3600), 10)
    assert (drained.waited, drained.cancelled, uow.state) == (1, (), UnitState.ROLLED_BACK)


@pytest.mark.filterwarnings("ignore:.*ended without leaving its unit:ResourceWarning")
async def test_the_callbacks_of_a_forgotten_unit_run(database: Database) -> None:
    """after_rollback keeps its promise where no task is left, and a failure is told as ever."""
    ran: list[tuple[str, int | None]] = []

    def fail() -> None:
        raise SystemExit

    async def write_down() -> None:
        await asyncio.sleep(0)
        ran.append((uow.state, current_correlation().unit))

    async def forget() -> UnitOfWork:
        forgotten = UnitOfWork(database)
        await forgotten.__aenter__()
        forgotten.after_commit(lambda: ran.append(("after a commit", None)))
        forgotten.after_rollback(fail)
        forgotten.after_rollback(write_down)
        return forgotten

    uow = await asyncio.create_task(forget())
    with EventRecorder(database.bus) as events:
        await database.dispose()
        failed = events.assert_event("uow.callback_failed", unit=uow.number)
    assert str(failed).count("SystemExit") == 1
    assert ran == [("rolled_back", uow.number)]


@pytest.mark.filterwarnings("ignore:.*ended without leaving its unit:ResourceWarning")
async def test_a_forgotten_unit_that_cannot_be_ended_does_not_end_the_watch(
    database_url: URL, open_database: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong with one unit is told, and the units after it are watched all the same."""
    database: Database = open_database(database_url, slow_unit=0.05)  # type: ignore[operator]  # the fixture's function
    abandon = UnitOfWork.abandon

    def fail(unit: UnitOfWork) -> None:
        abandon(unit)
        monkeypatch.undo()
        raise ZeroDivisionError

    monkeypatch.setattr(UnitOfWork, "abandon", fail)
    with EventRecorder(database.bus) as events:
        for _ in range(2):
            uow = await forget_one(database)
            await events.wait_for("uow.close", unit=uow.number)
            assert (uow.state, database.open) == (UnitState.ROLLED_BACK, {})
        failed = events.assert_event("uow.callback_failed")
    assert "ZeroDivisionError" in str(failed)


@pytest.mark.filterwarnings("ignore:.*ended without leaving its unit:ResourceWarning")
async def test_a_forgotten_reading_unit_leaves_no_connection_behind(
    database_url: URL, open_database: object
) -> None:
    """What was left on a connection is remembered no longer than the connection."""
    database: Database = open_database(database_url)  # type: ignore[operator]  # the fixture's function

    async def forget() -> weakref.ref[object]:
        uow = UnitOfWork(database, read_only=True)
        await uow.__aenter__()
        leaving = (
            "PRAGMA cache_size = 77"
            if database_url.get_backend_name() == "sqlite"
            else "SET work_mem = '5MB'"
        )
        await uow.connection.execute(text(leaving))
        assert uow.checked_out is not None
        return weakref.ref(uow.checked_out)

    connection = await asyncio.create_task(forget())
    await database.drain(60, 60)
    gc.collect()
    assert connection() is None


async def test_an_engine_that_cannot_be_closed_does_not_keep_the_other_open(
    database_url: URL, open_database: object
) -> None:
    """What the engine of the reading units raises as it closes reaches the caller of dispose."""
    database: Database = open_database(database_url)  # type: ignore[operator]  # the fixture's function
    closed: list[object] = []
    async with UnitOfWork(database, read_only=True) as uow:
        await uow.session.execute(text("SELECT 1"))
        reading = uow.checked_out
        assert reading is not None

    def fail(_engine: object) -> None:
        raise ZeroDivisionError

    event.listen(reading.engine, "engine_disposed", fail)
    event.listen(database.engine.sync_engine, "engine_disposed", closed.append)
    with pytest.raises(ZeroDivisionError):
        await database.dispose()
    assert closed == [database.engine.sync_engine]
    event.remove(reading.engine, "engine_disposed", fail)


async def numbers(factory: UnitOfWorkFactory) -> AsyncGenerator[int, None]:
    """Yield numbers inside of a unit."""
    async with factory() as uow:
        while True:
            yield uow.number


async def test_a_generator_left_by_break_leaves_no_correlation(database: Database) -> None:
    """What happens after its unit is over belongs to the unit no longer."""
    factory, before = UnitOfWorkFactory(database), current_correlation()
    closed = asyncio.Event()
    database.bus.subscribe("uow.close", lambda _event: closed.set())
    async for number in numbers(factory):
        assert current_correlation().unit == number
        break
    gc.collect()  # its finalizer closes it in a task of its own
    async with asyncio.timeout(5):
        await closed.wait()
    assert current_correlation() == before
    async with aclosing(numbers(factory)) as closing:
        async for number in closing:
            assert current_correlation().unit == number
            break
    assert current_correlation() == before


async def test_units_that_overlap_leave_no_correlation(sqlite_database: URL) -> None:
    """Units of two engines may end in any order."""
    before = current_correlation()
    one, two = (Database(create_async_engine(sqlite_database)) for _ in range(2))
    first, second = UnitOfWork(one), UnitOfWork(two)
    await first.__aenter__()
    await second.__aenter__()
    assert current_correlation().unit == second.number
    await first.__aexit__(None, None, None)
    assert current_correlation().unit == second.number
    await second.__aexit__(None, None, None)
    assert current_correlation() == before
    for database in (one, two):
        await database.dispose()


async def test_a_child_task_outlives_the_correlation_of_its_unit(database: Database) -> None:
    """A task that was started in a unit belongs to the unit as long as that is open."""
    go = asyncio.Event()

    async def child() -> list[int | None]:
        seen = [current_correlation().unit]
        await go.wait()
        return [*seen, current_correlation().unit]

    async with UnitOfWork(database) as uow:
        task = asyncio.create_task(child())
        await asyncio.sleep(0)
    go.set()
    assert await task == [uow.number, None]


# -- refusals and errors --------------------------------------------------------------------------


async def test_run_refuses_autocommit_as_a_unit_does(database: Database) -> None:
    """An option that a unit refuses is refused by `run` in the same words."""
    with pytest.raises(ValueError, match="cannot be AUTOCOMMIT"):
        await UnitOfWorkFactory(database).run(
            lambda _uow: asyncio.sleep(0), isolation_level="autocommit"
        )


async def test_the_refusal_of_another_task_names_wait_for(database: Database) -> None:
    """`asyncio.wait_for` makes a task on Python 3.11; who is refused reads what to use instead."""
    with pytest.raises(UnitOfWorkTaskError, match=r"asyncio\.wait_for .* asyncio\.timeout"):
        async with UnitOfWork(database) as uow:
            await asyncio.create_task(uow.session.execute(text("SELECT 1")))


@pytest.mark.parametrize(
    "sql", ["COMMIT", "end", " rollback ;", "Rollback Work", "BEGIN", "start  transaction", "ABORT"]
)
async def test_plain_sql_does_not_end_the_unit(database: Database, sql: str) -> None:
    """COMMIT and its like are refused on every lane of SQLAlchemy, before they are sent."""
    for lane in ("session", "connection"):
        uow = UnitOfWork(database)
        with pytest.raises(RuntimeError, match="is not allowed in the block"):
            async with uow:
                await getattr(uow, lane).execute(text(sql))
        assert used(database) == 0


async def test_parts_in_plain_sql_are_allowed(database: Database) -> None:
    """SAVEPOINT, ROLLBACK TO and RELEASE end nothing."""
    await make_table(database)
    async with UnitOfWork(database) as uow:
        await uow.session.execute(text("SAVEPOINT part"))
        await uow.session.execute(text("INSERT INTO endings_test__thing VALUES (1)"))
        await uow.session.execute(text("ROLLBACK TO part"))
        await uow.session.execute(text("RELEASE part"))
        await uow.session.execute(text("INSERT INTO endings_test__thing VALUES (2)"))
    async with UnitOfWork(database) as uow:
        assert list(await uow.session.scalars(text("SELECT id FROM endings_test__thing"))) == [2]


def test_errors_of_ends_can_be_pickled() -> None:
    """They reach the parent of a worker process whole."""
    for error in (TransactionEndedError("x", undone=True), EndTimeoutError(2.0)):
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 -- our own
        assert (type(copy), str(copy)) == (type(error), str(error))
