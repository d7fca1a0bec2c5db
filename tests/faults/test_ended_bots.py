"""Bots that are killed, told to stop, or cannot write their journal: L3, J2, and SIGKILL."""

import asyncio
import json
import os
import random
import signal
import sqlite3
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.accounting import accounted, connected
from support.forks import forked

from db_manager.unit.uow import UnitOfWork
from lifecycle.journal import Run, SqliteJournal
from lifecycle.plugins.machine import State
from lifecycle.plugins.replay import replay
from lifecycle.testing import BotApiServer

#: Seconds that a told bot may take: its `[app] grace`.
GRACE = 6.0
MOMENTS = ("start", "run", "stop")
#: Seconds into each moment that are tried: about as long as it lasts.
LONGEST = {"start": 0.3, "run": 0.1, "stop": 0.03}

Row = Callable[..., None]


class Bots:
    """working_bot.py, which lives once for each `begin`.

    Args:
        process: The process that forks the lives.
        arguments: Arguments of each.
    """

    def __init__(self, process: Process, **arguments: object) -> None:
        self._process = process
        self._arguments = arguments
        self.pid = 0
        self.lives = False

    async def begin(self, *, full_disk: bool = False) -> None:
        """Begin a life."""
        assert self._process.stdin is not None
        arguments = {**self._arguments, "full_disk": full_disk}
        self._process.stdin.write(json.dumps(arguments).encode() + b"\n")
        self.pid, self.lives = int(await self.read()), True

    async def read(self) -> str:
        """Return the next line."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 30)
        return line.decode().strip()

    async def ready(self) -> list[str]:
        """Wait until it works; return what it said before."""
        lines: list[str] = []
        while (line := await self.read()) != "ready":
            assert not line.startswith("ended"), line
            lines.append(line)
        return lines

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it, if it lives."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    async def end(self) -> tuple[int, list[str]]:
        """Wait for its end; return its exit code, and what it said before."""
        lines: list[str] = []
        while not (line := await self.read()).startswith("ended"):
            lines.append(line)
        self.lives = False
        return int(line.split()[1]), lines


@pytest.fixture(scope="module")
async def fork_server() -> AsyncIterator[Process]:
    """Yield the process that forks bots; it is forked itself."""
    program = forked(Path(__file__).parent / "working_bot.py")
    process = await asyncio.create_subprocess_exec(*program, stdin=PIPE, stdout=PIPE)
    yield process
    process.kill()
    await process.communicate()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Where the journal of the bots is."""
    return tmp_path / "journal.sqlite3"


@asynccontextmanager
async def ready_bots(
    fork_server: Process, api: BotApiServer, url: URL, journal: Path
) -> AsyncIterator[Bots]:
    """Make the table that they write; at the end kill what still lives."""
    async with accounted(url) as database, UnitOfWork(database) as uow:
        await uow.session.execute(text("CREATE TABLE t (id int)"))
    bots = Bots(
        fork_server,
        api=api.url,
        token=api.token,
        url=url.render_as_string(hide_password=False),
        journal=str(journal),
    )
    try:
        yield bots
    finally:
        if bots.lives:
            bots.signal(signal.SIGKILL)
            await bots.end()


@pytest.fixture
async def api() -> AsyncIterator[BotApiServer]:
    """Yield a running Bot API."""
    async with BotApiServer() as server:
        yield server


@pytest.fixture
async def bots(
    fork_server: Process, api: BotApiServer, database_url: URL, journal: Path
) -> AsyncIterator[Bots]:
    """Yield bots, once on SQLite and once on PostgreSQL."""
    async with ready_bots(fork_server, api, database_url, journal) as bots:
        yield bots


@pytest.fixture
async def postgres_bots(
    fork_server: Process, api: BotApiServer, postgres_database: URL, journal: Path
) -> AsyncIterator[Bots]:
    """Yield bots on PostgreSQL."""
    async with ready_bots(fork_server, api, postgres_database, journal) as bots:
        yield bots


def has_tables(journal: Path) -> bool:
    """Return False for a journal whose bot was killed before it had made its tables."""
    with closing(sqlite3.connect(journal)) as connection:
        asked = "SELECT count(*) FROM sqlite_schema WHERE name = 'runs'"
        return bool(connection.execute(asked).fetchone()[0])


def last_run(journal: Path) -> Run | None:
    """Return the last run in the journal, read as a tool does it."""
    if not journal.exists() or not has_tables(journal):
        return None
    with SqliteJournal.read(journal) as reader:
        runs = reader.runs()
    return runs[-1] if runs else None


