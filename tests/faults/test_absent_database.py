"""A database that comes late, goes away and returns, or is closed; and what it must not tell."""

import asyncio
import io
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from sqlalchemy import Column, Integer, Table, text
from sqlalchemy.exc import DBAPIError
from support.accounting import connected
from support.postgres import PostgresServer
from support.proxy import PostgresProxy

from db_manager.base import Base
from db_manager.database import ping
from db_manager.errors import DatabaseUnavailableError, ManagerClosedError
from db_manager.plugin import DatabasePlugin
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.application import Application
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.machine import State
from lifecycle.plugins.plugin import Plugin
from observability.testing import EventRecorder

CANARY = "canary-31337"

Row = Callable[..., None]


class Clock(Plugin):
    """Goes on without a database."""

    name = "clock"

    async def start(self, context: PluginContext) -> None:
        """Offer the time."""
        context.provide("time", asyncio.get_running_loop().time)


@pytest.fixture(scope="module")
def installed_server() -> Iterator[PostgresServer]:
    """Install a server of this module's own, with a password that must not be seen."""
    with PostgresServer(password=CANARY) as server:
        yield server


@pytest.fixture
def server(installed_server: PostgresServer) -> PostgresServer:
    """Run that server, whatever the test before did to it."""
    installed_server.restart("immediate")
    return installed_server


def application(server: PostgresServer, **keys: object) -> Application:
    """Return a bot's application with the database of *server*, and a plugin without."""
    url = server.url().render_as_string(hide_password=False)
    return Application([DatabasePlugin(), Clock()], config={"database": {"url": url, **keys}})


async def one(factory: UnitOfWorkFactory) -> None:
    """Run a unit."""
    async with factory() as uow:
        assert await uow.session.scalar(text("SELECT 1")) == 1


async def assert_absent(app: Application) -> None:
    """Assert that the database is reported as gone, and that everything else goes on."""
    factory = app.services["db_manager:uow_factory"]
    async with asyncio.timeout(1):  # at once, not after a timeout of the network
        for _ in range(20):
            with pytest.raises(DatabaseUnavailableError):
                await one(factory)
    health = await app.health()
    assert not health["db_manager"].healthy
    assert health["clock"].healthy
    assert app.plugins["db_manager"].is_degraded
    assert app.plugins["db_manager"].state is State.STARTED
    assert app.services["clock:time"]() > 0


@pytest.fixture
def model() -> Iterator[Table]:
    """Declare a table that a plugin would need, for one test."""
    table = Table("late__note", Base.metadata, Column("id", Integer, primary_key=True))
    yield table
    Base.metadata.remove(table)


async def test_a_late_database_is_waited_for(
    server: PostgresServer, model: Table, row: Row
) -> None:
    """A bot starts without its database, and has its tables when the database comes."""
    await asyncio.to_thread(server.stop, "immediate")
    app = application(server)
    with EventRecorder(app.bus) as events:
        async with app:
            events.assert_event("plugin.degraded", plugin="db_manager")
            await assert_absent(app)
            await asyncio.to_thread(server.start)
            await events.wait_for("plugin.recovered", timeout=10)
            async with app.services["db_manager:uow_factory"]() as uow:
                assert (await uow.session.execute(model.select())).all() == []
            assert (await app.health())["db_manager"].healthy
    events.assert_sequence(
        "plugin.degraded",
        "app.started",
        "database.tables_created",
        "plugin.recovered",
        "app.stopped",
    )
    row(
        "late",
        load="start with the server down",
        result="degraded, units fail at once, recovered when it came",
    )


async def test_a_lost_database_is_noticed_and_comes_back(
    server: PostgresServer, row: Row, *, full: bool
) -> None:
    """A server that crashes under a running bot degrades it until it is back, again and again."""
    times = 5 if full else 2
    app = application(server)
    with EventRecorder(app.bus) as events:
        async with app:
            factory = app.services["db_manager:uow_factory"]
            for _ in range(times):
                events.clear()
                await one(factory)
                await asyncio.to_thread(server.stop, "immediate")
                with suppress(DBAPIError, DatabaseUnavailableError):  # it may not have heard yet
                    await one(factory)
                with pytest.raises(DatabaseUnavailableError):
                    await one(factory)
                events.assert_event("plugin.degraded", plugin="db_manager")
                await assert_absent(app)
                await asyncio.to_thread(server.start)
                await events.wait_for("plugin.recovered", timeout=10)
                await one(factory)
    row(
        "lost",
        load=f"server crashed {times} × under a running bot",
        result="degraded, units fail at once, others go on, recovered",
    )


async def test_a_server_that_lets_nobody_in_yet_is_an_absent_one(server: PostgresServer) -> None:
    """A start that waits for its first connection for longer than `pool_timeout` goes on."""
    async with PostgresProxy(server.host, server.port) as proxy:
        proxy.on_server(b"", proxy.hold, kinds=b"R", times=None)
        url = proxy.url(server.url()).render_as_string(hide_password=False)
        config = {"database": {"url": url, "pool_timeout": 0.2}}
        app = Application([DatabasePlugin()], config=config)
        with EventRecorder(app.bus) as events:
            async with app:
                assert app.plugins["db_manager"].is_degraded
                proxy.forget()
                proxy.cut()
                await events.wait_for("plugin.recovered", timeout=10)


