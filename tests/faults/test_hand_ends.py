"""Whoever ends the transaction of a unit by hand is refused, or told; the state never lies: U23."""

import contextlib
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sqlalchemy import Integer, String, text
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Mapped, close_all_sessions, mapped_column
from support.accounting import accounted
from support.ends import BEFORE, Rows

from db_manager.base import Base
from db_manager.database.database import Database
from db_manager.database.open_unit import UnitState
from db_manager.errors import UnitOfWorkStateError
from db_manager.unit.uow import UnitOfWork

pytestmark = pytest.mark.usefixtures("runner")

Row = Callable[..., None]

ROWS = Rows("hand_ends__row")


class Kept(Base):
    """A row that is there or not."""

    __tablename__ = "hand_ends__row"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(20), server_default="")


@contextlib.asynccontextmanager
async def with_table(url: URL) -> AsyncIterator[Database]:
    """Open a database with one connection and an empty table."""
    async with accounted(url, pool_size=1, max_overflow=0, pool_timeout=2) as database:
        await make_table(database.engine)
        yield database


async def make_table(engine: AsyncEngine) -> None:
    """Make the table."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.tables[Kept.__tablename__].create)


async def says(driver: Any, sql: str) -> None:
    """Let a driver's connection execute *sql*, whichever driver it is."""
    if hasattr(driver, "server_status"):
        async with driver.cursor() as cursor:
            await cursor.execute(sql)
    else:
        await driver.execute(sql)


# -- ways to end it by hand ----------------------------------------------------------------------


async def _connection_commit(uow: UnitOfWork) -> None:
    await (await uow.session.connection()).commit()


async def _connection_rollback(uow: UnitOfWork) -> None:
    await (await uow.session.connection()).rollback()


async def _connection_close(uow: UnitOfWork) -> None:
    await (await uow.session.connection()).close()


async def _connection_invalidate(uow: UnitOfWork) -> None:
    await (await uow.session.connection()).invalidate()


async def _core_transaction_commit(uow: UnitOfWork) -> None:
    transaction: Any = uow.connection.get_transaction()
    await transaction.commit()


async def _core_transaction_rollback(uow: UnitOfWork) -> None:
    transaction: Any = uow.connection.get_transaction()
    await transaction.rollback()


async def _session_transaction_commit(uow: UnitOfWork) -> None:
    uow.session.add(Kept(id=90))
    await uow.session.flush()
    transaction: Any = uow.session.get_transaction()
    await transaction.commit()


async def _session_transaction_rollback(uow: UnitOfWork) -> None:
    uow.session.add(Kept(id=91))
    await uow.session.flush()
    transaction: Any = uow.session.get_transaction()
    await transaction.rollback()


async def _sync_commit(uow: UnitOfWork) -> None:
    await uow.session.run_sync(lambda session: session.connection().commit())


async def _sync_rollback(uow: UnitOfWork) -> None:
    await uow.session.run_sync(lambda session: session.connection().rollback())


async def _sync_close(uow: UnitOfWork) -> None:
    await uow.connection.run_sync(lambda connection: connection.close())


async def _sync_detach(uow: UnitOfWork) -> None:
    if uow.connection.dialect.driver != "psycopg":  # which SQLAlchemy leaves open for good then
        await uow.connection.run_sync(lambda connection: connection.detach())


async def _sync_invalidate(uow: UnitOfWork) -> None:
    await uow.connection.run_sync(lambda connection: connection.invalidate())


async def _adapter_commit(uow: UnitOfWork) -> None:
    await uow.connection.run_sync(lambda connection: connection.connection.commit())


async def _adapter_rollback(uow: UnitOfWork) -> None:
    await uow.connection.run_sync(lambda connection: connection.connection.rollback())


async def _dialect_autocommit(uow: UnitOfWork) -> None:
    def switch(connection: Connection) -> None:
        pooled = connection.connection
        assert pooled.dbapi_connection is not None
        connection.dialect.set_isolation_level(pooled.dbapi_connection, "AUTOCOMMIT")

    await uow.connection.run_sync(switch)


async def _adapter_invalidate(uow: UnitOfWork) -> None:
    await uow.connection.run_sync(lambda connection: connection.connection.invalidate())


