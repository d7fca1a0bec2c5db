"""The state of a cancelled unit is the truth: U1, U2 and U3."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import Mapped, mapped_column
from support.accounting import accounted, connected
from support.suspension import cancel_everywhere

from db_manager.base import Base
from db_manager.database.database import Database
from db_manager.database.open_unit import UnitState
from db_manager.unit.uow import UnitOfWork

pytestmark = pytest.mark.usefixtures("runner")

Row = Callable[..., None]
#: Writes the row with the key inside of the unit.
Lane = Callable[[UnitOfWork, int], Awaitable[object]]


class Written(Base):
    """A row that is there, or not."""

    __tablename__ = "cancelled__written"

    id: Mapped[int] = mapped_column(primary_key=True)


INSERT = text("INSERT INTO cancelled__written VALUES (:id)")


async def by_session(uow: UnitOfWork, key: int) -> object:
    """Write by a statement and by a flush."""
    await uow.session.execute(INSERT, {"id": -key})
    uow.session.add(Written(id=key))
    await uow.session.flush()
    return None


async def by_core(uow: UnitOfWork, key: int) -> object:
    """Write by SQLAlchemy Core."""
    return await uow.connection.execute(INSERT, {"id": key})


async def by_driver(uow: UnitOfWork, key: int) -> object:
    """Write by the driver's own connection."""
    driver = await uow.driver()
    return await driver.execute(f"INSERT INTO cancelled__written VALUES ({key})")


LANES = {"session": by_session, "core": by_core, "driver": by_driver}


async def make_table(database: Database) -> None:
    """Create the table."""
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.tables[Written.__tablename__].create)


async def keys(database: Database) -> set[int]:
    """Return the positive keys in the table."""
    async with UnitOfWork(database) as uow:
        found = await uow.session.scalars(text("SELECT id FROM cancelled__written WHERE id > 0"))
        return set(found.all())


