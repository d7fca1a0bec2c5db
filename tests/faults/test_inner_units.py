"""A unit inside of a unit is wholly there or wholly not, whoever swallows its end: U26."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from support.accounting import accounted
from support.suspension import cancel_everywhere

from db_manager.database.database import Database
from db_manager.errors import DbManagerError, TransactionAbortedError
from db_manager.unit.uow import UnitOfWork

pytestmark = [
    pytest.mark.usefixtures("runner"),
    pytest.mark.filterwarnings("ignore::db_manager.LegacySessionWarning"),
]

Row = Callable[..., None]

INSERT = text("INSERT INTO inner_unit VALUES (:k, :step)")
ROWS = text("SELECT step FROM inner_unit WHERE k = :k")


async def make_table(database: Database) -> None:
    """Create the table: which step of which run was written."""
    async with database.engine.begin() as connection:
        await connection.execute(
            text("CREATE TABLE inner_unit (k INT, step VARCHAR(20), PRIMARY KEY (k, step))")
        )


async def write(session: AsyncSession, k: int, *steps: str) -> None:
    """Write steps of a run, one statement each; between them waits what is no database."""
    for step in steps:
        await session.execute(INSERT, {"k": k, "step": step})
        await asyncio.sleep(0)  # a cancellation here leaves the connection well


async def steps(database: Database, k: int) -> set[str]:
    """Return the steps of a run that are there."""
    async with UnitOfWork(database) as uow:
        return set(await uow.session.scalars(ROWS, {"k": k}))


def unlucky(error: BaseException | None) -> bool:
    """Return True for an error that a cancelled or failed unit may end with."""
    return error is None or isinstance(error, (asyncio.CancelledError, DbManagerError, DBAPIError))


async def cancelled(
    url: URL, nest: Callable[[Database, int], Any], *, times: int, late: bool
) -> tuple[int, int]:
    """Cancel a run at every moment; return how many, and how many were committed.

    Args:
        url: Where.
        nest: Makes one run; its result is whether it committed, and which steps must be there.
        times: How often in a row it is cancelled.
        late: Whether just before an answer is told.
    """
    runs: dict[int, tuple[bool, Iterable[set[str]]]] = {}
    async with accounted(url) as database:
        await make_table(database)

        async def run(k: int) -> None:
            runs[k] = await nest(database, k)

        async for outcome in cancel_everywhere(run, times=times, late=late):
            assert unlucky(outcome.error), outcome
        for k, (committed, allowed) in runs.items():
            found = await steps(database, k)
            assert found in (list(allowed) if committed else [set()]), (k, committed, found)
    return len(runs), sum(committed for committed, _ in runs.values())


@pytest.mark.parametrize("mode", ["join", "savepoint"])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
async def test_a_cancellation_that_is_swallowed_between_the_blocks(
    url: URL, mode: Any, times: int, late: bool, row: Row
) -> None:
    """U26: the outer unit goes on; if it commits, the inner one is there as its state says."""

    async def nest(database: Database, k: int) -> tuple[bool, list[set[str]]]:
        outer, inner = UnitOfWork(database), UnitOfWork(database, nested=mode)
        with suppress(asyncio.CancelledError, DbManagerError, DBAPIError):
            async with outer:
                await write(outer.session, k, "before")
                with suppress(asyncio.CancelledError, DbManagerError, DBAPIError):
                    async with inner:
                        await write(inner.session, k, "inner 1", "inner 2")
                await write(outer.session, k, "after")
        kept = {"inner 1", "inner 2"} if inner.state == "joined" else set()
        return outer.state == "committed", [{"before", "after"} | kept]

    points, committed = await cancelled(url, nest, times=times, late=late)
    assert points > committed > (2 if mode == "savepoint" and times == 1 else 0)
    row(
        "U26",
        load=f"{url.get_driver_name()}, {mode}: cancelled {times} × at each of {points} points, "
        f"late={late}, and swallowed",
        result=f"{committed} committed, with their inner unit or without it, as it says",
    )


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
async def test_code_that_commits_by_itself_is_cancelled(url: URL, late: bool, row: Row) -> None:
    """U26: what lies between two of its commits is there as a whole, if the unit commits."""

    async def nest(database: Database, k: int) -> tuple[bool, list[set[str]]]:
        unit = UnitOfWork(database)
        with suppress(asyncio.CancelledError, DbManagerError, DBAPIError):
            async with unit:
                await write(unit.session, k, "before")
                with suppress(asyncio.CancelledError, DbManagerError, DBAPIError):
                    async with unit.legacy_session() as session:
                        await write(session, k, "1a", "1b")
                        await session.commit()
                        await write(session, k, "2a", "2b")
                        await session.commit()
        first, second = {"before", "1a", "1b"}, {"before", "1a", "1b", "2a", "2b"}
        return unit.state == "committed", [{"before"}, first, second]

    points, committed = await cancelled(url, nest, times=1, late=late)
    assert points > committed > 2
    row(
        "U26",
        load=f"{url.get_driver_name()}, legacy session: cancelled at each of {points} points, "
        f"late={late}, and swallowed",
        result=f"{committed} committed; nothing lies between two commits",
    )


async def test_an_error_of_a_joined_unit_is_swallowed(url: URL, row: Row) -> None:
    """U26: nothing of both is written, and the outer unit says why."""
    async with accounted(url) as database:
        await make_table(database)
        with pytest.raises(TransactionAbortedError, match="joined this one, opened at ") as caught:
            async with UnitOfWork(database) as outer:
                await write(outer.session, 1, "outer")
                with suppress(ZeroDivisionError):
                    async with UnitOfWork(database, nested="join") as inner:
                        await write(inner.session, 1, "inner")
                        raise ZeroDivisionError
                await write(outer.session, 1, "later")
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert await steps(database, 1) == set()
    row("U26", load=f"{url.get_driver_name()}: swallowed, join", result="aborted, 0 rows")
