"""PgBouncer in transaction mode gives each transaction another connection: U22."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import count

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from support.accounting import accounted, connected
from support.pgbouncer import PgBouncer, pgbouncer_program

from db_manager.database.database import Database
from db_manager.unit.uow import UnitOfWork

pytestmark = pytest.mark.usefixtures("runner")

TASKS = 12
VICTIM = text("SELECT 'victim'")

Row = Callable[..., None]


@pytest.fixture
async def pooled(postgres_database: URL) -> AsyncIterator[URL]:
    """URL of a database with the table `t`, through a PgBouncer with two connections to it."""
    program = pgbouncer_program()
    async with connected(postgres_database) as admin:
        await admin.execute("CREATE TABLE t (id int PRIMARY KEY, note text)")
    with PgBouncer(program, postgres_database) as bouncer:
        yield bouncer.url(postgres_database)


async def run_units(database: Database, units: int) -> list[str]:
    """Run units in twelve tasks; return the errors."""
    numbers, errors = count(1), list[str]()

    async def work() -> None:
        while (number := next(numbers)) <= units:
            values = {"id": number, "note": str(number)}
            try:
                async with UnitOfWork(database) as uow:
                    await uow.session.execute(text("INSERT INTO t VALUES (:id, :note)"), values)
                    found = text("SELECT note FROM t WHERE id = :id")
                    assert await uow.session.scalar(found, {"id": number}) == str(number)
            except DBAPIError as error:
                errors.append(type(error).__name__)

    await asyncio.gather(*(work() for _ in range(TASKS)))
    return errors


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_units_work_through_pgbouncer(
    pooled: URL, postgres_database: URL, driver: str, row: Row, *, full: bool
) -> None:
    """With `pgbouncer = true` no unit fails in transaction mode. U22."""
    units = 1200 if full else 240
    url = pooled.set(drivername=f"postgresql+{driver}")
    async with accounted(
        url, server=postgres_database, pgbouncer=True, pool_size=TASKS
    ) as database:
        assert await run_units(database, units) == []
    async with connected(postgres_database) as admin:
        assert await admin.fetchval("SELECT count(*) FROM t") == units
    row(
        "U22",
        load=f"PgBouncer, transaction mode, 2 connections, {TASKS} tasks, {units} units, {driver}",
        result="0 errors",
    )


async def test_units_fail_through_pgbouncer_without_the_setting(
    pooled: URL, postgres_database: URL
) -> None:
    """Without the setting the same units fail: the check of U22 can."""
    plain = {
        "statement_cache_size": 100,
        "prepared_statement_cache_size": 100,
        "prepared_statement_name_func": None,
    }
    async with accounted(
        pooled,
        server=postgres_database,
        pgbouncer=True,
        pool_size=TASKS,
        check=False,
        connect_args=plain,
    ) as database:
        connect = database.engine.connect
        async with connect() as victim, connect() as first, connect() as second:
            await first.execute(text("SELECT 'first'"))  # has one of the two servers
            assert await victim.scalar(VICTIM) == "victim"  # is prepared on the other one
            await victim.commit()
            await second.execute(text("SELECT 'second'"))  # takes that
            await first.commit()  # so that the victim gets the first one now
            try:
                answer = await victim.scalar(VICTIM)
            except DBAPIError:
                answer = "prepared statement does not exist"
            assert answer != "victim"
