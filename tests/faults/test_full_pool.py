"""More units than connections: U10, U11 and U12."""

import asyncio
import time
from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.accounting import accounted

from db_manager.database.database import Database
from db_manager.errors import PoolExhaustedError, UnitOfWorkStateError
from db_manager.unit.uow import UnitOfWork

pytestmark = pytest.mark.usefixtures("runner")

Row = Callable[..., None]

POOL, WAITERS = 5, 200
SELECT = text("SELECT 1")


async def hold(database: Database, seconds: float) -> None:
    """Keep a connection for a while."""
    async with UnitOfWork(database) as uow:
        await uow.session.execute(SELECT)
        await asyncio.sleep(seconds)


async def in_vain(database: Database) -> PoolExhaustedError:
    """Return the error of a unit that waits while others hold every connection."""
    held, free = asyncio.Semaphore(0), asyncio.Event()

    async def keep() -> None:
        async with UnitOfWork(database) as uow:
            await uow.session.execute(SELECT)
            held.release()
            await free.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(POOL):
            group.create_task(keep())
        for _ in range(POOL):
            await held.acquire()
        with pytest.raises(PoolExhaustedError) as raised:
            await hold(database, 0.0)
        free.set()
    return raised.value


async def test_who_waits_in_vain_is_told_who_holds(postgres_database: URL, row: Row) -> None:
    """U10: of 200 tasks on 5 connections those that wait too long learn who holds them."""
    async with accounted(postgres_database, pool_size=POOL, pool_timeout=1.0) as database:
        begun = time.perf_counter()
        results = await asyncio.gather(
            *(hold(database, 0.1) for _ in range(WAITERS)), return_exceptions=True
        )
        seconds = time.perf_counter() - begun
        failed = [result for result in results if result is not None]
        assert all(isinstance(error, PoolExhaustedError) for error in failed), failed
        first = await in_vain(database)
        assert (first.size, len(first.holders)) == (POOL, POOL)
        assert all("last statement 'SELECT ?'" in holder for holder in first.holders)
        # Five at a time for a second, each 0.1 s and what the machine needs.
        assert POOL <= WAITERS - len(failed) <= POOL * 12
        # As many at a time as there are places: none was lost, and nobody has to wait for one.
        for _ in range(WAITERS // POOL):
            assert await asyncio.gather(*(hold(database, 0.0) for _ in range(POOL)))
    row(
        "U10",
        load=f"{WAITERS} tasks hold {POOL} connections for 0.1 s, pool_timeout 1 s",
        result=f"{WAITERS - len(failed)} ok, {len(failed)} PoolExhaustedError in {seconds:.1f} s; "
        f"then {WAITERS} short ones: all ok",
    )


async def test_cancelled_waiters_take_no_place(
    postgres_database: URL, full: bool, row: Row
) -> None:
    """U11: waiters that are cancelled together leave every connection to others."""
    rounds = 20 if full else 3
    async with accounted(postgres_database, pool_size=POOL, pool_timeout=2.0) as database:
        for _ in range(rounds):
            holders = [asyncio.create_task(hold(database, 0.05)) for _ in range(POOL)]
            waiters = [asyncio.create_task(hold(database, 0.0)) for _ in range(WAITERS - POOL)]
            await asyncio.sleep(0.01)
            for waiter in waiters:
                waiter.cancel()
            await asyncio.wait([*holders, *waiters])
            await asyncio.gather(*(hold(database, 0.0) for _ in range(POOL)))
    row(
        "U11",
        load=f"{WAITERS - POOL} waiters cancelled at once, {rounds} times",
        result=f"{POOL} units at a time afterwards, each time",
    )


async def test_a_unit_inside_of_a_unit_never_waits_for_it(postgres_database: URL, row: Row) -> None:
    """U12: a second unit in the same task is refused at once, not after pool_timeout."""
    async with accounted(postgres_database, pool_size=POOL, pool_timeout=5.0) as database:
        waited = []

        async def nest() -> None:
            async with UnitOfWork(database) as uow:
                await uow.session.execute(SELECT)
                begun = time.perf_counter()
                with pytest.raises(UnitOfWorkStateError, match="has a unit of work open already"):
                    await hold(database, 0.0)
                waited.append(time.perf_counter() - begun)

        await asyncio.gather(*(nest() for _ in range(POOL)))
        assert max(waited) < 0.1
    row(
        "U12",
        load=f"{POOL} tasks open a unit inside of a unit on {POOL} connections",
        result=f"UnitOfWorkStateError after {max(waited) * 1000:.1f} ms at most",
    )
