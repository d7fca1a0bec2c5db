"""What the units of one engine share: who holds what, slow units, drain, dispose, one loop."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import ColumnElement, Integer, event, select, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.util import await_only

from db_manager.database.database import Database
from db_manager.errors import (
    DatabaseUnavailableError,
    ManagerClosedError,
    PoolExhaustedError,
    WrongEventLoopError,
)
from db_manager.events import PoolExhausted, UnitSlow
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork
from lifecycle.correlation import correlate
from observability.testing import EventRecorder

ONE = text("SELECT 1")


@asynccontextmanager
async def held(database: Database, statement: Any = ONE, **where: Any) -> Any:
    """Hold a connection in a unit of another task for the time of the block; yields the unit."""
    holding: asyncio.Future[UnitOfWork] = asyncio.get_running_loop().create_future()
    enough = asyncio.Event()

    async def hold() -> None:
        with correlate(**where):
            async with UnitOfWork(database) as uow:
                await uow.session.execute(statement)
                holding.set_result(uow)
                await enough.wait()

    task = asyncio.create_task(hold())
    try:
        yield await holding
    finally:
        enough.set()
        await asyncio.wait({task})


async def use(database: Database) -> None:
    """Use a connection in a unit."""
    async with UnitOfWork(database) as uow:
        await uow.session.execute(ONE)


async def test_who_holds_the_connections_is_named(
    database_url: URL, open_database: Callable[..., Database]
) -> None:
    """A unit that waits in vain is told which unit of whom holds the connection, and since when."""
    database = open_database(database_url, pool_size=1, pool_timeout=0.3)
    where = {"plugin": "notes", "handler": "notes.save", "update_id": 7}
    with EventRecorder(database.bus) as events:
        async with held(database, **where) as holder:
            with pytest.raises(PoolExhaustedError) as caught:
                await use(database)
    said = str(caught.value)
    start = f"unit {holder.number}, plugin notes, handler notes.save, update 7, open "
    assert len(caught.value.holders) == 1
    assert caught.value.holders[0].startswith(start)
    assert caught.value.holders[0].endswith("last statement 'SELECT ?'")
    assert f"held by: {start}" in said
    assert said.startswith(("the only connection was busy", "SQLite's one writer was busy"))
    exhausted = events.assert_event("pool.exhausted", size=1)
    assert isinstance(exhausted, PoolExhausted)
    assert exhausted.holders == caught.value.holders
    await use(database)


async def test_a_waiter_gets_what_comes_free(
    database_url: URL, open_database: Callable[..., Database]
) -> None:
    """Twenty units on one connection all succeed, one after the other."""
    database = open_database(database_url, pool_size=1, pool_timeout=5.0)
    await asyncio.gather(*(use(database) for _ in range(20)))
    assert database.pool_levels()["used"] == 0
    assert database.open == {}


async def test_cancelled_waiters_leave_nothing(
    database_url: URL, open_database: Callable[..., Database]
) -> None:
    """Units that are cancelled while they wait for a connection take none with them."""
    database = open_database(database_url, pool_size=1)
    async with held(database):
        waiting = [asyncio.create_task(use(database)) for _ in range(10)]
        await asyncio.sleep(0)
        assert len(database.open) == 11
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert all(task.cancelled() for task in waiting)
    await asyncio.gather(*(use(database) for _ in range(3)))
    assert (database.pool_levels()["used"], database.open) == (0, {})


async def test_a_slow_unit_is_warned_about_while_it_is_open(
    database_url: URL, open_database: Callable[..., Database]
) -> None:
    """A unit older than slow_unit is told about once, with its place and its last statement."""
    database = open_database(database_url, slow_unit=0.1)
    await use(database)
    with EventRecorder(database.bus) as events:
        async with held(database, plugin="notes") as holder:
            slow = await events.wait_for("uow.slow")
            assert holder.state == "active"
    assert isinstance(slow, UnitSlow)
    assert (slow.unit, slow.holds_connection, slow.statement) == (holder.number, True, "SELECT ?")
    assert (slow.correlation.plugin, slow.correlation.unit) == ("notes", holder.number)
    assert slow.duration >= 0.1
    assert len(events.topic("uow.slow").events) == 1


class Speechless(ColumnElement[int]):
    """Means something in the databases under test, and nothing to `str()`."""

    type = Integer()
    inherit_cache = True


@compiles(Speechless, "sqlite")
@compiles(Speechless, "postgresql")
def _compile(_element: Speechless, _compiler: Any, **_: Any) -> str:
    return "1"


async def test_a_statement_without_a_text_harms_nobody(
    database_url: URL, open_database: Callable[..., Database]
) -> None:
    """Who waits, watches or stops is told of a statement that cannot be told by its class."""
    database = open_database(database_url, slow_unit=0.1, pool_size=1, pool_timeout=0.3)
    told: asyncio.Queue[UnitSlow] = asyncio.Queue()
    # Who listened to the end of units as well would have the driver's text in its place.
    database.bus.subscribe("uow.slow", told.put_nowait)
    async with held(database, select(Speechless())):
        assert (await told.get()).statement == "Select"
        with pytest.raises(PoolExhaustedError) as caught:
            await use(database)
        drained = await database.drain(0.01, 5)
    for said in (*caught.value.holders, *drained.cancelled):
        assert said.endswith("last statement 'Select'")
    assert database.open == {}


async def test_drain_waits_and_names_the_rest(database: Database, events: EventRecorder) -> None:
    """A drain refuses new units, lets the open ones end, and rolls back and names the others."""
    go_on, inside = asyncio.Event(), asyncio.Barrier(3)

    async def work(wait: Callable[[], Awaitable[Any]]) -> str:
        async with UnitOfWork(database) as uow:
            await inside.wait()
            await wait()
        return str(uow.state)

    with correlate(plugin="notes"):
        good = asyncio.create_task(work(go_on.wait))
        endless = asyncio.create_task(work(asyncio.Event().wait))
    await inside.wait()
    draining = asyncio.create_task(database.drain(0.1, 2.0))
    await asyncio.sleep(0)
    assert database.state == "stopping"
    with pytest.raises(ManagerClosedError, match="stopping or stopped"):
        await use(database)
    go_on.set()
    drained = await draining
    assert await good == "committed"
    assert endless.cancelled()
    assert drained.waited == 2
    assert len(drained.cancelled) == 1
    assert "plugin notes, open" in drained.cancelled[0]
    events.assert_event("uow.rollback", cause="cancelled")
    assert (database.open, database.pool_levels()["used"]) == ({}, 0)


async def test_an_idle_drain_is_over_at_once(database: Database) -> None:
    """With nothing open there is nothing to wait for."""
    drained = await database.drain(60, 60)
    assert (drained.waited, drained.cancelled) == (0, ())


async def test_a_drain_spares_its_own_task(database: Database) -> None:
    """A unit that drains its own database is not cancelled by that."""
    async with UnitOfWork(database) as uow:
        drained = await database.drain(0.01, 0.01)
        await uow.session.execute(ONE)
    assert (drained.waited, drained.cancelled, uow.state) == (1, (), "committed")


async def test_nothing_works_after_dispose(database: Database) -> None:
    """A closed database opens neither units nor connections; twice closed is closed."""
    await use(database)
    engine = database.engine
    await database.dispose()
    with pytest.raises(ManagerClosedError):
        await use(database)
    with pytest.raises(ManagerClosedError):
        async with engine.connect():
            pass
    await database.dispose()


async def test_levels(database: Database) -> None:
    """The levels say how many connections are used and idle and how many units are open."""
    assert database.pool_levels() == {"size": 10, "idle": 0, "used": 0, "units": 0}
    async with held(database):
        assert database.pool_levels() == {"size": 10, "idle": 0, "used": 1, "units": 1}
    assert database.pool_levels() == {"size": 10, "idle": 1, "used": 0, "units": 0}


async def test_an_engine_leads_to_its_database(database: Database) -> None:
    """Units of the engine itself share what the plugin's units share."""
    assert Database.of(database.engine) is database
    assert Database.of(database) is database
    async with UnitOfWork(database.engine), held(database):
        assert len(database.open) == 2