async def _dialect_commit(uow: UnitOfWork) -> None:
    await uow.connection.run_sync(lambda c: c.dialect.do_commit(c.connection))


async def _dialect_rollback(uow: UnitOfWork) -> None:
    await uow.connection.run_sync(lambda c: c.dialect.do_rollback(c.connection))


async def _text_commit(uow: UnitOfWork) -> None:
    await uow.session.execute(text("COMMIT"))


async def _text_rollback(uow: UnitOfWork) -> None:
    await uow.session.execute(text(" rollback ;"))


async def _core_text_commit(uow: UnitOfWork) -> None:
    await uow.connection.execute(text("commit work"))


async def _commented_commit(uow: UnitOfWork) -> None:
    await uow.connection.execute(text("/* done */ COMMIT"))


async def _commented_rollback(uow: UnitOfWork) -> None:
    await uow.session.execute(text("/* no */ ROLLBACK"))


async def _driver_sql_commit(uow: UnitOfWork) -> None:
    await uow.connection.exec_driver_sql("COMMIT")


async def _driver_sql_rollback(uow: UnitOfWork) -> None:
    await uow.connection.exec_driver_sql("ROLLBACK")


async def _driver_commit(uow: UnitOfWork) -> None:
    await says(await uow.driver(), "COMMIT")


async def _driver_rollback(uow: UnitOfWork) -> None:
    await says(await uow.driver(), "ROLLBACK")


async def _driver_commit_and_begin(uow: UnitOfWork) -> None:
    driver = await uow.driver()
    await says(driver, "COMMIT")
    await says(driver, "BEGIN")


async def _driver_rollback_and_begin(uow: UnitOfWork) -> None:
    driver = await uow.driver()
    await says(driver, "ROLLBACK")
    await says(driver, "BEGIN")


async def _driver_method_commit(uow: UnitOfWork) -> None:
    driver = await uow.driver()
    await (driver.commit() if hasattr(driver, "commit") else driver.execute("COMMIT"))


async def _driver_method_rollback(uow: UnitOfWork) -> None:
    driver = await uow.driver()
    await (driver.rollback() if hasattr(driver, "rollback") else driver.execute("ROLLBACK"))


async def _driver_script(uow: UnitOfWork) -> None:
    driver = await uow.driver()
    if hasattr(driver, "executescript"):
        await driver.executescript("SELECT 1")
    else:
        await says(driver, "COMMIT")


async def _autocommit(uow: UnitOfWork) -> None:
    await uow.connection.execution_options(isolation_level="AUTOCOMMIT")


async def _session_autocommit(uow: UnitOfWork) -> None:
    await uow.session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})


async def _sync_autocommit(uow: UnitOfWork) -> None:
    await uow.connection.run_sync(
        lambda connection: connection.execution_options(isolation_level="AUTOCOMMIT")
    )


async def _two_phases(uow: UnitOfWork) -> None:
    await uow.connection.run_sync(lambda connection: connection.begin_twophase())


async def _session_invalidate(uow: UnitOfWork) -> None:
    await uow.session.invalidate()


async def _sync_session_invalidate(uow: UnitOfWork) -> None:
    await uow.session.run_sync(lambda session: session.invalidate())


async def _session_reset(uow: UnitOfWork) -> None:
    await uow.session.reset()


async def _close_all_sessions(uow: UnitOfWork) -> None:
    await uow.session.run_sync(lambda _session: close_all_sessions())


WAYS = [
    way
    for name, way in sorted(globals().items())
    if name.startswith("_") and inspect.iscoroutinefunction(way)
]


@pytest.mark.parametrize("first", [True, False], ids=["after a row", "at once"])
@pytest.mark.parametrize("swallow", [True, False], ids=["swallowed", "raised"])
@pytest.mark.parametrize("fail", [True, False], ids=["block fails", "block ends"])
async def test_the_state_is_the_truth(
    url: URL, first: bool, swallow: bool, fail: bool, row: Row
) -> None:
    """U23: whatever ends the transaction by hand, the state fits the rows, and the next is well."""
    states: dict[UnitState, int] = dict.fromkeys(UnitState, 0)
    lies: list[str] = []
    async with with_table(url) as database:
        for way in WAYS:
            unit, lie = await ROWS.play(database, way, first=first, swallow=swallow, fail=fail)
            lies += [f"{way.__name__}: {lie}"] if lie else []
            await ROWS.clear(database)
            states[unit.state] += 1
    assert lies == []
    counted = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    row(
        "U23",
        load=f"{url.drivername}: {len(WAYS)} ends by hand, "
        f"{'after a row' if first else 'at once'}, "
        f"{'swallowed' if swallow else 'raised'}, block {'fails' if fail else 'ends'}",
        result=f"{counted}; each fits its rows, each next unit is well",
    )


