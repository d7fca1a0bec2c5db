"""Transfers between accounts, by tasks that keep a ledger of what each unit said about itself."""

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator

from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from support.accounting import connected

from db_manager.database.database import Database
from db_manager.database.open_unit import UnitState
from db_manager.errors import DbManagerError
from db_manager.unit.uow import UnitOfWork

START_BALANCE = 1000
#: Seconds that a task waits after an error.
PAUSE = 0.01

_MOVE = text("UPDATE account SET balance = balance + :amount WHERE id = :id")
_NOTE = text("INSERT INTO transfer VALUES (:key)")


class Bank:
    """Accounts on PostgreSQL, and what the units that moved money between them said.

    Only errors of db_manager, SQLAlchemy's DBAPIError and a cancellation by the test are expected
    of a unit; any other one ends `at_work` with it.

    Args:
        database: What the units use.
        server: Where the database really is.
        accounts: How many accounts there are.
    """

    def __init__(self, database: Database, server: URL, accounts: int = 20) -> None:
        self.said: dict[UnitState, set[int]] = {
            UnitState.COMMITTED: set(),
            UnitState.ROLLED_BACK: set(),
            UnitState.OUTCOME_UNKNOWN: set(),
        }
        self.errors: Counter[str] = Counter()
        self.workers: list[asyncio.Task[None]] = []
        #: When the last transfer was acknowledged, on the clock of `time.perf_counter`.
        self.last_acknowledged = 0.0
        self._database = database
        self._server = server
        self._accounts = accounts
        self._keys = itertools.count(1)

    @property
    def acknowledged(self) -> set[int]:
        """Keys of the transfers whose unit said that it is committed."""
        return self.said[UnitState.COMMITTED]

    async def open(self) -> None:
        """Make the tables."""
        async with connected(self._server) as admin:
            await admin.execute(
                "CREATE TABLE account (id int PRIMARY KEY, balance int);"
                "CREATE TABLE transfer (key int);"
                f"INSERT INTO account SELECT id, {START_BALANCE} "
                f"FROM generate_series(1, {self._accounts}) AS id"
            )

    async def transfer(self) -> None:
        """Move some money in a unit, and keep what the unit said."""
        key = next(self._keys)
        unit = UnitOfWork(self._database)
        giver, taker = random.sample(range(1, self._accounts + 1), 2)
        moves = sorted([(giver, -1), (taker, 1)])  # always in this order: no deadlocks
        try:
            async with unit:
                for account, amount in moves:
                    await unit.session.execute(_MOVE, {"id": account, "amount": amount})
                await unit.session.execute(_NOTE, {"key": key})
        finally:
            self.said[unit.state].add(key)
            if unit.state is UnitState.COMMITTED:
                self.last_acknowledged = time.perf_counter()

    async def next_acknowledgement(self) -> float:
        """Return the seconds until the next transfer is acknowledged."""
        started = time.perf_counter()
        while self.last_acknowledged <= started:  # noqa: ASYNC110 -- workers stay as they are
            await asyncio.sleep(PAUSE)
        return self.last_acknowledged - started

    @contextlib.asynccontextmanager
    async def at_work(self, tasks: int) -> AsyncIterator[None]:
        """Let *tasks* tasks transfer all the time of the block.

        Args:
            tasks: How many.
        """
        closed = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            self.workers = [group.create_task(self._work(closed)) for _ in range(tasks)]
            try:
                yield
            finally:  # also when a worker failed: the others take no cancellation for an end
                closed.set()

    async def _work(self, closed: asyncio.Event) -> None:
        while not closed.is_set():
            try:
                await self._transfer_or_pause()
            except asyncio.CancelledError:
                self.errors["CancelledError"] += 1

    async def _transfer_or_pause(self) -> None:
        try:
            await self.transfer()
        except (DbManagerError, DBAPIError) as error:
            self.errors[type(error).__name__] += 1
            await asyncio.sleep(PAUSE)

    async def assert_sum(self) -> None:
        """Assert that no money was made or lost.

        Raises:
            AssertionError: The sum of the balances changed.
        """
        async with connected(self._server) as admin:
            total = await admin.fetchval("SELECT sum(balance) FROM account")
        assert total == self._accounts * START_BALANCE

    async def audit(self) -> str:
        """Assert that every unit told the truth.

        Returns:
            What there was, in one line.

        Raises:
            AssertionError: A committed transfer is not there, an undone one is, or money is.
        """
        await self.assert_sum()
        async with connected(self._server) as admin:
            keys = [row["key"] for row in await admin.fetch("SELECT key FROM transfer")]
        there = set(keys)
        assert len(keys) == len(there)
        lost = self.acknowledged - there
        assert not lost, f"acknowledged and lost: {sorted(lost)}"
        assert not self.said[UnitState.ROLLED_BACK] & there
        assert there - self.acknowledged <= self.said[UnitState.OUTCOME_UNKNOWN]
        unknown = len(self.said[UnitState.OUTCOME_UNKNOWN])
        return f"{len(self.acknowledged)} acknowledged, lost 0, {unknown} unknown, sum exact"
