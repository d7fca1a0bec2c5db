"""The bank of the fault tests ends with the error of a worker or of its block; it never hangs."""

import asyncio

import pytest
from sqlalchemy.engine import URL
from support.accounting import accounted
from support.bank import Bank

from db_manager.errors import DatabaseUnavailableError

#: Seconds in which `at_work` must have ended.
SOON = 5.0


class BrokenBank(Bank):
    """A bank with one transfer that fails, as it is told."""

    failure: Exception | None = None

    async def transfer(self) -> None:
        """Fail when there is something to fail with, once."""
        await asyncio.sleep(0)
        failure, self.failure = self.failure, None
        if failure:
            raise failure


async def test_the_unknown_error_of_a_worker_ends_the_work(sqlite_database: URL) -> None:
    """An error that nobody expects of a unit ends `at_work` with it, however long its block is."""
    async with accounted(sqlite_database, check=False) as database:
        bank = BrokenBank(database, sqlite_database)
        with pytest.raises(ExceptionGroup) as raised:
            async with asyncio.timeout(SOON), bank.at_work(5):
                bank.failure = ValueError("unknown")
                await asyncio.Event().wait()
    assert raised.group_contains(ValueError, match="unknown")


async def test_an_error_of_the_block_ends_the_work(sqlite_database: URL) -> None:
    """A failed check in the block of `at_work` is not held up by the workers."""
    async with accounted(sqlite_database, check=False) as database:
        bank = BrokenBank(database, sqlite_database)
        with pytest.raises(ExceptionGroup) as raised:
            async with asyncio.timeout(SOON), bank.at_work(5):
                raise ValueError("seen")
    assert raised.group_contains(ValueError, match="seen")


async def test_a_worker_that_is_cancelled_in_its_pause_works_on(sqlite_database: URL) -> None:
    """A cancellation ends a pause, not the worker."""
    async with accounted(sqlite_database, check=False) as database:
        bank = BrokenBank(database, sqlite_database)
        async with asyncio.timeout(SOON), bank.at_work(1):
            bank.failure = DatabaseUnavailableError("gone")
            while not bank.errors:  # noqa: ASYNC110 -- workers stay as they are
                await asyncio.sleep(0)
            bank.workers[0].cancel()
            # Only a worker that goes on counts it.
            while not bank.errors["CancelledError"]:  # noqa: ASYNC110 -- workers stay as they are
                await asyncio.sleep(0)
            assert not bank.workers[0].done()