async def test_who_fails_at_the_end_is_told_of_an_end_by_hand(url: URL, row: Row) -> None:
    """U23: the error of a flush at the end says as well that the transaction was ended before."""
    async with with_table(url) as database:
        unit = UnitOfWork(database)
        with pytest.raises(DBAPIError) as raised:
            async with unit:
                await ROWS.write(unit, BEFORE)
                await says(await unit.driver(), "COMMIT")
                unit.session.add(Kept(id=BEFORE))
        assert unit.state is UnitState.OUTCOME_UNKNOWN
        assert "ended the transaction" in str(raised.value.__notes__)
        assert BEFORE in await ROWS.ids(database)
    row("U23", load=f"{url.drivername}: COMMIT by hand, then the flush fails", result="noted on it")


@pytest.mark.parametrize("fail", [True, False], ids=["block fails", "block ends"])
async def test_the_state_is_the_truth_on_an_engine_of_ones_own(
    url: URL, fail: bool, row: Row
) -> None:
    """U23: also on the stock connections of SQLAlchemy, for whatever goes through SQLAlchemy."""
    lies: list[str] = []
    engine = create_async_engine(url, pool_size=1, max_overflow=0)
    await make_table(engine)
    database = Database(engine)
    bare = [way for way in WAYS if way.__name__.startswith(("_driver_", "_adapter_", "_commented"))]
    ways = [way for way in WAYS if way not in bare]
    for way in ways:
        _, lie = await ROWS.play(database, way, first=True, swallow=True, fail=fail)
        lies += [f"{way.__name__}: {lie}"] if lie else []
        await ROWS.clear(database)
    await database.dispose()
    assert lies == []
    row(
        "U23",
        load=f"{url.drivername}, an engine of one's own: {len(ways)} ends by hand, "
        f"block {'fails' if fail else 'ends'}",
        result="each state fits its rows, each next unit is well",
    )


async def test_an_engine_in_autocommit_is_refused(url: URL, row: Row) -> None:
    """U23: an engine whose statements commit themselves gets no unit that could lie about it."""
    engine = create_async_engine(url, pool_size=1, max_overflow=0)
    await make_table(engine)
    for commits_itself in (
        engine.execution_options(isolation_level="AUTOCOMMIT"),
        create_async_engine(url, isolation_level="AUTOCOMMIT"),
    ):
        unit = UnitOfWork(commits_itself)
        with pytest.raises(UnitOfWorkStateError, match="AUTOCOMMIT"):
            async with unit:
                await ROWS.write(unit, BEFORE)
        assert unit.state is UnitState.ROLLED_BACK
        await commits_itself.dispose()
    async with engine.connect() as connection:
        assert (await connection.scalars(text("SELECT id FROM hand_ends__row"))).all() == []
    await engine.dispose()
    row("U23", load=f"{url.drivername}: an engine in AUTOCOMMIT", result="refused, 0 rows")


@pytest.mark.filterwarnings("ignore:transaction already deassociated")
async def test_a_plain_session_says_nothing_of_it(url: URL) -> None:
    """U23, the wrong way: plain begin() raises the block's error, and the rows are there."""
    engine = create_async_engine(url)
    await make_table(engine)
    with pytest.raises(ZeroDivisionError):
        async with async_sessionmaker(engine).begin() as session:
            await session.execute(text(f"INSERT INTO hand_ends__row VALUES ({BEFORE}, '')"))
            await (await session.connection()).commit()
            raise ZeroDivisionError
    async with engine.connect() as connection:
        assert (await connection.scalars(text("SELECT id FROM hand_ends__row"))).all() == [BEFORE]
    await engine.dispose()
