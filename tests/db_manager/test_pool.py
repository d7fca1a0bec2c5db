"""The line before a full pool: in order, without losing a connection."""

import asyncio
from collections.abc import Callable
from typing import Any, Self

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError
from sqlalchemy.util.queue import Empty, Full

from db_manager.database.database import Database
from db_manager.engine.fair_queue import FairQueue
from db_manager.engine.pool import Entry, FairQueuePool
from db_manager.errors import DatabaseUnavailableError, PoolExhaustedError
from db_manager.events import UnitClosed
from db_manager.unit.uow import UnitOfWork
from observability.testing import EventRecorder

Open = Callable[..., Database]


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_the_pool_asks_our_queue(postgres_database: URL, open_database: Open) -> None:
    """SQLAlchemy's pool still makes its queue from `_queue_class`."""
    pool = open_database(postgres_database).engine.sync_engine.pool
    assert isinstance(pool, FairQueuePool)
    assert isinstance(pool._pool, FairQueue)
    assert isinstance(pool.recreate()._pool, FairQueue)


async def test_the_pool_makes_our_entries(database_url: URL, open_database: Open) -> None:
    """SQLAlchemy's pool still makes its entries by `_create_connection`, and takes them back."""
    database = open_database(database_url)
    async with database.engine.connect() as connection:
        entry = (await connection.get_raw_connection())._connection_record
        assert isinstance(entry, Entry)
    assert entry.returned


@pytest.mark.skipif(
    not hasattr(asyncio, "eager_task_factory"), reason="not run: Python before 3.12"
)
@pytest.mark.usefixtures("runner")
async def test_eager_tasks_get_connections(any_database_url: URL, open_database: Open) -> None:
    """Under a factory that begins tasks at once, the pool opens connections as ever."""
    database = open_database(any_database_url, pool_size=2, max_overflow=0)
    eager: Any = getattr(asyncio, "eager_task_factory", None)
    asyncio.get_running_loop().set_task_factory(eager)

    async def work() -> str:
        async with UnitOfWork(database) as uow:
            await uow.session.execute(text("SELECT 1"))
        return uow.state

    try:
        states = await asyncio.gather(*(asyncio.create_task(work()) for _ in range(5)))
    finally:
        asyncio.get_running_loop().set_task_factory(None)
    assert states == ["committed"] * 5


async def test_who_waits_is_served_in_order(postgres_database: URL, open_database: Open) -> None:
    """Units that wait for a connection get it in the order of their coming, nobody in between."""
    database = open_database(postgres_database, pool_size=1, max_overflow=0)
    served: list[int] = []

    async def unit(number: int) -> None:
        async with UnitOfWork(database) as uow:
            await uow.session.execute(text("SELECT 1"))
            served.append(number)

    async with UnitOfWork(database) as holder:
        await holder.session.execute(text("SELECT 1"))
        waiting = []
        for number in range(20):
            waiting.append(asyncio.create_task(unit(number)))
            await settle()
    await unit(20)  # it comes while the others wait
    await asyncio.gather(*waiting)
    assert served == list(range(21))


async def test_one_that_is_cancelled_passes_its_connection_on() -> None:
    """A connection handed to a task that was cancelled meanwhile goes to the next one."""
    queue: FairQueue[str] = FairQueue(1)
    first = asyncio.create_task(queue._wait(None))
    second = asyncio.create_task(queue._wait(None))
    await settle()
    queue.put_nowait("connection")
    first.cancel()
    assert await second == "connection"
    assert first.cancelled()


async def test_one_that_was_cancelled_is_passed_over() -> None:
    """A task that was cancelled before holds no place in the line."""
    queue: FairQueue[str] = FairQueue(1)
    first = asyncio.create_task(queue._wait(None))
    second = asyncio.create_task(queue._wait(None))
    await settle()
    first.cancel()
    await settle()
    queue.put_nowait("connection")
    assert await second == "connection"


@pytest.mark.parametrize("handed", [False, True])
async def test_one_that_is_closed_leaves_the_line(handed: bool) -> None:
    """A coroutine that is closed while it waits takes no connection, and passes on what it has."""
    queue: FairQueue[str] = FairQueue(1)
    closed = queue._wait(30)
    closed.send(None)
    second = asyncio.create_task(queue._wait(None))
    await settle()
    if handed:
        queue.put_nowait("connection")
    closed.close()
    if not handed:
        queue.put_nowait("connection")
    assert await asyncio.wait_for(second, 5) == "connection"
    assert queue.waiting == 0