def in_another_loop(work: Callable[[], Awaitable[None]]) -> BaseException | None:
    """Run *work* in a thread with a loop of its own; return what it raised."""
    raised: list[BaseException] = []

    async def run() -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 -- the caller looks at it
            raised.append(error)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    thread.join()
    return raised[0] if raised else None


async def test_another_loop_is_refused(database: Database) -> None:
    """An engine belongs to the loop of its first unit: another one is refused, to use or close."""
    await use(database)
    assert isinstance(in_another_loop(lambda: use(database)), WrongEventLoopError)
    assert isinstance(in_another_loop(database.dispose), WrongEventLoopError)
    await use(database)


async def test_a_new_loop_after_dispose_of_the_engine(
    sqlite_database: URL, open_database: Callable[..., Database]
) -> None:
    """An engine whose connections were closed may serve another loop."""
    database = open_database(sqlite_database)
    await use(database)
    await database.engine.dispose()

    async def work() -> None:
        await use(database)
        await database.engine.dispose()

    assert in_another_loop(work) is None


async def test_the_factory_takes_the_engine(database: Database) -> None:
    """A factory of an engine opens units of that engine's database."""
    async with UnitOfWorkFactory(database.engine)():
        assert len(database.open) == 1


@pytest.mark.parametrize("when", ["closed", "lost"])
async def test_a_connection_that_is_lost_in_its_set_up_is_no_connection(
    when: str, postgres_database: URL, open_database: Callable[..., Database]
) -> None:
    """A driver's error of the set-up, which SQLAlchemy does not wrap, means that nothing began."""
    database = open_database(postgres_database)

    @event.listens_for(database.engine.sync_engine, "connect")
    def lose(adapter: Any, _record: object) -> None:
        driver = adapter.driver_connection
        if when == "closed":
            await_only(driver.close())
            await_only(driver.set_type_codec("json", schema="pg_catalog", encoder=str, decoder=str))
        else:
            await_only(driver.execute("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(DatabaseUnavailableError):
        async with UnitOfWork(database) as uow:
            await uow.session.execute(ONE)
    assert database.engine.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # a QueuePool
