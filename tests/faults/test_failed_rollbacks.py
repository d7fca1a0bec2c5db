"""The error of a block reaches the caller, whatever becomes of the ROLLBACK: U13."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from support.accounting import accounted, connected

from db_manager.database.database import Database
from db_manager.database.open_unit import UnitState
from db_manager.unit.uow import UnitOfWork

pytestmark = pytest.mark.usefixtures("runner")

Row = Callable[..., None]
#: Sees to it that the ROLLBACK of the session's transaction fails.
Spoil = Callable[[Database, AsyncSession, URL], Awaitable[None]]
#: Inserts a row, spoils the ROLLBACK, then raises the error inside of a transaction.
Write = Callable[[Database, Spoil, URL, BaseException], Awaitable[None]]

INSERT = text("INSERT INTO t VALUES (1)")


async def driver_of(session: AsyncSession) -> Any:
    """Return the driver's own connection."""
    connection = await session.connection()
    return (await connection.get_raw_connection()).driver_connection


async def backend_terminated(_database: Database, session: AsyncSession, url: URL) -> None:
    """End the server's side of the connection."""
    pid = await session.scalar(text("SELECT pg_backend_pid()"))
    async with connected(url) as admin:
        assert await admin.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)


async def connection_closed(_database: Database, session: AsyncSession, _url: URL) -> None:
    """Close our side of the connection."""
    driver = await driver_of(session)
    await driver.close()


async def listener_raises(database: Database, _session: AsyncSession, _url: URL) -> None:
    """Let a listener of SQLAlchemy's raise once instead of letting ROLLBACK pass."""

    def refuse(_connection: object) -> None:
        raise RuntimeError("a listener")

    event.listen(database.engine.sync_engine, "rollback", refuse, once=True)


async def both_cancelled(database: Database, _session: AsyncSession, _url: URL) -> None:
    """Cancel the block's task, and the one that waits for the answer, once ROLLBACK is sent."""
    cancel_with_rollback(database, turns=2)


async def cancelled_before_sent(database: Database, _session: AsyncSession, _url: URL) -> None:
    """Cancel the block's task, and the one that shall send ROLLBACK before it does."""
    cancel_with_rollback(database, turns=1)


def cancel_with_rollback(database: Database, *, turns: int) -> None:
    """Cancel this task and those made for ROLLBACK, *turns* of the event loop after its begin."""
    owner = asyncio.current_task()
    assert owner is not None
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks() - {owner}

    def cancel(turns: int) -> None:
        if turns > 1:
            loop.call_soon(cancel, turns - 1)
            return
        for task in asyncio.all_tasks() - before:
            task.cancel()

    event.listen(
        database.engine.sync_engine, "rollback", lambda _: loop.call_soon(cancel, turns), once=True
    )


async def in_unit(database: Database, spoil: Spoil, url: URL, mine: BaseException) -> None:
    """Write in a unit of work."""
    unit = UnitOfWork(database)
    try:
        async with unit:
            await unit.session.execute(INSERT)
            await spoil(database, unit.session, url)
            raise mine
    finally:
        assert unit.state is UnitState.ROLLED_BACK


async def plainly(database: Database, spoil: Spoil, url: URL, mine: BaseException) -> None:
    """Write with SQLAlchemy alone, as the wrong variant."""
    async with async_sessionmaker(database.engine).begin() as session:
        await session.execute(INSERT)
        await spoil(database, session, url)
        raise mine


async def check(url: URL, spoil: Spoil, write: Write) -> None:
    """The block's own exception object arrives, with a note; nothing is written; all goes on."""
    async with accounted(url, pool_size=1) as database:
        async with database.engine.begin() as connection:
            await connection.execute(text("CREATE TABLE t (id int)"))
        mine = ValueError("mine")

        async def run() -> BaseException | None:
            try:
                await write(database, spoil, url, mine)
            except BaseException as error:  # noqa: BLE001 -- whatever it is, it is looked at
                return error
            return None

        # In a task of its own, which may be cancelled.
        assert await asyncio.create_task(run()) is mine
        assert any("rollback failed as well" in note for note in mine.__notes__)
        async with UnitOfWork(database) as uow:
            assert await uow.session.scalar(text("SELECT count(*) FROM t")) == 0


KINDS = [
    (driver, spoil)
    for driver in ("asyncpg", "psycopg", "aiosqlite")
    for spoil in (
        backend_terminated,
        connection_closed,
        listener_raises,
        both_cancelled,
        cancelled_before_sent,
    )
    # SQLite has no backends, and nothing is left to roll back when it was closed.
    if driver != "aiosqlite" or spoil not in {backend_terminated, connection_closed}
]


@pytest.fixture
def url(request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own, for the driver that the test names."""
    if request.param == "aiosqlite":
        file: URL = request.getfixturevalue("sqlite_database")
        return file
    server: URL = request.getfixturevalue("postgres_database")
    return server.set(drivername=f"postgresql+{request.param}")


@pytest.mark.parametrize(("url", "spoil"), KINDS, indirect=["url"])
async def test_a_failed_rollback_hides_nothing(url: URL, spoil: Spoil, row: Row) -> None:
    """U13: the block's own exception object arrives with a note, and the next unit is well."""
    if spoil is both_cancelled and not isinstance(
        asyncio.get_running_loop(), asyncio.BaseEventLoop
    ):
        pytest.skip("not run: in the same turn of uvloop's the answer may be there already")
    await check(url, spoil, in_unit)
    row(
        "U13",
        load=f"{spoil.__name__.replace('_', ' ')}, {url.get_driver_name()}",
        result="the same exception object, with a note",
    )


@pytest.mark.parametrize("spoil", [connection_closed, listener_raises])
async def test_plain_begin_hides_the_error(postgres_database: URL, spoil: Spoil) -> None:
    """U13, the wrong way: from plain begin() arrives what the ROLLBACK raised."""
    with pytest.raises(AssertionError):
        await check(postgres_database, spoil, plainly)
