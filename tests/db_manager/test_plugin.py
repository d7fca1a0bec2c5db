"""The plugin in an application: services, tables, restart, drain, health, a server that is late."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Mapped, mapped_column
from support.postgres import PostgresServer

from db_manager.base import Base
from db_manager.errors import DatabaseUnavailableError, ManagerClosedError
from db_manager.events import DatabaseDrained, TablesCreated
from db_manager.plugin import DatabasePlugin
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.application import Application
from lifecycle.errors import PluginFailedError
from observability.testing import EventRecorder


class Thing(Base):
    """A thing."""

    __tablename__ = "plugin_test__thing"

    id: Mapped[int] = mapped_column(primary_key=True)


class QuickPlugin(DatabasePlugin):
    """The plugin with a short patience at its stop."""

    stop_timeout = 0.4


def make_app(url: URL | None = None, /, **keys: Any) -> Application:
    """Return an application with the plugin alone."""
    if url is not None:
        keys["url"] = url.render_as_string(hide_password=False)
    return Application([QuickPlugin], config={"app": {"journal": "memory"}, "database": keys})


def factory_of(app: Application) -> UnitOfWorkFactory:
    """Return the service."""
    factory: UnitOfWorkFactory = app.services["db_manager:uow_factory"]
    return factory


async def add_thing(app: Application) -> None:
    """Write a row."""
    async with factory_of(app)() as uow:
        await uow.session.execute(insert(Thing).values())


async def things(app: Application) -> int:
    """Return how many rows a read-only unit sees."""
    async with factory_of(app)(read_only=True) as uow:
        return len((await uow.session.scalars(select(Thing.id))).all())


async def test_a_started_plugin_is_ready(database_url: URL) -> None:
    """Start provides engine and factory and creates the tables of every model, once."""
    for created in (True, False):
        app = make_app(database_url)
        with EventRecorder(app.bus) as events:
            async with app:
                assert app.services["db_manager:engine"].url.drivername == database_url.drivername
                await add_thing(app)
        if created:
            event = events.assert_event("database.tables_created")
            assert isinstance(event, TablesCreated)
            assert "plugin_test__thing" in event.tables
        else:
            events.assert_none("database.tables_created")
        events.assert_event("uow.close", outcome="committed")


async def test_tables_are_not_created_when_told_so(database_url: URL) -> None:
    """With `create_tables = false` and `drift = "ignore"` the start looks at no table."""
    app = make_app(database_url, create_tables=False, drift="ignore")
    async with app:
        with pytest.raises(DBAPIError, match="plugin_test__thing"):
            await add_thing(app)


async def test_no_section_is_a_file_beside_the_bot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bot that names the plugin and nothing else writes into bot.sqlite3."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text('[app]\nplugins = ["db_manager"]\njournal = "memory"\n')
    app = Application.from_config(tmp_path / "config.toml")
    async with app:
        await add_thing(app)
    assert (tmp_path / "bot.sqlite3").exists()


@pytest.mark.parametrize("keys", [{"database": ":memory:"}, {"url": "sqlite+aiosqlite://"}])
async def test_a_database_in_memory_is_one(keys: dict[str, str]) -> None:
    """In memory, read-only units see what the others wrote."""
    app = make_app(**keys)
    async with app:
        await add_thing(app)
        assert await things(app) == 1


async def test_restart(database_url: URL) -> None:
    """After a restart, and after an unload and a new start, units work on the same rows."""
    app = make_app(database_url)
    async with app:
        await add_thing(app)
        await app.restart("db_manager")
        await add_thing(app)
        await app.unload("db_manager")
        await app.start("db_manager")
        assert await things(app) == 2


async def test_a_stopped_plugin_refuses_units(database_url: URL) -> None:
    """After stop no unit begins; after unload the engine makes no connection either."""
    app = make_app(database_url)
    async with app:
        factory, engine = factory_of(app), app.services["db_manager:engine"]
        await app.stop()
        with pytest.raises(ManagerClosedError):
            async with factory():
                pass
    assert "db_manager:engine" not in app.services
    with pytest.raises(ManagerClosedError):
        async with engine.connect():
            pass


async def test_unload_leaves_no_backend(postgres_database: URL) -> None:
    """Once the application has ended the server has no session of it."""
    app = make_app(postgres_database, application_name="plugin_test_backends")
    async with app:
        await asyncio.gather(*(add_thing(app) for _ in range(5)))
        await things(app)
    connection = await asyncpg.connect(
        host=postgres_database.host,
        port=postgres_database.port,
        user=postgres_database.username,
        password=postgres_database.password,
        database=postgres_database.database,
    )
    try:
        left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
        async with asyncio.timeout(5):
            while await connection.fetchval(left, "plugin_test_backends"):
                pass
    finally:
        await connection.close()


async def test_stop_drains_and_names_the_cancelled(database_url: URL) -> None:
    """A stop waits for units; one that does not end is rolled back and named in the event."""
    app = make_app(database_url)
    inside, go_on = asyncio.Barrier(3), asyncio.Event()

    async def work(until: asyncio.Event) -> str:
        async with factory_of(app)() as uow:
            await inside.wait()
            await until.wait()
        return str(uow.state)

    with EventRecorder(app.bus) as events:
        async with app:
            good = asyncio.create_task(work(go_on))
            endless = asyncio.create_task(work(asyncio.Event()))
            await inside.wait()
            stopping = asyncio.create_task(app.stop())
            await events.wait_for("plugin.stopping")
            go_on.set()
            await stopping
    assert await good == "committed"
    await asyncio.wait({endless})
    assert endless.cancelled()
    drained = events.assert_event("database.drained", waited=2)
    assert isinstance(drained, DatabaseDrained)
    assert [line.split(",")[0][:5] for line in drained.cancelled] == ["unit "]
    events.assert_sequence("plugin.stopping", "uow.commit", "database.drained", "plugin.stopped")
    events.assert_event("uow.rollback", cause="cancelled")


async def test_health_and_levels(database_url: URL) -> None:
    """A healthy plugin tells its driver and its pool, and offers the levels to observers."""
    app = make_app(database_url)
    async with app:
        health = (await app.health())["db_manager"]
        assert health.healthy, health
        assert health.details["driver"] == database_url.drivername
        levels = app.probes["db_manager:pool"]()
        assert levels == {"size": 10, "idle": 1, "used": 0, "units": 0}


async def test_who_does_not_verify_is_warned(caplog: pytest.LogCaptureFixture) -> None:
    """Loading with `tls = "disable"` for a host that is not local says so in the log."""
    app = make_app(URL.create("postgresql+asyncpg", "bot", host="db.example.com", database="b"))
    await app.load()
    assert caplog.messages == []
    await app.unload()
    app = make_app(
        URL.create("postgresql+asyncpg", "bot", host="db.example.com", database="b"),
        tls="disable",
    )
    await app.load()
    await app.unload()
    assert "the certificate of db.example.com is not verified" in caplog.messages[0]


@pytest.mark.parametrize(
    ("driver", "told"),
    [
        ("asyncpg", "InvalidCatalogNameError: 3D000"),
        ("psycopg", 'OperationalError: connection failed: connection to server at "127.0.0.1"'),
    ],
)
async def test_a_server_that_refuses_us_is_a_failed_start(
    postgres_database: URL, driver: str, told: str
) -> None:
    """A database or role that does not exist fails the start, everything is given back."""
    url = postgres_database.set(drivername=f"postgresql+{driver}", database="no_such_database")
    app = make_app(url)
    with (
        EventRecorder(app.bus, "plugin.failed") as events,
        pytest.raises(PluginFailedError, match='database "no_such_database" does not exist'),
    ):
        await app.start()
    assert events.assert_event("plugin.failed").as_dict()["error"].startswith(told)
    assert app.plugins["db_manager"].state == "failed"
    assert "db_manager:engine" not in app.services
    await app.unload()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of this module's own, that may be stopped."""
    with PostgresServer() as server:
        yield server