async def test_a_silent_database_is_an_absent_one(
    server: PostgresServer, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that lets us in and then says nothing is waited for as one that is not there."""
    monkeypatch.setattr(ping, "PING_TIMEOUT", 0.3)
    async with PostgresProxy(server.host, server.port) as proxy:
        proxy.on_client(b"", proxy.hold, kinds=b"QP", times=None)
        url = proxy.url(server.url()).render_as_string(hide_password=False)
        app = Application([DatabasePlugin()], config={"database": {"url": url}})
        with EventRecorder(app.bus) as events:
            async with app:
                assert app.plugins["db_manager"].is_degraded
                with pytest.raises(DatabaseUnavailableError):
                    await one(app.services["db_manager:uow_factory"])
                proxy.forget()
                proxy.cut()
                await events.wait_for("plugin.recovered", timeout=10)
                await one(app.services["db_manager:uow_factory"])
    row(
        "late",
        load="start with a server that is silent after the login",
        result="degraded, units fail at once, recovered when the line worked",
    )


async def test_a_stop_does_not_wait_for_an_absent_database(server: PostgresServer) -> None:
    """A bot whose database never comes is stopped as any other."""
    await asyncio.to_thread(server.stop, "immediate")
    app = application(server)
    async with app:
        await assert_absent(app)
    assert app.plugins["db_manager"].state is State.UNLOADED
    await asyncio.to_thread(server.start)


async def test_no_unit_opens_after_the_stop(server: PostgresServer) -> None:
    """A factory kept beyond the stop raises ManagerClosedError and makes no connection."""
    app = application(server, application_name="after_stop")
    async with app:
        factory = app.services["db_manager:uow_factory"]
        engine = app.services["db_manager:engine"]
        await one(factory)
        await app.stop()
        with pytest.raises(ManagerClosedError):
            await one(factory)
    with pytest.raises(ManagerClosedError):
        await one(factory)
    with pytest.raises(ManagerClosedError):
        async with engine.connect():
            pass
    async with connected(server.url()) as admin:
        left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'after_stop'"
        assert await admin.fetchval(left) == 0


# -- S1 -----------------------------------------------------------------------------------


def everything_about(error: BaseException) -> str:
    """Return an error as the most talkative tool prints it, except values of the drivers' frames.

    Drivers hold the password in their own local variables while they connect; a tool that prints
    the locals of other people's frames prints it. What is ours must not hold it.
    """
    lines = [repr(error), str(error)]
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None:
            continue
        lines += traceback.format_exception(current)
        pending += [current.__cause__, current.__context__]
        step = current.__traceback__
        while step is not None:
            module = step.tb_frame.f_globals.get("__name__", "")
            if module.partition(".")[0] in {"db_manager", "lifecycle"}:
                lines.append(repr(step.tb_frame.f_locals))
            step = step.tb_next
    return "\n".join(lines)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_password_is_never_told(server: PostgresServer, driver: str, row: Row) -> None:
    """Failing connects of every kind tell the password to nobody. S1."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setLevel(logging.DEBUG)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    said: list[str] = []
    try:
        async with PostgresProxy(server.host, server.port) as proxy:
            good = proxy.url(server.url(driver=driver))
            wrong = good.set(username="nobody", database="nowhere")
            for url, fault in [
                (wrong, None),
                (good.set(port=1), None),
                (good.set(host="host.invalid"), None),
                (good, "cut"),
                (good, "absent"),
            ]:
                if fault == "cut":
                    proxy.on_server(b"", proxy.cut, kinds=b"R", times=None)
                app = Application(
                    [DatabasePlugin()],
                    config={
                        "database": {
                            "url": url.render_as_string(hide_password=False),
                            "connect_timeout": 2,
                            "tls": "disable",
                        }
                    },
                )
                with EventRecorder(app.bus) as events:
                    try:
                        async with app:
                            said += [repr(await app.health()), repr(app.plugins)]
                            said += [
                                repr(app.services),
                                repr(app.services["db_manager:engine"].url),
                            ]
                            await one(app.services["db_manager:uow_factory"])
                    except Exception as error:  # noqa: BLE001 -- whatever it is must not tell
                        said.append(everything_about(error))
                    said += [repr(events.events), *map(repr, app.journal.entries())]
                if fault == "cut":
                    proxy.forget()
                    proxy.refuse()
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    everything = "\n".join([stream.getvalue(), *said])
    assert len(everything) > 10_000  # there is something to look through
    assert CANARY not in everything
    row(
        "S1",
        load=f"wrong role, closed port, unknown host, cut login, refused; {driver}",
        result=f"0 hits of the canary in {len(everything)} characters",
    )
