"""A server that gives no new connections, while those that are there serve: full and refused."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import AsyncAdaptedQueuePool
from support.accounting import accounted, connected
from support.postgres import PostgresServer
from support.proxy import PostgresProxy

from db_manager.database.database import Database
from db_manager.engine.pool import LONGEST_PAUSE
from db_manager.errors import DatabaseUnavailableError, PoolExhaustedError
from db_manager.plugin import DatabasePlugin
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork
from lifecycle.application import Application
from observability.testing import EventRecorder

POOL, LIVE = 10, 3
SELECT = text("SELECT 1")
#: Attempts that a refusing server may see at first: a burst, then single ones with longer pauses.
FEW_ATTEMPTS = 20

Row = Callable[..., None]


@pytest.fixture(params=["asyncpg", "psycopg"])
def url(request: pytest.FixtureRequest, postgres_database: URL) -> URL:
    """URL of a database, once for each driver."""
    return postgres_database.set(drivername=f"postgresql+{request.param}")


def few_attempts(seconds: float) -> float:
    """Return how many attempts a refusing server may see in a time: one a pause in the end."""
    return FEW_ATTEMPTS + seconds / (0.8 * LONGEST_PAUSE)


async def use(database: Database, **how: Any) -> None:
    """Use a connection in a unit."""
    async with UnitOfWork(database, **how) as uow:
        await uow.session.execute(SELECT)


@asynccontextmanager
async def holding(database: Database, count: int, **how: Any) -> AsyncIterator[list[UnitOfWork]]:
    """Hold *count* connections in units of other tasks for the time of the block."""
    units: list[UnitOfWork] = []
    enough, together = asyncio.Event(), asyncio.Barrier(count + 1)

    async def hold() -> None:
        async with UnitOfWork(database, **how) as uow:
            units.append(uow)
            await uow.session.execute(SELECT)
            await together.wait()
            await enough.wait()

    tasks = [asyncio.create_task(hold()) for _ in range(count)]
    await together.wait()
    try:
        yield units
    finally:
        enough.set()
        await asyncio.wait(tasks)


@asynccontextmanager
async def behind_proxy(
    url: URL, live: int = LIVE, **keys: Any
) -> AsyncIterator[tuple[Database, PostgresProxy]]:
    """Open a database through a proxy, with *live* idle connections."""
    async with (
        PostgresProxy(url.host or "", url.port or 5432) as proxy,
        accounted(proxy.url(url), server=url, pool_size=POOL, **keys) as database,
    ):
        async with holding(database, live):
            pass
        yield database, proxy


def attempts(database: Database) -> list[object]:
    """Return a list that grows by each attempt to connect."""
    seen: list[object] = []
    event.listen(database.engine.sync_engine, "do_connect", lambda *_: seen.append(None))
    return seen


async def check_served(database: Database, units: int, tasks: int = 30) -> None:
    """Run units in many tasks; each of them must be served."""
    numbers = iter(range(units))

    async def work() -> None:
        for _ in numbers:
            await use(database)

    done = await asyncio.gather(*(work() for _ in range(tasks)), return_exceptions=True)
    failed = [repr(error) for error in done if error is not None]
    assert not failed, f"{len(failed)} units were not served: {failed[0]}"


# -- a full server --------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_server() -> Iterator[PostgresServer]:
    """Run a server that takes few clients."""
    with PostgresServer(max_connections="6") as server:
        yield server


@asynccontextmanager
async def full_server(server: PostgresServer, left: int = LIVE) -> AsyncIterator[AsyncExitStack]:
    """Let others take the server's connections, but for *left*; yields what holds them."""
    async with AsyncExitStack() as others:
        for _ in range(6 - left):
            await others.enter_async_context(connected(server.url()))
        yield others


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_full_server_costs_no_unit(
    small_server: PostgresServer, driver: str, row: Row, *, full: bool
) -> None:
    """Every unit is served by the connections that the server leaves to the pool. full."""
    units = 2000 if full else 300
    url = small_server.url(driver=driver)
    async with full_server(small_server), accounted(url, check=False, pool_size=POOL) as database:
        seen = attempts(database)
        begun = time.perf_counter()
        await check_served(database, units)
        assert database.pool_levels()["idle"] == LIVE
        assert len(seen) <= few_attempts(time.perf_counter() - begun)
    row(
        "full",
        load=f"{units} units of 30 tasks, pool {POOL}, the server leaves {LIVE}, {driver}",
        result=f"all served; {len(seen)} attempts to connect",
    )


