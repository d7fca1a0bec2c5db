"""Messages that are lost on the line: U4, U5, U13 and U20."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import async_sessionmaker
from support.accounting import accounted, connected
from support.proxy import PostgresProxy

from db_manager.database.database import Database
from db_manager.database.open_unit import UnitState
from db_manager.errors import CommitOutcomeUnknownError
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.resolve import resolve
from db_manager.unit.uow import UnitOfWork

pytestmark = pytest.mark.usefixtures("runner")

#: Seconds for an end that nothing answers.
EXIT_TIMEOUT = 1.0
#: A cancelled statement waits for the driver to close the line: SQLAlchemy gives asyncpg 2 s,
#: psycopg gives itself 5 s.
DRIVERS_WAIT = {"asyncpg": 2.5, "psycopg": 5.5}
#: Seconds that a busy machine may take on top.
MARGIN = 0.5
INSERT = text("INSERT INTO t VALUES (:id)")

Row = Callable[..., None]
#: Writes a row in a unit of its own.
Write = Callable[[Database, int], Awaitable[None]]


@pytest.fixture
async def table(postgres_database: URL) -> URL:
    """URL of a database with the empty table `t`, without a key: a double effect is seen in it."""
    async with connected(postgres_database) as admin:
        await admin.execute("CREATE TABLE t (id int)")
    return postgres_database


@pytest.fixture(params=["asyncpg", "psycopg"])
def url(request: pytest.FixtureRequest, table: URL) -> URL:
    """URL of the table, once for each driver."""
    return table.set(drivername=f"postgresql+{request.param}")


@asynccontextmanager
async def behind_proxy(
    url: URL, *, exit_timeout: float = 60, resolvable: bool = False
) -> AsyncIterator[tuple[Database, PostgresProxy]]:
    """Open a database through a proxy; what is held at the end of the block is cut."""
    async with (
        PostgresProxy(url.host or "", url.port or 5432) as proxy,
        accounted(
            proxy.url(url), server=url, exit_timeout=exit_timeout, resolvable=resolvable
        ) as database,
    ):
        async with UnitOfWork(database) as uow:  # SQLAlchemy's first connection asks this and that
            await uow.session.execute(text("SELECT 1"))
        yield database, proxy
        proxy.forget()
        proxy.cut()


async def rows(url: URL) -> Counter[int]:
    """Return how often each id is in the table, asked past the proxy."""
    async with connected(url) as admin:
        return Counter(row["id"] for row in await admin.fetch("SELECT id FROM t"))


# -- U4 -----------------------------------------------------------------------------------


async def test_a_silent_line_ends_a_unit_in_time(url: URL, row: Row) -> None:
    """A black hole at execute, COMMIT, its answer or ROLLBACK costs the exit's deadline. U4."""
    phases = {
        "execute": silent_execute,
        "commit": silent_commit,
        "answer of commit": silent_answer,
        "rollback": silent_rollback,
    }
    driver = url.get_driver_name()
    times = await asyncio.gather(*(phase(url) for phase in phases.values()))
    took = dict(zip(phases, times, strict=True))
    assert took.pop("execute") <= DRIVERS_WAIT[driver] + MARGIN
    assert max(took.values()) <= EXIT_TIMEOUT + 2.5 + MARGIN, took
    row(
        "U4",
        load=f"black hole at execute, COMMIT, its answer, ROLLBACK; {driver}, "
        f"exit_timeout {EXIT_TIMEOUT} s",
        result="returned after " + ", ".join(f"{seconds:.1f}" for seconds in times) + " s",
    )


async def silent_execute(url: URL) -> float:
    """Cancel a statement that the line swallowed; return the seconds that took."""
    async with behind_proxy(url, exit_timeout=EXIT_TIMEOUT) as (database, proxy):
        held = proxy.on_client(b"INSERT", proxy.hold)
        unit = UnitOfWork(database)

        async def insert() -> None:
            async with unit:
                await unit.session.execute(INSERT, {"id": 1})

        task = asyncio.create_task(insert())
        await held.fired.wait()
        started = time.perf_counter()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert unit.state is UnitState.ROLLED_BACK
        return time.perf_counter() - started