async def reach(bots: Bots, moment: str) -> list[str]:
    """Begin a life and wait for a random time of *moment*; return what it had said."""
    said: list[str] = []
    await bots.begin()
    if moment != "start":
        said = await bots.ready()
    if moment == "stop":
        await asyncio.sleep(random.uniform(0, 0.05))
        bots.signal(signal.SIGTERM)
    await asyncio.sleep(random.uniform(0, LONGEST[moment]))
    return said


@pytest.mark.timeout(300)
async def test_a_killed_bot_starts_again_and_says_so(
    bots: Bots, journal: Path, database_url: URL, row: Row, *, full: bool
) -> None:
    """After SIGKILL at any moment the next start works and names the crash."""
    kills, crashes = (50 if full else 4), 0
    before: Run | None = None
    for number in range(kills):
        await reach(bots, MOMENTS[number % 3])
        bots.signal(signal.SIGKILL)
        await bots.end()
        victim = last_run(journal)
        if victim == before:
            victim = None  # killed before it had opened its journal
        await bots.begin()
        said = await bots.ready()
        crashed = victim is not None and victim.ended_at is None
        assert said == ([f"crashed {victim.run}"] if victim and crashed else [])
        crashes += crashed
        bots.signal(signal.SIGTERM)
        code, _ = await bots.end()
        assert code == 0
        before = last_run(journal)
        assert before is not None
        assert before.ended_at is not None
    assert crashes
    row(
        "kill",
        load=f"SIGKILL of a bot {kills} × in start, run, stop; {database_url.get_backend_name()}",
        result=f"the next start works {kills}/{kills}; {crashes} died in an open run, each "
        "reported by app.crashed",
    )


@pytest.mark.timeout(300)
async def test_a_told_bot_ends_in_time_at_any_moment(
    postgres_bots: Bots, journal: Path, postgres_database: URL, row: Row, *, full: bool
) -> None:
    """SIGTERM at any moment, once or twice, ends a bot in its grace time with all done. L3."""
    times, slowest = (50 if full else 5), 0.0
    moments: Counter[str] = Counter()
    before: Run | None = None
    for number in range(times):
        moment = MOMENTS[number % 3]
        await reach(postgres_bots, moment)
        begun = time.perf_counter()
        postgres_bots.signal(signal.SIGTERM)
        if number % 2:
            await asyncio.sleep(random.uniform(0, 0.05))
            postgres_bots.signal(signal.SIGTERM)
        code, _ = await postgres_bots.end()
        slowest = max(slowest, time.perf_counter() - begun)
        run = last_run(journal)
        if run == before:  # told before it listened
            assert code in {0, -signal.SIGTERM}
            moments["before it listened"] += 1
            continue
        # The second one may come when all is done and the process listens no more: it ends that.
        is_second = number % 2 or moment == "stop"  # which begins with one
        assert code == 0 or (is_second and code == -signal.SIGTERM)
        assert run is not None
        assert run.ended_at is not None
        with SqliteJournal.read(journal) as reader:
            states = replay(list(reader.entries(run.run)))
        assert set(states.values()) <= {State.UNLOADED}
        async with connected(postgres_database) as admin:
            left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'working_bot'"
            assert await admin.fetchval(left) == 0
        moments[moment] += 1
        before = run
    assert slowest <= GRACE
    row(
        "L3",
        load=f"SIGTERM {times} × at random moments, every second time twice: "
        + ", ".join(f"{n} {moment}" for moment, n in moments.items()),
        result=f"journal ends terminal, 0 backends left, slowest end {slowest:.2f} s "
        f"(grace {GRACE:.0f} s)",
    )


async def test_a_full_disk_of_the_journal_is_told_once(postgres_bots: Bots, row: Row) -> None:
    """A journal that cannot be written does not stop units, and its error surfaces once. J2."""
    await postgres_bots.begin(full_disk=True)
    await postgres_bots.ready()
    said = await postgres_bots.read()
    assert said == "units 100"
    postgres_bots.signal(signal.SIGTERM)
    code, said_at_end = await postgres_bots.end()
    assert (code, said_at_end) == (0, ["journal errors 1"])
    await postgres_bots.begin()
    assert await postgres_bots.ready() == ["crashed 1"]
    postgres_bots.signal(signal.SIGTERM)
    assert (await postgres_bots.end())[0] == 0
    row(
        "J2",
        load="full disk for the journal of a running bot",
        result="100 of 100 units after it committed; 1 JournalError at the stop; next run whole",
    )