@pytest.fixture(params=["asyncpg", "psycopg", "aiosqlite"])
def url(request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own, for each driver."""
    if request.param == "aiosqlite":
        file: URL = request.getfixturevalue("sqlite_database")
        return file
    server: URL = request.getfixturevalue("postgres_database")
    return server.set(drivername=f"postgresql+{request.param}")


@pytest.mark.parametrize("times", [1, 2, None], ids=["once", "twice", "for ever"])
@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
async def test_cancelled_at_every_suspension(
    url: URL, times: int | None, late: bool, row: Row
) -> None:
    """U1: wherever a unit is cancelled, it raises CancelledError, and its state says the truth."""
    async with accounted(url) as database:
        await make_table(database)
        committed: set[int] = set()
        points = 0

        async def run(k: int) -> None:
            unit = UnitOfWork(database)
            try:
                async with unit:
                    await by_session(unit, k)
            finally:
                assert unit.state in {UnitState.COMMITTED, UnitState.ROLLED_BACK, UnitState.NEW}
                if unit.state is UnitState.COMMITTED:
                    committed.add(k)

        async for outcome in cancel_everywhere(run, times=times, late=late):
            points += 1
            assert isinstance(outcome.error, asyncio.CancelledError), outcome
        assert await keys(database) == committed
        assert points > 0
    often = {1: "once", 2: "twice", None: "for ever"}[times]
    row(
        "U1",
        load=f"{url.get_driver_name()}: cancelled {often} at each of {points} points, late={late}",
        result=f"CancelledError each time; {len(committed)} committed = rows",
    )


async def cancel_at_random(
    write: Callable[[int], Awaitable[bool]], units: int
) -> tuple[set[int], set[int]]:
    """Cancel units 0 to 30 ms after their begin.

    Args:
        write: Writes a row in a unit; returns whether it says that it is committed.
        units: How many, five at a time.

    Returns:
        The keys of those that returned, and of those that said that they are committed.
    """
    returned: set[int] = set()
    said: set[int] = set()

    async def unit(key: int) -> None:
        if await write(key):
            said.add(key)

    async def cancelled(key: int) -> None:
        task = asyncio.create_task(unit(key))
        await asyncio.wait({task}, timeout=random.uniform(0, 0.03))
        for _ in range(random.choice([1, 1, 2])):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()  # nothing but a cancellation may come out
            returned.add(key)

    for first in range(1, units, 5):
        await asyncio.gather(*(cancelled(first + number) for number in range(5)))
    return returned, said


async def check_random_cancellation(url: URL, lane: Lane, units: int, row: Row) -> None:
    """Cancel units that write through *lane*, and compare what they say with what is there."""
    told: dict[int, UnitState] = {}
    async with accounted(url, pool_size=5) as database:
        await make_table(database)

        async def write(key: int) -> bool:
            unit = UnitOfWork(database)
            try:
                async with unit:
                    await lane(unit, key)
            finally:
                told[key] = unit.state
            return True

        returned, _ = await cancel_at_random(write, units)
        there = await keys(database)
    committed = {key for key, state in told.items() if state is UnitState.COMMITTED}
    assert committed == there
    assert returned <= there
    assert set(told.values()) <= {UnitState.COMMITTED, UnitState.ROLLED_BACK, UnitState.NEW}
    row(
        "U2",
        load=f"{url.get_backend_name()}, {lane.__name__}: {units} units cancelled within 30 ms",
        result=f"committed {len(committed)} = rows {len(there)}, "
        f"{len(committed - returned)} of them told 'cancelled'; acknowledged and lost 0",
    )


async def by_cursor(uow: UnitOfWork, key: int) -> object:
    """Write by the driver's own cursor, where the connection itself executes nothing."""
    async with (await uow.driver()).cursor() as cursor:
        return await cursor.execute(f"INSERT INTO cancelled__written VALUES ({key})")


async def test_cancelled_at_random_on_mariadb(mariadb_database: URL, full: bool, row: Row) -> None:
    """U2: on MariaDB, too, units say `committed` exactly for the rows that are there."""
    for write in (by_session, by_core, by_cursor):
        await check_random_cancellation(mariadb_database, write, 1000 if full else 150, row)
        async with accounted(mariadb_database) as database, UnitOfWork(database) as uow:
            await uow.session.execute(text("DROP TABLE cancelled__written"))


@pytest.mark.parametrize("lane", LANES)
async def test_cancelled_at_random(database_url: URL, lane: str, full: bool, row: Row) -> None:
    """U2: units say `committed` exactly for the rows that are there; none that returned is lost."""
    await check_random_cancellation(database_url, LANES[lane], 5000 if full else 300, row)


async def test_plain_begin_does_not_tell_the_truth(postgres_database: URL, full: bool) -> None:
    """U2, the wrong way: rows of plain begin() are there although it raised CancelledError."""
    async with accounted(postgres_database, pool_size=5) as database:
        await make_table(database)
        maker = async_sessionmaker(database.engine)

        async def write(key: int) -> bool:
            async with maker.begin() as session:
                await session.execute(INSERT, {"id": key})
            return True

        _, said = await cancel_at_random(write, 2000 if full else 500)
        there = await keys(database)
    with pytest.raises(AssertionError):
        assert said == there


async def test_a_lock_is_free_soon_after_a_double_cancellation(
    postgres_database: URL, row: Row
) -> None:
    """U3: a unit cancelled twice in a long statement leaves its row lock within 1.5 s."""
    async with accounted(postgres_database) as database:
        await make_table(database)
        async with UnitOfWork(database) as uow:
            await by_core(uow, 1)
        locked = asyncio.Event()

        async def hold() -> None:
            async with UnitOfWork(database) as uow:
                await uow.session.execute(text("SELECT 1 FROM cancelled__written FOR UPDATE"))
                locked.set()
                await uow.session.execute(text("SELECT pg_sleep(14)"))

        task = asyncio.create_task(hold())
        await locked.wait()
        await wait_until_asleep(postgres_database)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        begun = time.perf_counter()
        async with connected(postgres_database) as connection:
            await connection.execute("SET lock_timeout = '5s'")
            await connection.execute("SELECT 1 FROM cancelled__written FOR UPDATE")
        seconds = time.perf_counter() - begun
    assert task.cancelled()
    assert seconds <= 1.5
    row("U3", load="cancelled twice in a 14 s statement", result=f"lock free after {seconds:.2f} s")


async def wait_until_asleep(url: URL) -> None:
    """Return when the long statement runs at the server."""
    async with connected(url) as connection:
        asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        while not await connection.fetchval(asleep):  # noqa: ASYNC110 -- the server has no event
            await asyncio.sleep(0.01)