async def silent_commit(url: URL) -> float:
    """Lose COMMIT in a black hole; return the seconds of the exit."""
    async with behind_proxy(url, exit_timeout=EXIT_TIMEOUT) as (database, proxy):
        proxy.on_client(b"COMMIT", proxy.hold)
        return await unknown_outcome(database)


async def silent_answer(url: URL) -> float:
    """Lose the answer to COMMIT in a black hole; return the seconds of the exit."""
    async with behind_proxy(url, exit_timeout=EXIT_TIMEOUT) as (database, proxy):
        proxy.on_server(b"COMMIT", proxy.hold)
        return await unknown_outcome(database)


async def unknown_outcome(database: Database) -> float:
    """Run a unit whose outcome nobody can know; return the seconds of its exit."""
    unit = UnitOfWork(database)
    started = time.perf_counter()
    with pytest.raises(CommitOutcomeUnknownError):
        async with unit:
            await unit.session.execute(INSERT, {"id": 1})
            started = time.perf_counter()
    assert unit.state is UnitState.OUTCOME_UNKNOWN
    return time.perf_counter() - started


async def silent_rollback(url: URL) -> float:
    """Lose ROLLBACK in a black hole; return the seconds of the exit."""
    async with behind_proxy(url, exit_timeout=EXIT_TIMEOUT) as (database, proxy):
        proxy.on_client(b"ROLLBACK", proxy.hold)
        return await users_error(database)


async def users_error(database: Database) -> float:
    """Leave a unit with an error; it must arrive as the same object, with a note."""
    unit = UnitOfWork(database)
    mine = ValueError("mine")
    started = time.perf_counter()
    with pytest.raises(ValueError, match="mine") as caught:
        async with unit:
            await unit.session.execute(INSERT, {"id": 1})
            started = time.perf_counter()
            raise mine
    took = time.perf_counter() - started
    assert caught.value is mine
    assert any("rollback failed as well" in note for note in mine.__notes__)
    assert unit.state is UnitState.ROLLED_BACK
    return took


# -- U5 -----------------------------------------------------------------------------------


async def write_in_unit(database: Database, number: int) -> None:
    """Write a row through `run`, which must not try again."""
    calls = 0

    async def work(uow: UnitOfWork) -> None:
        nonlocal calls
        calls += 1
        await uow.session.execute(INSERT, {"id": number})

    try:
        await UnitOfWorkFactory(database).run(work, resolvable=True)
    finally:
        assert calls == 1


async def write_plainly(database: Database, number: int) -> None:
    """Write a row with SQLAlchemy alone, as the unit's wrong variant."""
    async with async_sessionmaker(database.engine).begin() as session:
        await session.execute(INSERT, {"id": number})


async def check_truth(url: URL, write: Write, times: int) -> str:
    """Lose COMMITs and answers to COMMIT; the error must lead to the truth each time."""
    async with behind_proxy(url) as (database, proxy):
        for number in range(2 * times):
            if answered := number % 2:
                lost = proxy.on_server(b"COMMIT", proxy.cut)
            else:
                lost = proxy.on_client(b"COMMIT", proxy.cut)
            try:
                await write(database, number)
            except CommitOutcomeUnknownError as error:
                assert lost.fired.is_set()
                truth = await resolve(database.engine, error)
                assert truth == ("committed" if answered else "rolled_back")
            except DBAPIError as error:
                raise AssertionError("the error does not say what is known") from error
    assert await rows(url) == Counter(range(1, 2 * times, 2))
    return (
        f"{2 * times} CommitOutcomeUnknownError, resolved right {2 * times}/{2 * times}, 0 retried"
    )


async def test_a_lost_commit_is_told_from_a_lost_answer(url: URL, row: Row, *, full: bool) -> None:
    """Both are an unknown outcome; resolve() tells which, and run() tries neither again. U5."""
    times = 50 if full else 5
    seen = await check_truth(url, write_in_unit, times)
    row(
        "U5", load=f"COMMIT and its answer cut {times} × each, {url.get_driver_name()}", result=seen
    )


