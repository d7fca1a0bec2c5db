"""More units than connections: U10, U11 and U12."""

import asyncio
import statistics
import time
from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.accounting import accounted

from db_manager.database import Database
from db_manager.errors import PoolExhaustedError, UnitOfWorkStateError
from db_manager.uow import UnitOfWork

Row = Callable[..., None]

POOL, WAITERS = 5, 200
#: Seconds that 150 tasks need to be told, all at once.
MARGIN = 0.1
SELECT = text("SELECT 1")


async def hold(database: Database, seconds: float) -> None:
    """Keep a connection for a while."""
    async with UnitOfWork(database) as uow:
        await uow.session.execute(SELECT)
        await asyncio.sleep(seconds)


async def hold_together(database: Database, units: int) -> None:
    """Let as many units hold a connection at the same time; without enough of them it fails."""
    everyone = asyncio.Barrier(units)

    async def one() -> None:
        async with UnitOfWork(database) as uow:
            await uow.session.execute(SELECT)
            await everyone.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(units):
            group.create_task(one())


async def test_who_waits_in_vain_is_told_who_holds(
    postgres_database: URL, full: bool, row: Row
) -> None:
    """U10: of 200 tasks on 5 connections those that wait too long learn who holds them."""
    waits: list[float] = []

    async def try_to_hold(seconds: float) -> None:
        begun = time.perf_counter()
        try:
            await hold(database, seconds)
        except PoolExhaustedError:
            waits.append(time.perf_counter() - begun)
            raise

    async with accounted(postgres_database, pool_size=POOL, pool_timeout=1.0) as database:
        # The first ones are out of step, or all five would change hands just when time is over.
        out_of_step = [0.01, 0.03, 0.05, 0.07, 0.09]
        seconds = out_of_step + [0.1] * (WAITERS - POOL)
        results = await asyncio.gather(*map(try_to_hold, seconds), return_exceptions=True)
        failed = [result for result in results if result is not None]
        for error in failed:
            assert isinstance(error, PoolExhaustedError)
            assert error.size == POOL
            # One may be changing hands.
            assert POOL - 1 <= len(error.holders) <= POOL
            assert all("last statement 'SELECT 1'" in holder for holder in error.holders)
        # Five at a time for a second, each 0.1 s and what the machine needs.
        assert (45 if full else POOL) <= WAITERS - len(failed) <= 55
        assert min(waits) >= 0.9
        assert max(waits) <= (1.0 if full else 1.5) + MARGIN
        await asyncio.gather(*(hold(database, 0.0) for _ in range(WAITERS)))
    row(
        "U10",
        load=f"{WAITERS} tasks hold {POOL} connections for 0.1 s, pool_timeout 1 s",
        result=f"{WAITERS - len(failed)} ok, {len(failed)} PoolExhaustedError after {min(waits):.2f} "
        f"to {max(waits):.2f} s; "
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
            await hold_together(database, POOL)
        with pytest.raises(ExceptionGroup):  # one more than there are: the check can fail
            await hold_together(database, POOL + 1)
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
        assert statistics.median(waited) < 0.01
        assert max(waited) < 1.0
    row(
        "U12",
        load=f"{POOL} tasks open a unit inside of a unit on {POOL} connections",
        result=f"UnitOfWorkStateError after {max(waited) * 1000:.1f} ms at most",
    )
