"""Bursts of random units under faults, on all databases in one process, for as long as asked."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from soak.flatness import Sample, engines, kinds, take
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.accounting import accounted, connected
from support.fuzzing import Fuzz, kill_backends
from support.postgres import PostgresServer

from db_manager.database.database import Database
from db_manager.database.open_unit import ReadOnly, UnitState
from db_manager.unit.uow import UnitOfWork

#: Connections of each pool.
POOL: Final = 8
#: Units that read, beside each burst of those that write.
READERS: Final = 50
#: Seconds between two SIGHUPs of the server.
RELOADING: Final = 0.1
_COUNT: Final = text("SELECT count(*) FROM fuzz_test__part")


class Soak:
    """Bursts of units, and samples of what the process holds between them.

    Args:
        databases: What the units use, by the name of the driver.
        server: The PostgreSQL server among them; it gets SIGHUPs, and loses backends.
        seed: Where all choices come from.
        tasks: How many units of a burst run at a time.
    """

    def __init__(
        self,
        databases: Mapping[str, Database],
        server: PostgresServer,
        *,
        seed: int,
        tasks: int,
    ) -> None:
        self.samples: list[Sample] = []
        #: What was done to the units from outside, and how often.
        self.faults: Counter[str] = Counter()
        self.reads: Counter[UnitState] = Counter()
        self.fuzzes = {
            name: Fuzz(database, seed, tasks=tasks, harmed=_is_postgres(database))
            for name, database in databases.items()
        }
        #: How many there were of each type a third and two thirds of the way, and at the end.
        self.kinds: list[Counter[str]] = []
        self._databases = databases
        self._server = server
        self._chance = random.Random(seed)
        self._tasks = tasks

    async def run(self, *, seconds: float = 0, rounds: int = 3) -> None:
        """Repeat bursts on each database, one after the other, and a sample.

        Args:
            seconds: How long at least.
            rounds: How many of them at least.
        """
        begin = time.monotonic()
        for done in itertools.count(1):
            for name in self._databases:
                await self._burst(name)
            await self._rest()
            self.samples.append(take(self._databases.values()))
            part = min((time.monotonic() - begin) / (seconds or 1), done / rounds)
            if part >= (len(self.kinds) + 1) / 3:
                self.kinds.append(kinds())
            if part >= 1:
                return

    @property
    def lies(self) -> list[str]:
        """How units differed from their rows, or did not come to an end."""
        unended = [f"a unit that reads is {state} in the end" for state in self.reads - _ENDED]
        return [lie for fuzz in self.fuzzes.values() for lie in fuzz.lies] + unended

    @property
    def grown(self) -> list[str]:
        """The types of which there were more in the end than before, those that grew most first."""
        return [f"{kind} +{n}" for kind, n in (self.kinds[-1] - self.kinds[-2]).most_common(20)]

    async def _burst(self, name: str) -> None:
        database = self._databases[name]
        async with self._faults(database):
            await asyncio.gather(
                self.fuzzes[name].run(self._tasks),
                *(self._read(database, kind) for _ in range(READERS // 2) for kind in _READS),
            )

    async def _read(self, database: Database, read_only: ReadOnly) -> None:
        unit = UnitOfWork(database, read_only=read_only)
        with contextlib.suppress(Exception):  # who lost its backend was told
            async with unit:
                await unit.session.execute(_COUNT)
        self.reads[unit.state] += 1

    @asynccontextmanager
    async def _faults(self, database: Database) -> AsyncIterator[None]:
        """Terminate backends and send SIGHUPs while the block runs, where the server is ours."""
        if not _is_postgres(database):
            yield
            return
        async with database.engine.connect() as connection:
            [[name]] = (await connection.exec_driver_sql("SHOW application_name")).all()
        over, server = asyncio.Event(), self._server
        killer = asyncio.create_task(kill_backends(server.url(), str(name), self._chance, over))
        hangup = asyncio.create_task(reload(server, over))
        try:
            yield
        finally:
            over.set()
            self.faults["backends terminated"] += await killer
            self.faults["SIGHUPs"] += await hangup

    async def _rest(self) -> None:
        """Fill the pools: how many connections are left when a burst is over is chance."""
        for engine in (found for db in self._databases.values() for found in engines(db)):
            async with AsyncExitStack() as stack:
                for _ in range(POOL):
                    await stack.enter_async_context(engine.connect())


_READS: Final[tuple[ReadOnly, ...]] = (True, "snapshot")
_ENDED: Final = Counter(
    dict.fromkeys((UnitState.COMMITTED, UnitState.ROLLED_BACK, UnitState.OUTCOME_UNKNOWN), 1 << 60)
)


def _is_postgres(database: Database) -> bool:
    return database.engine.dialect.name == "postgresql"


async def reload(server: PostgresServer, over: asyncio.Event) -> int:
    """Change a setting of the server and send it SIGHUP, all the time.

    The setting is one that PostgreSQL reports to each client by a message nobody asked for.

    Args:
        server: The server.
        over: Set when it shall end.

    Returns:
        How many SIGHUPs it sent.
    """
    styles = itertools.cycle(["iso_8601", "postgres"])
    sent = 0
    async with connected(server.url()) as admin:
        while not over.is_set():
            await admin.execute(f"ALTER SYSTEM SET IntervalStyle = {next(styles)}")
            os.kill(server.pid, signal.SIGHUP)
            sent += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), RELOADING)
    return sent


@asynccontextmanager
async def opened(urls: Mapping[str, URL]) -> AsyncIterator[dict[str, Database]]:
    """Open databases with the tables of the units; balance their books at the end.

    Args:
        urls: Empty databases, one for each driver.

    Yields:
        The databases, by the same names.
    """
    async with AsyncExitStack() as stack:
        databases = {}
        for name, url in urls.items():
            database = await stack.enter_async_context(
                accounted(url, pool_size=POOL, max_overflow=0, pool_timeout=60)
            )
            await Fuzz(database, 0).make_tables()
            databases[name] = database
        yield databases