async def test_plain_sessions_do_not_tell_them_apart(table: URL) -> None:
    """The check of U5 rejects `async_sessionmaker.begin()`."""
    with pytest.raises(AssertionError, match="does not say"):
        await check_truth(table, write_plainly, 1)


# -- U13 ----------------------------------------------------------------------------------


async def lost_rollback(url: URL) -> None:
    """Cut the line before ROLLBACK reaches the server."""
    async with behind_proxy(url) as (database, proxy):
        proxy.on_client(b"ROLLBACK", proxy.cut)
        await users_error(database)


async def lost_answer_of_rollback(url: URL) -> None:
    """Cut the line before the answer to ROLLBACK arrives."""
    async with behind_proxy(url) as (database, proxy):
        proxy.on_server(b"ROLLBACK", proxy.cut)
        await users_error(database)


async def finished_line(url: URL) -> None:
    """Close the line instead of passing ROLLBACK on."""
    async with behind_proxy(url) as (database, proxy):
        proxy.on_client(b"ROLLBACK", proxy.finish)
        await users_error(database)


@pytest.mark.parametrize(
    "failure", [lost_rollback, lost_answer_of_rollback, finished_line, silent_rollback]
)
async def test_a_failed_rollback_does_not_hide_the_error(
    url: URL, row: Row, failure: Callable[[URL], Awaitable[object]]
) -> None:
    """The block's own exception arrives, the same object, with a note on the rollback. U13."""
    await failure(url)
    assert not await rows(url)
    kind = failure.__name__.replace("_", " ")
    row(
        "U13",
        load=f"{kind}, {url.get_driver_name()}",
        result="the same exception object, with a note",
    )


# -- U20 ----------------------------------------------------------------------------------

#: Every message of a unit at which the line may be cut: side and statement or its answer.
PHASES = [
    *(("client", statement) for statement in (b"BEGIN", b"INSERT", b"COMMIT")),
    *(("server", answer) for answer in (b"BEGIN", b"INSERT", b"COMMIT")),
]

#: Decides after an unknown outcome whether the work is to be done again.
Again = Callable[[Database, CommitOutcomeUnknownError], Awaitable[bool]]


async def ask_first(database: Database, error: CommitOutcomeUnknownError) -> bool:
    """Do it again only when the server says that it rolled back."""
    return await resolve(database.engine, error) == "rolled_back"


async def blindly(_database: Database, _error: CommitOutcomeUnknownError) -> bool:
    """Do it again in any case, as the wrong variant."""
    return True


async def check_once(url: URL, again: Again, units: int) -> None:
    """Cut the line in every phase of retried units; each key's effect must be there once."""
    async with behind_proxy(url, resolvable=True) as (database, proxy):
        factory = UnitOfWorkFactory(database)
        for key, (side, message) in zip(range(units), itertools.cycle(PHASES)):
            (proxy.on_client if side == "client" else proxy.on_server)(message, proxy.cut)

            async def work(uow: UnitOfWork, key: int = key) -> None:
                await uow.session.execute(INSERT, {"id": key})

            while True:
                try:
                    await factory.run(work)
                except CommitOutcomeUnknownError as error:
                    if await again(database, error):
                        continue
                break
            proxy.forget()
    assert await rows(url) == Counter(range(units))


async def test_a_retried_unit_has_its_effect_once(url: URL, row: Row, *, full: bool) -> None:
    """A line cut in any phase neither loses nor doubles the effect of a key. U20."""
    units = 500 if full else 5 * len(PHASES)
    await check_once(url, ask_first, units)
    row(
        "U20",
        load=f"{units} units, line cut in each of {len(PHASES)} phases, {url.get_driver_name()}",
        result=f"{units} effects, each once",
    )


async def test_a_blind_retry_doubles_effects(table: URL) -> None:
    """The check of U20 rejects a retry after an unknown outcome."""
    with pytest.raises(AssertionError):
        await check_once(table, blindly, len(PHASES))