async def test_a_server_that_is_late(server: PostgresServer) -> None:
    """Without its server the plugin starts degraded, units fail at once, and it recovers."""
    url = server.url()
    await asyncio.to_thread(server.stop)
    app = make_app(url)
    with EventRecorder(app.bus) as events:
        async with app:
            assert app.plugins["db_manager"].state == "started"
            events.assert_event("plugin.degraded", plugin="db_manager")
            with pytest.raises(DatabaseUnavailableError, match="the database is unavailable"):
                await add_thing(app)
            assert not (await app.health())["db_manager"].healthy
            async with factory_of(app)() as uow:
                pass  # what needs no database works
            assert uow.state == "committed"
            await asyncio.to_thread(server.start)
            await events.wait_for("plugin.recovered", timeout=20)
            await add_thing(app)
            assert await things(app) == 1
    events.assert_sequence("plugin.degraded", "database.tables_created", "plugin.recovered")


async def test_a_server_that_is_lost_and_returns(server: PostgresServer) -> None:
    """A crash of the server degrades the plugin once; it recovers when the server is back."""
    app = make_app(server.url("template1"))
    with EventRecorder(app.bus) as events:
        async with app:
            await add_thing(app)
            events.assert_none("plugin.degraded")
            await asyncio.to_thread(server.stop, "immediate")
            for _ in range(3):
                with pytest.raises((DatabaseUnavailableError, DBAPIError)):
                    await add_thing(app)
            with pytest.raises(DatabaseUnavailableError):
                await add_thing(app)
            await events.wait_for("plugin.degraded")
            await asyncio.to_thread(server.start)
            await events.wait_for("plugin.recovered", timeout=20)
            await add_thing(app)
    assert len(events.topic("plugin.degraded").events) == 1
    assert len(events.topic("plugin.recovered").events) == 1


async def test_it_can_be_stopped_while_degraded(server: PostgresServer) -> None:
    """A plugin that waits for its server stops and unloads as any other."""
    await asyncio.to_thread(server.stop)
    try:
        app = make_app(server.url())
        with EventRecorder(app.bus) as events:
            async with app:
                events.assert_event("plugin.degraded")
        events.assert_sequence("plugin.degraded", "plugin.stopped", "plugin.unloaded")
        events.assert_none("plugin.failed")
    finally:
        await asyncio.to_thread(server.start)


async def test_a_read_only_unit_when_only_the_reader_is_new(sqlite_database: URL) -> None:
    """The engine for read-only units is made when it is needed, and disposed with the other."""
    app = make_app(sqlite_database)
    async with app:
        assert await things(app) == 0
        async with factory_of(app)(read_only=True) as uow:
            assert await uow.session.scalar(text("PRAGMA query_only")) == 1


async def test_a_bot_that_logs_at_info_gets_no_line_of_the_machinery(
    database_url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    """`logging.basicConfig(level=INFO)` shows neither steps of the state machine nor the pool."""
    with caplog.at_level(logging.INFO):
        async with make_app(database_url) as app:
            await add_thing(app)
    assert [each for each in caplog.messages if each] == []