class Peculiar(Exception):  # noqa: N818 -- what it is called does not matter
    """Can only be made in a way of its own."""

    def __new__(cls, *, reason: str) -> Self:
        """Make one."""
        made = super().__new__(cls, reason)
        made.args = (reason,)
        return made

    def __init__(self, *, reason: str) -> None:
        self.reason = reason


@pytest.mark.parametrize(
    "error",
    [
        OSError(111, "refused"),
        DatabaseUnavailableError("gone"),
        OperationalError("SELECT 1", {}, ValueError("x"), connection_invalidated=True),
    ],
)
async def test_each_of_the_line_is_failed_with_an_error_of_its_own(error: Exception) -> None:
    """Nobody shares the traceback of another; kind, text, attributes and the cause are the same."""
    queue: FairQueue[str] = FairQueue(1)
    waiting = [asyncio.create_task(queue._wait(None)) for _ in range(3)]
    await settle()
    queue.fail(error)
    failed = await asyncio.gather(*waiting, return_exceptions=True)
    assert len({id(one) for one in (error, *failed)}) == 4
    for one in failed:
        assert isinstance(one, type(error))
        assert (one.args, str(one), one.__dict__) == (error.args, str(error), error.__dict__)
        assert one.__cause__ is error
    assert getattr(failed[0], "errno", None) == getattr(error, "errno", None)
    assert error.__traceback__ is None


async def test_an_error_that_cannot_be_made_again_fails_the_line_all_the_same() -> None:
    """Where there can be only one object, everybody gets that."""
    queue: FairQueue[str] = FairQueue(1)
    waiting = [asyncio.create_task(queue._wait(None)) for _ in range(2)]
    await settle()
    queue.fail(error := Peculiar(reason="x"))
    assert await asyncio.gather(*waiting, return_exceptions=True) == [error, error]


async def test_the_line_ends_in_time(postgres_database: URL, open_database: Open) -> None:
    """One that waited in vain is told so, and its place is not served later."""
    database = open_database(postgres_database, pool_size=1, max_overflow=0, pool_timeout=0.3)

    async def wait() -> None:
        async with UnitOfWork(database) as uow:
            await uow.session.execute(text("SELECT 1"))

    async with UnitOfWork(database) as holder:
        await holder.session.execute(text("SELECT 1"))
        with pytest.raises(PoolExhaustedError):
            await asyncio.create_task(wait())
    await wait()
    assert database.pool_levels()["used"] == 0


def test_a_full_queue_says_so() -> None:
    """More idle connections than `maxsize` are refused; none is an error of its own."""
    queue: FairQueue[int] = FairQueue(2, use_lifo=True)
    queue.put_nowait(1)
    queue.put(2)
    with pytest.raises(Full):
        queue.put_nowait(3)
    assert (queue.full(), queue.qsize(), queue.get(), queue.get_nowait()) == (True, 2, 2, 1)
    assert queue.empty()
    with pytest.raises(Empty):
        queue.get(block=False)


async def test_the_end_of_a_unit_tells_how_long_it_waited(
    postgres_database: URL, open_database: Open
) -> None:
    """`uow.close` carries the time in the line, which is most of a unit that does little else."""
    database = open_database(postgres_database, pool_size=1, max_overflow=0)

    async def short() -> None:
        async with UnitOfWork(database) as uow:
            await uow.session.execute(text("SELECT 1"))

    await short()  # the connection is open from here on
    with EventRecorder(database.bus) as events:
        async with UnitOfWork(database) as holder:
            await holder.session.execute(text("SELECT 1"))
            waiting = asyncio.create_task(short())
            await settle()
            await holder.session.execute(text("SELECT pg_sleep(0.05)"))
        await waiting
    held = events.assert_event("uow.close", unit=holder.number)
    waited = events.assert_event("uow.close", unit=holder.number + 1)
    assert isinstance(held, UnitClosed)
    assert isinstance(waited, UnitClosed)
    assert held.waited < 0.05 < waited.waited