async def test_a_plain_pool_fails_on_a_full_server(small_server: PostgresServer) -> None:
    """The check of a full server rejects SQLAlchemy's own pool."""
    options = {"poolclass": AsyncAdaptedQueuePool}
    async with (
        full_server(small_server),
        accounted(
            small_server.url(), check=False, pool_size=POOL, engine_options=options
        ) as database,
    ):
        with pytest.raises(AssertionError, match="were not served"):
            await check_served(database, 300)


async def test_who_waits_in_vain_learns_that_the_server_refuses(
    small_server: PostgresServer,
) -> None:
    """Without a connection in time the error names the holders, and the server's own words."""
    url = small_server.url()
    async with (
        full_server(small_server),
        accounted(url, check=False, pool_size=POOL, pool_timeout=0.3) as database,
    ):
        async with holding(database, LIVE):
            with pytest.raises(PoolExhaustedError) as caught:
                await use(database)
        assert (caught.value.size, len(caught.value.holders)) == (LIVE, LIVE)
        assert "The server refuses more: TooManyConnectionsError" in str(caught.value)
        await use(database)


async def test_a_server_that_has_room_again_is_used(small_server: PostgresServer) -> None:
    """Who waits while the server is full gets a connection when others let go of theirs."""
    async with (
        full_server(small_server) as others,
        accounted(small_server.url(), check=False, pool_size=POOL) as database,
    ):
        seen = attempts(database)
        async with holding(database, LIVE):
            waiting = asyncio.create_task(use(database))
            async with asyncio.timeout(5):
                while len(seen) <= LIVE:  # noqa: ASYNC110 -- a refused attempt tells nobody
                    await asyncio.sleep(0)
            await others.aclose()
            await waiting
            async with holding(database, 2):
                assert database.pool_levels()["used"] == LIVE + 2


async def test_the_reader_of_a_full_server_is_lost_alone(small_server: PostgresServer) -> None:
    """Without a connection of their own read-only units fail at once, the others go on."""
    app = Application([DatabasePlugin()], config={"database": {"url": str(small_server.url())}})
    with EventRecorder(app.bus) as events:
        async with full_server(small_server, left=1) as others, app:
            factory: UnitOfWorkFactory = app.services["db_manager:uow_factory"]
            with pytest.raises(DatabaseUnavailableError):
                async with factory(read_only=True) as uow:
                    await uow.session.execute(SELECT)
            events.assert_event("plugin.degraded", plugin="db_manager")
            for _ in range(20):
                async with factory() as uow:
                    await uow.session.execute(SELECT)
            await others.aclose()
            await events.wait_for("plugin.recovered", timeout=10)
            async with factory(read_only=True) as uow:
                await uow.session.execute(SELECT)
    assert len(events.topic("plugin.degraded").events) == 1
    assert len(events.topic("plugin.recovered").events) == 1


# -- new connections refused ----------------------------------------------------------


async def refuse(_url: URL, _database: Database, proxy: PostgresProxy) -> None:
    """Close the listener."""
    proxy.refuse()


async def wrong_password(_url: URL, database: Database, _proxy: PostgresProxy) -> None:
    """Let the server refuse who comes."""

    def say_nobody(_d: object, _r: object, _args: object, how: dict[str, Any]) -> None:
        how["user"] = "nobody_of_that_name"

    event.listen(database.engine.sync_engine, "do_connect", say_nobody)


