"""Units, tasks, loops and observers that do not belong together: U15, U16, U17, U18 and L6."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.event import listen
from support.accounting import accounted, connected

from db_manager.config import DatabaseConfig
from db_manager.database.open_unit import UnitState
from db_manager.engine.create import create_engine
from db_manager.errors import UnitOfWorkStateError, UnitOfWorkTaskError, WrongEventLoopError
from db_manager.unit.uow import UnitOfWork
from lifecycle.event import Event
from observability.testing import EventRecorder

pytestmark = pytest.mark.usefixtures("runner")

Row = Callable[..., None]

SELECT = text("SELECT 1")
TOPICS = ("uow.begin", "uow.commit", "uow.rollback", "uow.close", "uow.*", ">", "uow.>", "*.close")


async def test_a_unit_has_one_life(database_url: URL, row: Row) -> None:
    """U15: entered twice, used after its end, ended by hand: refused, and the state is named."""
    async with accounted(database_url) as database:
        unit = UnitOfWork(database)
        async with unit:
            session, connection = unit.session, unit.connection
            await session.execute(SELECT)
            with pytest.raises(UnitOfWorkStateError, match="active"):
                await unit.__aenter__()
            for forbidden in (session.commit, session.rollback, session.close, connection.commit):
                with pytest.raises(UnitOfWorkStateError, match="not allowed in the block"):
                    await forbidden()
        for after in (unit.__aenter__, lambda: session.execute(SELECT), unit.driver):
            with pytest.raises(UnitOfWorkStateError, match="committed"):
                await after()
        with pytest.raises(UnitOfWorkStateError, match="committed"):
            await connection.execute(SELECT)
        assert unit.state is UnitState.COMMITTED
    row(
        "U15", load=f"{database_url.get_backend_name()}: 9 misuses", result="9 UnitOfWorkStateError"
    )


async def test_a_child_that_is_still_at_work_harms_nobody_else(
    postgres_database: URL, row: Row
) -> None:
    """U16: a child task in the driver at the end is an error, and the next units are well."""
    async with accounted(postgres_database, pool_size=1) as database:
        unit = UnitOfWork(database)
        child: asyncio.Task[Any]
        with pytest.raises(UnitOfWorkTaskError):
            async with unit:
                driver = await unit.driver()
                child = asyncio.create_task(driver.execute("SELECT pg_sleep(5)"))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        assert unit.state is UnitState.ROLLED_BACK
        await asyncio.wait({child})
        assert child.exception() is not None
        for _ in range(3):
            async with UnitOfWork(database) as uow:
                await uow.session.execute(SELECT)
        with pytest.raises(UnitOfWorkTaskError):
            async with UnitOfWork(database) as uow:
                await asyncio.create_task(uow.session.execute(SELECT))
    row(
        "U16",
        load="a child task still in the driver at the end, pool of 1; a session in a foreign task",
        result="UnitOfWorkTaskError, the next 3 units ok",
    )


async def test_a_raising_observer_changes_nothing(database_url: URL, full: bool, row: Row) -> None:
    """U17: observers that raise at every event of a unit change no outcome and leak nothing."""
    units = 100 if full else 20

    def bad(event: Event) -> None:
        raise RuntimeError(event.topic)

    async with accounted(database_url, pool_size=2) as database:
        for topic in TOPICS:
            subscription = database.bus.subscribe(topic, bad)
            for number in range(units):
                unit, wrong = UnitOfWork(database), KeyError(number)
                try:
                    async with unit:
                        await unit.session.execute(SELECT)
                        if number % 2:
                            raise wrong
                except KeyError as error:
                    assert error is wrong  # noqa: PT017 -- the same object
                expected = UnitState.ROLLED_BACK if number % 2 else UnitState.COMMITTED
                assert unit.state is expected
            subscription.cancel()
    row(
        "U17",
        load=f"{database_url.get_backend_name()}: raising at {len(TOPICS)} hooks × {units} units",
        result="every outcome as without, pool of 2 never short",
    )


async def test_a_listener_of_sqlalchemys_changes_no_outcome(database_url: URL, row: Row) -> None:
    """U17: a session listener that raises after COMMIT was answered does not undo the truth."""

    def bad(_session: object) -> None:
        raise RuntimeError("after the commit")

    async with accounted(database_url, pool_size=1) as database:
        events = EventRecorder(database.bus)
        unit = UnitOfWork(database)
        async with unit:
            listen(unit.session.sync_session, "after_commit", bad)
            await unit.session.execute(SELECT)
        assert unit.state is UnitState.COMMITTED
        events.assert_sequence("uow.begin", "uow.commit", "uow.close", "uow.callback_failed")
        async with UnitOfWork(database) as uow:
            await uow.session.execute(SELECT)
    row(
        "U17",
        load=f"{database_url.get_backend_name()}: SQLAlchemy's after_commit raises",
        result="committed, reported, the connection is back",
    )


async def test_an_observer_that_never_returns_changes_nothing(database_url: URL, row: Row) -> None:
    """L6: an async observer that hangs harms no unit; its queue is bounded, drops are counted."""
    async with accounted(database_url) as database:

        async def stuck(_event: Event) -> None:
            await asyncio.Event().wait()

        events = EventRecorder(database.bus, "uow.*")
        subscription = database.bus.subscribe("uow.*", stuck, queue_size=10)
        for _ in range(50):
            async with UnitOfWork(database) as uow:
                await uow.session.execute(SELECT)
        assert subscription.pending == 10
        assert subscription.dropped == len(events.topics) - 10 - 1  # one is being handled
        assert not await database.bus.close(timeout=0.01)
    row(
        "L6",
        load=f"{database_url.get_backend_name()}: an async observer that never returns, 50 units",
        result="50 committed, 10 events wait, the rest is counted as dropped",
    )


def test_an_engine_belongs_to_one_loop(postgres_admin: URL, row: Row) -> None:
    """U18: a second loop is refused, also for the dispose; the first one leaves no backend."""
    name = "two_loops"
    config = DatabaseConfig(
        url=postgres_admin.render_as_string(hide_password=False), application_name=name
    )
    engine = create_engine(config)

    async def use() -> None:
        async with UnitOfWork(engine) as uow:
            await uow.session.execute(SELECT)

    async def refused() -> None:
        with pytest.raises(WrongEventLoopError):
            await use()

    async def left() -> int:
        async with connected(postgres_admin) as connection:
            question = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
            count: int = await connection.fetchval(question, name)
            return count

    with asyncio.Runner() as first:
        first.run(use())
        with asyncio.Runner() as second:
            second.run(refused())
        first.run(engine.dispose())
    with asyncio.Runner() as third:  # after the dispose the engine may begin again
        third.run(use())
        third.run(engine.dispose())
        deadline = time.monotonic() + 2
        while (count := third.run(left())) and time.monotonic() < deadline:
            pass
    assert count == 0
    row("U18", load="an engine in a second loop", result="WrongEventLoopError; 0 backends left")
