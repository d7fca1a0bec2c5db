"""A block that swallowed an error never commits the rest in silence, on any database: U14."""

from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from sqlalchemy import Integer, String, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Mapped, mapped_column
from support.accounting import accounted

from db_manager.base import Base
from db_manager.database.database import Database
from db_manager.database.open_unit import UnitState
from db_manager.errors import CommitOutcomeUnknownError, TransactionAbortedError
from db_manager.unit.uow import UnitOfWork

pytestmark = pytest.mark.usefixtures("runner")

Row = Callable[..., None]
Block = Callable[[UnitOfWork], Awaitable[None]]


class Swallowed(Base):
    """A row with a unique name."""

    __tablename__ = "swallowed__row"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(20), unique=True)


INSERT = text("INSERT INTO swallowed__row VALUES (:id, :name)")
FIRST, TWIN = {"id": 1, "name": "one"}, {"id": 1, "name": "two"}


async def by_core(uow: UnitOfWork) -> None:
    """Swallow the error of a statement."""
    await uow.connection.execute(INSERT, FIRST)
    with suppress(DBAPIError):
        await uow.connection.execute(INSERT, TWIN)


async def by_flush(uow: UnitOfWork) -> None:
    """Swallow the error of a flush."""
    await uow.session.execute(INSERT, FIRST)
    uow.session.add(Swallowed(**TWIN))
    with suppress(DBAPIError):
        await uow.session.flush()


async def nested(uow: UnitOfWork) -> None:
    """Swallow it inside of a part that goes on."""
    await uow.session.execute(INSERT, FIRST)
    async with uow.savepoint():
        await uow.session.execute(INSERT, {"id": 2, "name": "three"})
        with suppress(DBAPIError):
            await uow.session.execute(INSERT, TWIN)


async def make_table(database: Database) -> None:
    """Create the table."""
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.tables[Swallowed.__tablename__].create)


async def names(database: Database) -> set[str]:
    """Return what is written."""
    async with UnitOfWork(database) as uow:
        return set((await uow.session.scalars(text("SELECT name FROM swallowed__row"))).all())


@pytest.mark.parametrize("block", [by_core, by_flush, nested], ids=lambda block: block.__name__)
async def test_nothing_is_written(url: URL, block: Block, row: Row) -> None:
    """U14: the unit raises TransactionAbortedError with the cause, and nothing of it is written."""
    async with accounted(url) as database:
        await make_table(database)
        unit = UnitOfWork(database)
        with pytest.raises(TransactionAbortedError) as caught:
            async with unit:
                await block(unit)
        assert isinstance(caught.value.__cause__, DBAPIError)
        assert unit.state is UnitState.ROLLED_BACK
        assert await names(database) == set()
    row("U14", load=f"{url.drivername}: swallowed, {block.__name__}", result="aborted, 0 rows")


async def test_a_savepoint_lets_the_rest_commit(url: URL, row: Row) -> None:
    """U14: an error that undid its savepoint does not harm the unit."""
    async with accounted(url) as database:
        await make_table(database)
        async with UnitOfWork(database) as uow:
            await uow.session.execute(INSERT, FIRST)
            with suppress(DBAPIError):
                async with uow.savepoint():
                    await uow.session.execute(INSERT, TWIN)
        assert await names(database) == {"one"}
    row("U14", load=f"{url.drivername}: failed in a savepoint", result="the rest is committed")


async def test_a_closed_connection_is_not_committed(url: URL, row: Row) -> None:
    """U14: a unit whose connection was closed under it says so, and the next unit is well."""
    async with accounted(url, pool_size=1) as database:
        await make_table(database)
        unit = UnitOfWork(database)
        with pytest.raises((DBAPIError, CommitOutcomeUnknownError)):
            async with unit:
                await unit.session.execute(INSERT, FIRST)
                raw = await (await unit.session.connection()).get_raw_connection()
                driver: Any = raw.driver_connection
                if (closing := driver.close()) is not None:  # asyncmy does not wait
                    await closing
        # psycopg's error does not tell whether it had sent COMMIT.
        assert unit.state in {UnitState.ROLLED_BACK, UnitState.OUTCOME_UNKNOWN}
        assert await names(database) == set()
    row("U14", load=f"{url.drivername}: connection closed", result=f"{unit.state}, 0 rows")


async def test_plain_begin_loses_the_rest_in_silence(postgres_database: URL) -> None:
    """U14, the wrong way: plain begin() returns as if all were well, and the row is not there."""
    async with accounted(postgres_database) as database:
        await make_table(database)
        plain = create_async_engine(postgres_database)  # ours would notice
        async with async_sessionmaker(plain).begin() as session:
            await session.execute(INSERT, FIRST)
            with suppress(SQLAlchemyError):
                await session.execute(INSERT, TWIN)
        await plain.dispose()
        with pytest.raises(AssertionError):
            assert await names(database) == {"one"}


async def halve(uow: UnitOfWork) -> None:
    """Send many rows at the bare driver of PostgreSQL, of which the last cannot be sent."""
    driver: Any = await uow.driver()
    many = [(number, str(number)) for number in range(10, 40_000)]
    if hasattr(driver, "is_in_transaction"):
        sql = "INSERT INTO swallowed__row VALUES ($1, $2)"
        await driver.executemany(sql, [*many, (object(), "")])
    else:
        sql = "INSERT INTO swallowed__row VALUES (%s, %s)"
        await driver.cursor().executemany(sql, [*many[:9], (object(), "")])


async def misspell(uow: UnitOfWork) -> None:
    """Give a value that cannot be sent to the bare driver of PostgreSQL."""
    driver: Any = await uow.driver()
    sign = "$1" if hasattr(driver, "is_in_transaction") else "%s"
    values = [object()] if sign == "$1" else [[object()]]
    await driver.execute(f"INSERT INTO swallowed__row VALUES ({sign}, 'one')", *values)


@pytest.mark.parametrize("block", [halve, misspell], ids=lambda block: block.__name__)
@pytest.mark.parametrize("safe", [True, False], ids=["in a savepoint", "in no savepoint"])
@pytest.mark.parametrize("url", ["asyncpg", "psycopg"], indirect=True)
async def test_what_failed_at_the_client_counts_as_well(
    url: URL, block: Block, safe: bool, row: Row
) -> None:
    """U14: the server is told of it, so that nothing is committed, or all but the savepoint."""
    async with accounted(url) as database:
        await make_table(database)
        unit = UnitOfWork(database)
        with suppress(TransactionAbortedError):
            async with unit:
                await unit.session.execute(INSERT, FIRST)
                with suppress(Exception):
                    async with unit.savepoint() if safe else nullcontext():
                        await block(unit)
        assert unit.state is (UnitState.COMMITTED if safe else UnitState.ROLLED_BACK)
        assert await names(database) == ({"one"} if safe else set())
    row("U14", load=f"{url.drivername}: {block.__name__} swallowed", result=unit.state)
