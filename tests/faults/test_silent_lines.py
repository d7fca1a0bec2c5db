"""Lines that fall silent under a statement: nothing comes back, not even an end; silent."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from support.accounting import accounted
from support.line import Line

from db_manager.database.database import Database
from db_manager.database.open_unit import UnitState
from db_manager.dialects import dialect
from db_manager.dialects.ending_sql import ABORT_TRANSACTION
from db_manager.errors import DatabaseUnavailableError
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork

STATEMENT_TIMEOUT, ANSWER_MARGIN = 0.3, 0.2
#: Seconds that the drivers and a busy machine may take on top.
MARGIN = 4.0
SELECT = text("SELECT 1")

Row = Callable[..., None]
#: Sends a statement on one of the lanes of a unit.
Lane = Callable[[UnitOfWork], Awaitable[object]]


@pytest.fixture(params=["asyncpg", "psycopg", "asyncmy"])
def url(request: pytest.FixtureRequest) -> URL:
    """URL of a database, once for each driver that talks to a server."""
    if request.param == "asyncmy":
        mariadb: URL = request.getfixturevalue("mariadb_database")
        return mariadb
    postgres: URL = request.getfixturevalue("postgres_database")
    return postgres.set(drivername=f"postgresql+{request.param}")


@pytest.fixture(autouse=True)
def _short_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialect, "ANSWER_MARGIN", ANSWER_MARGIN)


@asynccontextmanager
async def on_a_line(url: URL, **keys: Any) -> AsyncIterator[tuple[Database, Line]]:
    """Open a database behind a line, with one idle connection."""
    keys = {"statement_timeout": STATEMENT_TIMEOUT, "connect_timeout": 1.0, **keys}
    async with (
        Line(url.host or "", url.port or 3306) as line,
        accounted(line.url(url), server=url, **keys) as database,
    ):
        await use(database)
        yield database, line
        line.speak()


async def use(database: Database) -> None:
    """Use a connection in a unit."""
    async with UnitOfWork(database) as uow:
        await uow.session.execute(SELECT)


async def session(uow: UnitOfWork) -> object:
    """Execute on the session."""
    return await uow.session.execute(SELECT)


async def core(uow: UnitOfWork) -> object:
    """Execute on the connection."""
    return await uow.connection.execute(SELECT)


async def stream(uow: UnitOfWork) -> object:
    """Stream rows."""
    return await (await uow.connection.stream(SELECT)).all()


async def driver(uow: UnitOfWork) -> object:
    """Execute on the driver's own connection."""
    own = await uow.driver()
    if hasattr(own, "fetchval"):  # asyncpg has its own deadline, and its own word for it
        try:
            return await own.fetchval("SELECT 1")
        except TimeoutError as error:
            raise OperationalError("SELECT 1", None, TimeoutError("no answer")) from error
    async with own.cursor() as cursor:
        return await cursor.execute("SELECT 1")


LANES: list[Lane] = [session, core, stream, driver]


async def check_lane(database: Database, line: Line, lane: Lane) -> float:
    """Send a statement into the silence; return the seconds until the unit had ended."""
    unit = UnitOfWork(database)
    with pytest.raises(Exception, match="no answer") as caught:
        async with unit:
            await unit.session.execute(SELECT)
            line.fall_silent()
            started = time.perf_counter()
            await lane(unit)
    took = time.perf_counter() - started
    assert type(caught.value).__name__ == "OperationalError"
    assert unit.state is UnitState.ROLLED_BACK
    assert database.pool_levels()["used"] == 0
    line.speak()
    await use(database)
    return took


def unclosed_cursors(test: Any) -> Any:
    """Allow that psycopg leaves a server's cursor open whose connection is closed."""
    warning = "pytest.PytestUnraisableExceptionWarning"
    return pytest.mark.filterwarnings(f"ignore:.*ServerCursorMixin:{warning}")(
        pytest.mark.filterwarnings("ignore:.*AsyncServerCursor.*:ResourceWarning")(test)
    )


@unclosed_cursors
@pytest.mark.parametrize("lane", LANES)
async def test_a_statement_on_a_silent_line_ends(url: URL, lane: Lane, row: Row) -> None:
    """It ends by the client's own deadline, its unit is rolled back, its connection dropped."""
    async with on_a_line(url) as (database, line):
        took = await check_lane(database, line, lane)
    gc.collect()
    assert took >= STATEMENT_TIMEOUT + ANSWER_MARGIN
    assert took <= STATEMENT_TIMEOUT + ANSWER_MARGIN + MARGIN
    row(
        "silent",
        load=f"black hole under a statement, {lane.__name__}, {url.get_driver_name()}, "
        f"statement_timeout {STATEMENT_TIMEOUT} s, margin {ANSWER_MARGIN} s",
        result=f"OperationalError after {took:.1f} s",
    )


