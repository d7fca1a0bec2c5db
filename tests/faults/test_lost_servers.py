"""Backends and servers that die: U6, U7, U8, U9, B1 and B3."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from support.accounting import accounted, connected
from support.bank import Bank
from support.postgres import PostgresServer
from support.proxy import PostgresProxy

from db_manager.database.database import Database
from db_manager.database.open_unit import UnitState
from db_manager.errors import CommitOutcomeUnknownError, DatabaseUnavailableError
from db_manager.unit.uow import UnitOfWork

pytestmark = pytest.mark.usefixtures("runner")

#: Seconds in which work goes on after a crash: the criterion of U9 and B3.
BACK_LIMIT = 3.0

Row = Callable[..., None]
#: Ends the backend with this process id, and returns when it has ended.
Kill = Callable[[int], Awaitable[None]]

SLOW_COMMIT = """
    CREATE TABLE t (id int);
    CREATE TABLE slow (id int);
    CREATE FUNCTION take_long() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(30); RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER take_long AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION take_long();
"""

#: What the backend does when it is killed, and how its unit must end.
PHASES = {
    "idle in the pool": UnitState.COMMITTED,
    "before a statement": UnitState.ROLLED_BACK,
    "before COMMIT": UnitState.ROLLED_BACK,
    "in a statement": UnitState.ROLLED_BACK,
    "in COMMIT": UnitState.OUTCOME_UNKNOWN,
}


async def until(server: URL, condition: str, *values: object) -> None:
    """Wait until the server says that *condition* is true."""
    async with connected(server) as admin, asyncio.timeout(10):
        while not await admin.fetchval(f"SELECT {condition}", *values):  # noqa: ASYNC110 -- the server tells nobody
            await asyncio.sleep(0.002)


async def kill_in_phase(database: Database, server: URL, phase: str, kill: Kill) -> UnitState:
    """Kill the backend of a unit in *phase*; return how the unit ended."""
    unit = UnitOfWork(database)
    backend: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    killed = asyncio.Event()

    async def work() -> None:
        async with unit:
            if phase == "idle in the pool":
                await unit.session.execute(text("INSERT INTO t VALUES (1)"))
                return
            backend.set_result(await unit.session.scalar(text("SELECT pg_backend_pid()"), {}) or 0)
            table = "slow" if phase == "in COMMIT" else "t"
            await unit.session.execute(text(f"INSERT INTO {table} VALUES (1)"))
            if phase == "in a statement":
                await unit.session.execute(text("SELECT pg_sleep(30)"))
            if phase.startswith("before"):
                await killed.wait()
            if phase == "before a statement":
                await unit.session.execute(text("INSERT INTO t VALUES (2)"))

    if phase == "idle in the pool":
        async with UnitOfWork(database) as uow:
            pid = await uow.session.scalar(text("SELECT pg_backend_pid()")) or 0
        await kill(pid)
        await work()
        return unit.state
    task = asyncio.create_task(work())
    pid = await backend
    doing = {
        "in a statement": "state = 'active' AND query LIKE '%pg_sleep%'",
        "in COMMIT": "state = 'active' AND query LIKE 'COMMIT%'",
    }.get(phase, "state = 'idle in transaction' AND query LIKE 'INSERT%'")
    await until(server, f"{doing} FROM pg_stat_activity WHERE pid = $1", pid)
    await kill(pid)
    killed.set()
    with pytest.raises((CommitOutcomeUnknownError, DBAPIError)):
        await task
    return unit.state


# -- U6 and U7: backends ------------------------------------------------------------------


@pytest.fixture
async def tables(postgres_database: URL) -> URL:
    """URL of a database with the table `t`, and `slow`, which takes long to commit."""
    async with connected(postgres_database) as admin:
        await admin.execute(SLOW_COMMIT)
    return postgres_database


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_unit_says_what_became_of_a_killed_backend(
    tables: URL, driver: str, row: Row, *, full: bool
) -> None:
    """The state is right in every phase of pg_terminate_backend, and the next unit works. U6."""
    times = 20 if full else 2

    async def terminate(pid: int) -> None:
        async with connected(tables) as admin:
            await admin.execute(f"SELECT pg_terminate_backend({pid})")
        await until(tables, "NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid)

    phases = dict(PHASES)
    if driver == "psycopg":  # it says COMMIT without a look at the socket, and cannot know then
        phases["before COMMIT"] = UnitState.OUTCOME_UNKNOWN
    url = tables.set(drivername=f"postgresql+{driver}")
    async with accounted(url, server=tables) as database:
        for phase, expected in phases.items():
            for _ in range(times):
                state = await kill_in_phase(database, tables, phase, terminate)
                assert state is expected, phase
                async with UnitOfWork(database) as uow:
                    await uow.session.execute(text("SELECT 1"))
    row(
        "U6",
        load=f"pg_terminate_backend in {len(PHASES)} phases × {times}, {driver}",
        result=f"states right and the next unit ok {len(PHASES) * times}/{len(PHASES) * times}",
    )


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_no_unit_fails_when_idle_connections_die(
    tables: URL, driver: str, row: Row, *, full: bool
) -> None:
    """Dead connections in the pool are replaced without a failed unit. U7."""
    times, size = (20 if full else 4), 5
    url = tables.set(drivername=f"postgresql+{driver}")

    async def unit(database: Database, together: asyncio.Barrier) -> int:
        async with UnitOfWork(database) as uow:
            pid = await uow.session.scalar(text("SELECT pg_backend_pid()"))
            await together.wait()
            return pid or 0

    async with accounted(url, server=tables, pool_size=size) as database:
        for _ in range(times):
            together = asyncio.Barrier(size)
            pids = await asyncio.gather(*(unit(database, together) for _ in range(size)))
            async with connected(tables) as admin:
                await admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) pid", pids
                )
            await until(
                tables, "NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ANY($1))", pids
            )
        await asyncio.gather(*(unit(database, together) for _ in range(size)))
    row("U7", load=f"{size} idle connections killed {times} ×, {driver}", result="0 failed units")


# -- U8 and U9: servers -------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Run a server of this module's own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
async def private_database(server: PostgresServer) -> AsyncIterator[URL]:
    """URL of a fresh database of the private server."""
    name = f"faults_{time.time_ns()}"
    async with connected(server.url()) as admin:
        await admin.execute(f"CREATE DATABASE {name} STRATEGY file_copy")
    url = server.url(name)
    yield url
    async with connected(server.url()) as admin:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_stopped_server_is_unavailable_and_comes_back(
    server: PostgresServer, private_database: URL, row: Row, *, full: bool
) -> None:
    """A crash ends units as it must; later ones are told so, the first after it works. U8."""
    times = 5 if full else 1
    phases = ["before a statement", "in a statement", "in COMMIT"]

    async def crash(_pid: int) -> None:
        await asyncio.to_thread(server.stop, "immediate")

    async with connected(private_database) as admin:
        await admin.execute(SLOW_COMMIT)
    async with accounted(private_database) as database:
        for phase in phases * times:
            state = await kill_in_phase(database, private_database, phase, crash)
            assert state is PHASES[phase], phase
            for _ in range(3):
                with pytest.raises(DatabaseUnavailableError):
                    async with UnitOfWork(database) as uow:
                        await uow.session.execute(text("SELECT 1"))
            await asyncio.to_thread(server.start)
            async with UnitOfWork(database) as uow:
                await uow.session.execute(text("SELECT 1"))
    row(
        "U8",
        load=f"immediate stop in {len(phases)} phases × {times}",
        result="states right; DatabaseUnavailableError while down; first unit after it ok",
    )


async def test_a_killed_backend_costs_three_seconds_and_nothing_else(
    private_database: URL, row: Row, *, full: bool
) -> None:
    """SIGKILL of a backend, at which the server throws everybody out, loses no money. U9."""
    kills, tasks = (10 if full else 2), 20
    slowest = 0.0
    async with accounted(private_database) as database:
        bank = Bank(database, private_database)
        await bank.open()
        async with bank.at_work(tasks):
            for _ in range(kills):
                await bank.next_acknowledgement()
                async with connected(private_database) as admin:
                    victim = await admin.fetchval(
                        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'accounted%'"
                    )
                os.kill(victim, signal.SIGKILL)
                await asyncio.sleep(0.05)  # the postmaster must hear of it
                slowest = max(slowest, 0.05 + await bank.next_acknowledgement())
        seen = await bank.audit()
    assert slowest <= BACK_LIMIT
    assert bank.errors
    row(
        "U9",
        load=f"SIGKILL of a backend {kills} × under {tasks} tasks",
        result=f"only typed errors; back after at most {slowest:.2f} s; {seen}",
    )


# -- B1 and B3: transfers under faults ----------------------------------------------------


async def test_money_survives_crashes_of_the_server(
    server: PostgresServer, private_database: URL, row: Row, *, full: bool
) -> None:
    """No acknowledged transfer is lost when the server crashes again and again. B3."""
    crashes, tasks = (15 if full else 2), 8
    slowest = 0.0
    async with accounted(private_database) as database:
        bank = Bank(database, private_database)
        await bank.open()
        async with bank.at_work(tasks):
            for _ in range(crashes):
                await bank.next_acknowledgement()
                await asyncio.sleep(random.uniform(0, 0.3))  # load, of any length
                await asyncio.to_thread(server.restart, "immediate")
                slowest = max(slowest, await bank.next_acknowledgement())
        seen = await bank.audit()
    assert slowest <= BACK_LIMIT
    row(
        "B3",
        load=f"{crashes} crashes of the server under {tasks} tasks",
        result=f"{seen}; first acknowledgement at most {slowest:.2f} s after the start",
    )


async def test_money_survives_everything_at_once(
    server: PostgresServer, private_database: URL, row: Row, *, full: bool
) -> None:
    """Mixed faults lose no acknowledged transfer, and the sum is right at every moment. B1."""
    seconds, tasks, faults = (60.0 if full else 3.0), 8, 0
    async with (
        PostgresProxy(server.host, server.port) as proxy,
        accounted(
            proxy.url(private_database), server=private_database, exit_timeout=0.3
        ) as database,
    ):
        bank = Bank(database, private_database)
        await bank.open()

        async def lose_answer() -> None:
            proxy.on_server(b"^COMMIT", proxy.cut)

        async def lose_commit() -> None:
            proxy.on_client(b"^COMMIT", proxy.cut)

        async def hold_answer() -> None:
            proxy.on_server(b"^COMMIT", proxy.hold)

        async def cut_all() -> None:
            proxy.cut()

        async def refuse() -> None:
            proxy.refuse()
            proxy.cut()
            await asyncio.sleep(random.uniform(0, 0.1))
            await proxy.resume()

        async def terminate() -> None:
            async with connected(private_database) as admin:
                await admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name LIKE 'accounted%' ORDER BY random() LIMIT 3"
                )

        async def cancel() -> None:
            random.choice(bank.workers).cancel()

        async def crash() -> None:
            await asyncio.to_thread(server.restart, "immediate")

        mild = [lose_answer, lose_commit, hold_answer, cut_all, refuse, terminate, cancel, cancel]
        end = time.perf_counter() + seconds
        async with bank.at_work(tasks):
            while time.perf_counter() < end:
                await random.choice([*mild * 3, crash])()
                faults += 1
                await asyncio.sleep(random.uniform(0, 0.15))
                await bank.assert_sum()
            proxy.forget()
            proxy.cut()
            await proxy.resume()
            await bank.next_acknowledgement()
        seen = await bank.audit()
        proxy.cut()
    row(
        "B1",
        load=f"{faults} mixed faults in {seconds:.0f} s under {tasks} tasks",
        result=f"{seen}; sum exact at {faults} samples",
    )