async def silence(_url: URL, _database: Database, proxy: PostgresProxy) -> None:
    """Let who comes wait for an answer, up to connect_timeout."""
    proxy.on_server(b"", proxy.hold, kinds=b"R", times=None)


async def kill_one(url: URL, database: Database, proxy: PostgresProxy) -> None:
    """Close the listener, and kill one of the connections in a unit."""
    proxy.refuse()
    with pytest.raises(DBAPIError):
        async with UnitOfWork(database) as uow:
            pid = await uow.session.scalar(text("SELECT pg_backend_pid()"))
            async with connected(url) as admin:
                await admin.execute(f"SELECT pg_terminate_backend({pid})")
            await uow.session.execute(SELECT)


Trouble = Callable[[URL, Database, PostgresProxy], Awaitable[None]]


@pytest.mark.parametrize("trouble", [refuse, wrong_password, silence, kill_one])
async def test_refused_connections_cost_no_unit(
    url: URL, trouble: Trouble, row: Row, *, full: bool
) -> None:
    """Units on the connections that are there are served, whatever becomes of new ones. refused."""
    units = 2000 if full else 300
    async with behind_proxy(url) as (database, proxy):
        seen = attempts(database)
        lost: list[object] = []
        database.checkout.on_lost = lambda *how: lost.append(how)
        await trouble(url, database, proxy)
        begun = time.perf_counter()
        await check_served(database, units)
        assert not lost
        assert len(seen) <= few_attempts(time.perf_counter() - begun)
    row(
        "refused",
        load=f"{units} units on {LIVE} connections, {trouble.__name__.replace('_', ' ')}, "
        f"{url.get_driver_name()}",
        result=f"all served; {len(seen)} attempts to connect",
    )


@pytest.mark.parametrize("trouble", [refuse, wrong_password])
async def test_a_plain_pool_gives_a_refusal_to_units(
    postgres_database: URL, trouble: Trouble
) -> None:
    """The check of refused connections rejects SQLAlchemy's own pool."""
    options = {"poolclass": AsyncAdaptedQueuePool}
    async with behind_proxy(postgres_database, engine_options=options) as (database, proxy):
        await trouble(postgres_database, database, proxy)
        with pytest.raises(AssertionError, match="were not served"):
            await check_served(database, 300)


@pytest.mark.parametrize("keys", [{"pool_recycle": 1e-3}, {"pre_ping": True}])
async def test_old_connections_serve_while_no_new_ones_come(url: URL, keys: dict[str, Any]) -> None:
    """A connection is not given up for its age, or for another that is dead, without a new one."""
    async with behind_proxy(url, **keys) as (database, proxy):
        proxy.refuse()
        await check_served(database, 100)
        assert database.pool_levels()["idle"] >= LIVE - 1


async def test_a_dead_idle_connection_is_replaced_by_a_live_one(url: URL) -> None:
    """A unit that finds a dead connection takes another one, also when there are no new ones."""
    async with behind_proxy(url) as (database, proxy):
        proxy.refuse()
        async with UnitOfWork(database) as uow:
            pid = await uow.session.scalar(text("SELECT pg_backend_pid()"))
        async with connected(url) as admin:
            await admin.execute(f"SELECT pg_terminate_backend({pid})")
            gone = f"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = {pid}"
            async with asyncio.timeout(5):
                while not await admin.fetchval(gone):
                    pass
                # Its good-bye passes the proxy, and is read here one round of the loop later.
                while any(link.backend_pid == pid for link in proxy.links):
                    await admin.fetchval("SELECT 1")
                await admin.fetchval("SELECT 1")
        await check_served(database, 50)
        assert database.pool_levels()["idle"] == LIVE - 1


async def test_who_waits_is_told_when_the_last_connection_dies(url: URL) -> None:
    """A unit in the line fails when nothing is left that could come free, not at its timeout."""
    async with behind_proxy(url, live=1, pool_timeout=60.0) as (database, proxy):
        lost: list[object] = []
        database.checkout.on_lost = lambda *how: lost.append(how)
        proxy.refuse()
        async with asyncio.timeout(20):
            with pytest.raises(DBAPIError):
                async with UnitOfWork(database) as holder:
                    await holder.session.execute(SELECT)
                    waiting = [asyncio.create_task(use(database)) for _ in range(5)]
                    await asyncio.sleep(0)
                    proxy.cut()
                    await holder.session.execute(SELECT)
            ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in ended] == [DatabaseUnavailableError] * 5
        assert lost
        await proxy.resume()
        await use(database)


