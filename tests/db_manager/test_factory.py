"""`uow_factory.run`: whole units again when nothing was written, and only then."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from db_manager.config import DatabaseConfig
from db_manager.database.database import Database
from db_manager.engine.create import create_engine
from db_manager.errors import (
    DatabaseUnavailableError,
    RetriesExhaustedError,
    UnitOfWorkStateError,
)
from db_manager.events import UnitBegun, UnitRetried
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork
from lifecycle.event import Event
from observability.testing import EventRecorder

READ = text("SELECT value FROM counter WHERE id = :id")
WRITE = text("UPDATE counter SET value = :value WHERE id = :id")


@pytest.fixture
async def uow_factory(database: Database) -> UnitOfWorkFactory:
    """Makes units on a database with two counters."""
    return await with_counters(database)


async def with_counters(database: Database) -> UnitOfWorkFactory:
    """Create two counters at zero."""
    async with database.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE counter (id INT PRIMARY KEY, value INT)"))
        await connection.execute(text("INSERT INTO counter VALUES (1, 0), (2, 0)"))
    return UnitOfWorkFactory(database)


async def increment(uow: UnitOfWork, key: int = 1) -> int:
    """Read and write one counter; return what it was."""
    value: int = (await uow.session.execute(READ, {"id": key})).scalar_one()
    await uow.session.execute(WRITE, {"id": key, "value": value + 1})
    return value


async def test_a_good_run_is_one_unit(
    uow_factory: UnitOfWorkFactory, events: EventRecorder
) -> None:
    """What succeeds at once is one committed unit, and its result is returned."""
    assert await uow_factory.run(increment) == 0
    assert await uow_factory.run(increment) == 1
    events.assert_none("uow.retry")
    assert len(events.topic("uow.commit").events) == 2


async def test_a_serialization_failure_is_tried_again(
    postgres_database: URL, open_database: Callable[..., Database]
) -> None:
    """A 40001 of the server makes a second unit, which sees the new state."""
    database = open_database(postgres_database)
    factory = await with_counters(database)
    units: list[UnitOfWork] = []

    async def work(uow: UnitOfWork) -> int:
        units.append(uow)
        value = (await uow.session.execute(READ, {"id": 1})).scalar_one()
        if len(units) == 1:
            await asyncio.create_task(factory.run(increment))
        await uow.session.execute(WRITE, {"id": 1, "value": value + 1})
        return int(value)

    with EventRecorder(database.bus) as events:
        assert await factory.run(work, isolation_level="REPEATABLE READ") == 1
    assert [str(unit.state) for unit in units] == ["rolled_back", "committed"]
    retried = events.assert_event("uow.retry", sqlstate="40001", attempt=1, unit=units[0].number)
    assert isinstance(retried, UnitRetried)
    assert retried.wait > 0
    assert retried.error.startswith("SerializationError: 40001")
    events.assert_event("uow.close", unit=units[1].number, attempt=2, outcome="committed")
    async with factory() as uow:
        assert await increment(uow) == 2


async def test_a_deadlock_is_tried_again(
    postgres_database: URL, open_database: Callable[..., Database]
) -> None:
    """Of two units in a deadlock the server ends one; its second attempt succeeds."""
    database = open_database(
        postgres_database, connect_args={"server_settings": {"deadlock_timeout": "20ms"}}
    )
    factory = await with_counters(database)
    both = asyncio.Barrier(2)

    async def transfer(first: int, second: int) -> None:
        async def work(uow: UnitOfWork) -> None:
            await increment(uow, first)
            if uow.attempt == 1:
                await both.wait()
            await increment(uow, second)

        await factory.run(work)

    with EventRecorder(database.bus) as events:
        await asyncio.gather(transfer(1, 2), transfer(2, 1))
    events.assert_event("uow.retry", sqlstate="40P01")
    async with factory() as uow:
        assert [await increment(uow, 1), await increment(uow, 2)] == [2, 2]


@pytest.fixture
async def busy(
    sqlite_database: URL, open_database: Callable[..., Database]
) -> AsyncIterator[tuple[Database, sqlite3.Connection]]:
    """A SQLite database, and another program's connection that holds its write lock."""
    database = open_database(sqlite_database, lock_timeout=0.02)
    await with_counters(database)
    with closing(sqlite3.connect(str(sqlite_database.database), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield database, other


async def test_a_busy_sqlite_is_tried_again(busy: tuple[Database, sqlite3.Connection]) -> None:
    """When another program holds SQLite's lock, the unit is tried again, and then gets it."""
    database, other = busy

    def release(_: Event) -> None:
        other.execute("ROLLBACK")

    with EventRecorder(database.bus) as events, database.bus.subscribe("uow.retry", release):
        assert await UnitOfWorkFactory(database).run(increment) == 0
    retried = events.assert_event("uow.retry", attempt=1, sqlstate="")
    assert retried.as_dict()["error"].startswith("OperationalError: SQLITE_BUSY")


async def test_attempts_are_limited(busy: tuple[Database, sqlite3.Connection]) -> None:
    """When every attempt fails the last error is the cause, and every attempt was told."""
    database, _ = busy
    with EventRecorder(database.bus) as events, pytest.raises(RetriesExhaustedError) as caught:
        await UnitOfWorkFactory(database).run(increment, attempts=3)
    assert caught.value.attempts == 3
    assert str(caught.value).startswith("gave up after 3 attempts in ")
    assert isinstance(caught.value.__cause__, OperationalError)
    begun = [event for event in events.events if isinstance(event, UnitBegun)]
    assert [event.attempt for event in begun] == [1, 2, 3]
    assert len(events.topic("uow.retry").events) == 2
    assert len(events.topic("uow.rollback").events) == 3
    assert database.pool_levels()["used"] == 0


async def test_an_unreachable_server_is_tried_again() -> None:
    """Nothing was begun when the server is not there: worth another try."""
    config = DatabaseConfig(driver="postgresql+asyncpg", host="127.0.0.1", port=1, database="bot")
    database = Database(create_engine(config))
    with pytest.raises(RetriesExhaustedError) as caught:
        await UnitOfWorkFactory(database).run(increment, attempts=2)
    assert isinstance(caught.value.__cause__, DatabaseUnavailableError)
    await database.dispose()


async def violate(uow: UnitOfWork) -> None:
    """Break the primary key."""
    await uow.session.execute(text("INSERT INTO counter VALUES (1, 0)"))


async def fail(uow: UnitOfWork) -> None:
    """Write, and fail by itself."""
    await increment(uow)
    raise ZeroDivisionError


@pytest.mark.parametrize(("work", "error"), [(violate, IntegrityError), (fail, ZeroDivisionError)])
async def test_other_errors_are_not_tried_again(
    uow_factory: UnitOfWorkFactory,
    events: EventRecorder,
    work: Callable[[UnitOfWork], Any],
    error: type[Exception],
) -> None:
    """A violated constraint or an error of the work itself passes after one attempt."""
    with pytest.raises(error):
        await uow_factory.run(work)
    assert len(events.topic("uow.begin").events) == 1
    events.assert_none("uow.retry")


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_an_unknown_outcome_is_not_tried_again_whatever_the_error(
    postgres_database: URL, open_database: Callable[..., Database], driver: str
) -> None:
    """After a COMMIT by hand the rows may be there, and a serialization failure changes nothing."""
    database = open_database(postgres_database.set(drivername=f"postgresql+{driver}"))
    factory = await with_counters(database)
    units: list[UnitOfWork] = []

    async def work(uow: UnitOfWork) -> None:
        units.append(uow)
        await increment(uow)
        await (await uow.driver()).execute("COMMIT")
        await uow.session.execute(text("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$"))

    with pytest.raises(DBAPIError) as raised:
        await factory.run(work)
    assert [unit.state for unit in units] == ["outcome_unknown"]
    assert "ended the transaction" in str(raised.value.__notes__)
    async with factory() as uow:
        assert (await uow.session.execute(READ, {"id": 1})).scalar_one() == 1


async def test_a_cancellation_is_not_tried_again(
    uow_factory: UnitOfWorkFactory, events: EventRecorder
) -> None:
    """A cancelled run rolls back and is cancelled, nothing more."""
    inside = asyncio.Event()

    async def work(uow: UnitOfWork) -> None:
        await increment(uow)
        inside.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(uow_factory.run(work))
    await inside.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert len(events.topic("uow.begin").events) == 1
    events.assert_event("uow.rollback", cause="cancelled")


async def test_callbacks_of_failed_attempts_are_dropped(
    busy: tuple[Database, sqlite3.Connection],
) -> None:
    """Only the attempt that ends the run has consequences."""
    database, other = busy
    ran: list[str] = []

    async def work(uow: UnitOfWork) -> None:
        uow.after_commit(lambda: ran.append(f"commit {uow.attempt}"))
        uow.after_rollback(lambda: ran.append(f"rollback {uow.attempt}"))
        await increment(uow)

    factory = UnitOfWorkFactory(database)
    with pytest.raises(RetriesExhaustedError):
        await factory.run(work, attempts=2)
    assert ran == ["rollback 2"]
    ran.clear()
    with database.bus.subscribe("uow.retry", lambda _: other.rollback()):
        await factory.run(work)
    assert ran == ["commit 2"]


async def test_run_inside_of_a_unit_is_refused(uow_factory: UnitOfWorkFactory) -> None:
    """A run is a whole unit: inside of another one of the task it is refused, once."""
    async with uow_factory():
        with pytest.raises(UnitOfWorkStateError):
            await uow_factory.run(increment)


async def test_options_reach_every_attempt(uow_factory: UnitOfWorkFactory) -> None:
    """`run` takes what a unit takes."""

    async def work(uow: UnitOfWork) -> Any:
        return uow.read_only, (await uow.session.execute(READ, {"id": 1})).scalar_one()

    assert await uow_factory.run(work, read_only=True) == (True, 0)


async def test_the_factory_shows_how_many_are_open(uow_factory: UnitOfWorkFactory) -> None:
    """The repr of a factory says how many units are open, and nothing of the database."""
    async with uow_factory():
        assert repr(uow_factory) == "<UnitOfWorkFactory open=1>"


async def test_a_factory_has_the_engine_of_its_units(database: Database) -> None:
    """Its engine is the one that it was made for, with the options that are on it."""
    assert UnitOfWorkFactory(database).engine is database.engine
    assert UnitOfWorkFactory(database.engine).engine is database.engine
    with_options = database.engine.execution_options(schema_translate_map={"a": "b"})
    assert UnitOfWorkFactory(with_options).engine is with_options