@pytest.mark.parametrize("name", ["execute", "fetch", "fetchrow", "fetchval"])
async def test_nothing_more_is_waited_for_after_a_silence(
    postgres_database: URL, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bare connection of asyncpg is dropped then; another answer would take as long again."""
    said: list[str] = []
    execute = asyncpg.Connection.execute

    def listen(own: Any, query: str, *args: Any, **kwargs: Any) -> Any:
        said.append(query)
        return execute(own, query, *args, **kwargs)

    monkeypatch.setattr(asyncpg.Connection, "execute", listen)
    url = postgres_database.set(drivername="postgresql+asyncpg")
    async with on_a_line(url) as (database, line):
        with pytest.raises(TimeoutError):
            async with UnitOfWork(database) as uow:
                own = await uow.driver()
                line.fall_silent()
                try:
                    await getattr(own, name)("SELECT 1")
                finally:
                    assert own.is_closed()
        assert ABORT_TRANSACTION not in said
        assert uow.state is UnitState.ROLLED_BACK


@unclosed_cursors
@pytest.mark.parametrize("lane", LANES)
async def test_without_the_deadline_it_would_not_end(url: URL, lane: Lane) -> None:
    """The check of silent lines rejects a deadline that never comes."""
    deadline = "command_timeout" if url.get_driver_name() == "asyncpg" else "answer_timeout"
    async with on_a_line(url, connect_args={deadline: 3600.0}) as (database, line):
        checking = asyncio.create_task(check_lane(database, line, lane))
        done, _ = await asyncio.wait({checking}, timeout=STATEMENT_TIMEOUT + ANSWER_MARGIN + 0.5)
        line.speak()
        assert not done
        with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
            await checking  # the answer has come


async def test_run_tries_again_after_a_silence(url: URL) -> None:
    """Nothing was written, so the whole unit may be tried again, on a new connection."""
    async with on_a_line(url) as (database, line):
        calls = 0

        async def work(uow: UnitOfWork) -> object:
            nonlocal calls
            calls += 1
            await uow.session.execute(SELECT)
            if calls == 1:
                line.fall_silent(only_open=True)
            return await uow.session.scalar(SELECT)

        assert await UnitOfWorkFactory(database).run(work) == 1
        assert calls == 2


async def test_others_of_a_silent_line_are_replaced(url: URL) -> None:
    """After one silence the idle connections are not waited for, one after the other."""
    async with on_a_line(url) as (database, line):
        together = asyncio.Barrier(5)

        async def use_together() -> None:
            async with UnitOfWork(database) as uow:
                await uow.session.execute(SELECT)
                await together.wait()

        await asyncio.gather(*(use_together() for _ in range(5)))
        before = line.accepted
        await check_lane(database, line, session)
        await asyncio.gather(*(use_together() for _ in range(5)))
        assert line.accepted >= before + 5


async def test_a_slow_answer_is_waited_for(url: URL) -> None:
    """A line that is silent for less than the deadline costs nothing but the time."""
    async with on_a_line(url, statement_timeout=60.0) as (database, line):
        async with UnitOfWork(database) as uow:
            await uow.session.execute(SELECT)
            line.fall_silent()
            asyncio.get_running_loop().call_later(0.5, line.speak)
            assert await uow.session.scalar(SELECT) == 1
        assert uow.state is UnitState.COMMITTED


async def test_the_ping_of_a_silent_line_ends(url: URL) -> None:
    """A checkout that asks first gives the silent connection up, and gets a new one."""
    async with on_a_line(url, pre_ping=True) as (database, line):
        line.fall_silent()
        asyncio.get_running_loop().call_later(STATEMENT_TIMEOUT + ANSWER_MARGIN + 0.2, line.speak)
        await use(database)
        assert line.accepted > 1


async def test_a_login_into_silence_ends(url: URL) -> None:
    """A server that accepts and then says nothing is one that is not there."""
    async with on_a_line(url) as (database, line):
        await database.engine.dispose()
        line.fall_silent()
        begun = time.perf_counter()
        with pytest.raises(DatabaseUnavailableError):
            await use(database)
        assert time.perf_counter() - begun < 2 + MARGIN
        line.speak()
        await use(database)


async def test_a_listener_waits_for_its_notification(postgres_database: URL) -> None:
    """Who waits for a notification of psycopg's is owed no answer, and waits on."""
    url = postgres_database.set(drivername="postgresql+psycopg")
    async with on_a_line(url) as (database, _line):
        async with database.engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            own = (await connection.get_raw_connection()).driver_connection
            assert own is not None
            await own.execute("LISTEN news")

            async def tell() -> None:
                await asyncio.sleep(2 * (STATEMENT_TIMEOUT + ANSWER_MARGIN))  # longer than it lasts
                async with database.engine.begin() as other:
                    await other.execute(text("NOTIFY news"))

            telling = asyncio.create_task(tell())
            heard = [note.channel async for note in own.notifies(stop_after=1)]
            await telling
            await own.execute("UNLISTEN *")
        assert heard == ["news"]


async def test_plain_sessions_share_the_deadline(url: URL) -> None:
    """The deadline is the connection's: sessions of the plugin's engine have it, too."""
    async with on_a_line(url) as (database, line), AsyncSession(database.engine) as plain:
        await plain.execute(SELECT)
        line.fall_silent()
        with pytest.raises(OperationalError, match="no answer"):
            await plain.execute(SELECT)
        line.speak()