async def test_an_idle_connection_is_not_waited_for_behind_a_dead_line(url: URL) -> None:
    """What comes free goes to who waits, also when that one's own attempt hangs."""
    async with behind_proxy(url, live=1, connect_timeout=60.0) as (database, proxy):
        held = proxy.on_server(b"", proxy.hold, kinds=b"R", times=None)
        async with asyncio.timeout(20):
            async with holding(database, 1):
                waiting = asyncio.create_task(use(database))
                await held.fired.wait()
            await waiting
        proxy.cut()


async def test_a_cancelled_wait_ends_its_attempt(url: URL) -> None:
    """The next one has an attempt of its own, and no place in the pool is lost."""
    async with behind_proxy(url, live=1, connect_timeout=60.0) as (database, proxy):
        async with holding(database, 1), asyncio.timeout(20):
            for _ in range(2 * POOL):
                held = proxy.on_server(b"", proxy.hold, kinds=b"R")
                waiting = asyncio.create_task(use(database))
                await held.fired.wait()
                waiting.cancel()
                await asyncio.wait({waiting})
            tasks = [asyncio.create_task(use(database)) for _ in range(POOL)]
            for task in tasks:  # before their attempts have begun
                task.cancel()
            await asyncio.wait(tasks)
            tasks = [asyncio.create_task(use(database)) for _ in range(POOL)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            async with holding(database, POOL - 1):
                assert database.pool_levels()["used"] == POOL
        proxy.cut()


async def test_the_last_connection_is_lost_once(url: URL) -> None:
    """The journal hears of a lost and of a regained database once, whatever units do meanwhile."""
    async with PostgresProxy(url.host or "", url.port or 5432) as proxy:
        address = proxy.url(url).render_as_string(hide_password=False)
        app = Application([DatabasePlugin()], config={"database": {"url": address}})
        with EventRecorder(app.bus) as events:
            async with app:
                factory: UnitOfWorkFactory = app.services["db_manager:uow_factory"]
                database = factory._database
                async with holding(database, LIVE):
                    pass
                proxy.refuse()
                await check_served(database, 300)
                events.assert_none("plugin.degraded")
                proxy.cut()
                for _ in range(300):
                    with pytest.raises((DatabaseUnavailableError, DBAPIError)):
                        await use(database)
                await proxy.resume()
                await events.wait_for("plugin.recovered", timeout=10)
                await check_served(database, 300)
        assert len(events.topic("plugin.degraded").events) == 1
        assert len(events.topic("plugin.recovered").events) == 1


async def test_a_database_that_comes_and_goes_is_asked_less_often(postgres_database: URL) -> None:
    """Each time it is lost again at once the pause before the next question is longer."""
    async with PostgresProxy(postgres_database.host or "", postgres_database.port or 0) as proxy:
        address = proxy.url(postgres_database).render_as_string(hide_password=False)
        app = Application([DatabasePlugin()], config={"database": {"url": address}})
        pauses = []
        with EventRecorder(app.bus) as events:
            async with app:
                database = app.services["db_manager:uow_factory"]._database
                for _ in range(4):
                    events.clear()
                    proxy.cut()
                    proxy.refuse()
                    while not events.topic("plugin.degraded").events:
                        with pytest.raises((DatabaseUnavailableError, DBAPIError)):
                            await use(database)
                    lost_at = asyncio.get_running_loop().time()
                    await proxy.resume()
                    await events.wait_for("plugin.recovered", timeout=10)
                    pauses.append(asyncio.get_running_loop().time() - lost_at)
        assert pauses[3] > 0.7 > pauses[0]
