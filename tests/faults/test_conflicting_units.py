"""Units that get into each other's way: U19 and U21."""

import asyncio
import random
import time
from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from support.accounting import accounted

from db_manager.database.database import Database
from db_manager.errors import RetriesExhaustedError
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork
from observability.testing import EventRecorder

pytestmark = pytest.mark.usefixtures("runner")

Row = Callable[..., None]

ROWS, TASKS = 4, 16


async def make_counters(database: Database) -> None:
    """Create the rows that all want to change."""
    async with UnitOfWork(database) as uow:
        await uow.connection.execute(text("CREATE TABLE counter (id int PRIMARY KEY, value int)"))
        values = [{"id": number} for number in range(ROWS)]
        await uow.connection.execute(text("INSERT INTO counter VALUES (:id, 0)"), values)


async def total(database: Database) -> int:
    """Return the sum of the counters."""
    async with UnitOfWork(database) as uow:
        return int(await uow.session.scalar(text("SELECT sum(value) FROM counter")) or 0)


async def test_serialization_failures_are_retried(
    postgres_database: URL, full: bool, row: Row
) -> None:
    """U19: under a storm of conflicts every unit takes effect once, or says that it gave up."""
    units = 2000 if full else 120
    async with accounted(postgres_database, pool_size=TASKS) as database:
        await make_counters(database)
        events = EventRecorder(database.bus, "uow.retry")
        factory = UnitOfWorkFactory(database)
        effects: list[int] = []
        gave_up = 0

        async def add(uow: UnitOfWork) -> None:
            one, other = random.sample(range(ROWS), 2)
            value = await uow.session.scalar(
                text("SELECT value FROM counter WHERE id = :id"), {"id": one}
            )
            await uow.session.scalar(
                text("SELECT value FROM counter WHERE id = :id"), {"id": other}
            )
            await uow.session.execute(
                text("UPDATE counter SET value = :value WHERE id = :id"),
                {"value": int(value or 0) + 1, "id": one},
            )
            uow.after_commit(lambda: effects.append(one))

        async def worker() -> None:
            nonlocal gave_up
            for _ in range(units // TASKS):
                try:
                    await factory.run(add, attempts=5, isolation_level="SERIALIZABLE")
                except RetriesExhaustedError:
                    gave_up += 1

        await asyncio.gather(*(worker() for _ in range(TASKS)))
        done = units // TASKS * TASKS - gave_up
        assert await total(database) == done == len(effects)
        states = {event.as_dict()["sqlstate"] for event in events.events}
        assert states <= {"40001", "40P01"}
        assert events.events
    row(
        "U19",
        load=f"{units} SERIALIZABLE units of {TASKS} tasks on {ROWS} rows, 5 attempts",
        result=f"{done} done, {gave_up} RetriesExhaustedError, {len(events.events)} retries, "
        "sum exact, each effect once",
    )


async def increment(database: Database) -> None:
    """Read a value and write it back, one more."""
    async with UnitOfWork(database) as uow:
        value = await uow.session.scalar(text("SELECT value FROM counter WHERE id = 0"))
        await asyncio.sleep(0)
        await uow.session.execute(
            text("UPDATE counter SET value = :value WHERE id = 0"), {"value": int(value or 0) + 1}
        )


async def test_sqlite_loses_no_update(sqlite_database: URL, row: Row) -> None:
    """U21: 200 units that read and then write the same row on SQLite count to 200."""
    async with accounted(sqlite_database, pool_timeout=30.0) as database:
        await make_counters(database)
        await asyncio.gather(*(increment(database) for _ in range(200)))
        assert await total(database) == 200
    row("U21", load="200 parallel read-then-write units on SQLite", result="200 of 200, 0 errors")


async def test_stock_sqlite_loses_updates(sqlite_database: URL) -> None:
    """U21, the wrong way: the same work with SQLAlchemy's defaults loses updates in silence."""
    async with accounted(sqlite_database) as database:
        await make_counters(database)
    engine = create_async_engine(sqlite_database)
    maker = async_sessionmaker(engine)

    async def plain() -> None:
        async with maker.begin() as session:
            value = await session.scalar(text("SELECT value FROM counter WHERE id = 0"))
            await asyncio.sleep(0.01)
            await session.execute(
                text("UPDATE counter SET value = :value WHERE id = 0"),
                {"value": int(value or 0) + 1},
            )

    await asyncio.gather(*(plain() for _ in range(50)))
    async with maker() as session:
        value = await session.scalar(text("SELECT value FROM counter WHERE id = 0"))
    await engine.dispose()
    with pytest.raises(AssertionError):
        assert value == 50


async def test_a_cancelled_statement_leaves_sqlite_free(sqlite_database: URL, row: Row) -> None:
    """U21: after a unit was cancelled in a long statement, the next one writes within a second."""
    endless = text(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    )
    async with accounted(sqlite_database) as database:
        await make_counters(database)

        async def long() -> None:
            async with UnitOfWork(database) as uow:
                await uow.session.execute(text("UPDATE counter SET value = 7"))
                await uow.session.execute(endless)

        task = asyncio.create_task(long())
        done, _ = await asyncio.wait({task}, timeout=0.2)
        assert not done
        task.cancel()
        begun = time.perf_counter()
        await asyncio.wait({task})
        await increment(database)
        seconds = time.perf_counter() - begun
        assert task.cancelled()
        assert await total(database) == 1
        assert seconds <= 1.0
    row("U21", load="cancelled in an endless statement", result=f"next unit in {seconds:.2f} s")
