"""Several databases: another one is another plugin, and each is told apart."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiogram import Bot, Dispatcher, Router
from aiogram.types import Message, Update
from sqlalchemy import MetaData, func, inspect, select
from sqlalchemy.engine import URL, Connection
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support.postgres import Databases
from support.proxy import PostgresProxy

from db_manager import NAMING_CONVENTION, Base, DatabasePlugin, UnitOfWorkFactory
from db_manager.errors import (
    ConfigError,
    DatabaseUnavailableError,
    ManagerClosedError,
    PoolExhaustedError,
    TableNameError,
    UnitOfWorkStateError,
)
from lifecycle.application import Application
from lifecycle.bot import attach, include_router
from lifecycle.errors import PluginFailedError
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.plugin import Plugin
from observability.metrics import attach as attach_metrics
from observability.story.unit_log import unit_fact
from observability.testing import EventRecorder


class Order(Base):
    """Something in the first database."""

    __tablename__ = "several__order"

    id: Mapped[int] = mapped_column(primary_key=True)


class StatsBase(Base):
    """The base of what is in the second one."""

    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Visit(StatsBase):
    """Something in the second database."""

    __tablename__ = "several_stats__visit"

    id: Mapped[int] = mapped_column(primary_key=True)


class Stats(DatabasePlugin):
    """The second database."""

    name = "stats"
    metadata = StatsBase.metadata


Pair = tuple[URL, URL]


@pytest.fixture(params=["sqlite", "postgres", "both"])
async def pair(
    request: pytest.FixtureRequest, databases: Databases, tmp_path: Path
) -> AsyncIterator[Pair]:
    """Two databases: two files, two on a server, and one of each."""
    files = [URL.create("sqlite+aiosqlite", database=str(tmp_path / name)) for name in "ab"]
    made = [await databases.create() for _ in range(2)]
    one = made[0] if request.param != "sqlite" else files[0]
    other = made[1] if request.param == "postgres" else files[1]
    yield one, other
    for url in made:
        await databases.drop(url)


def section(url: URL, **keys: Any) -> dict[str, Any]:
    """Return a section with a URL."""
    return {"url": url.render_as_string(hide_password=False), **keys}


def make_app(pair: Pair, *plugins: Plugin | type[Plugin], **keys: Any) -> Application:
    """Return an application with two databases; *keys* are those of the second."""
    config = {
        "app": {"journal": "memory"},
        "database": section(pair[0]),
        "stats": section(pair[1], **keys),
    }
    return Application([DatabasePlugin, Stats, *plugins], config=config)


def factories(app: Application) -> tuple[UnitOfWorkFactory, UnitOfWorkFactory]:
    """Return the factories of both."""
    return app.services["db_manager:uow_factory"], app.services["stats:uow_factory"]


def table_names(connection: Connection) -> list[str]:
    """Return the tables of the tests here that are in a database."""
    names: list[str] = inspect(connection).get_table_names()
    return [name for name in names if name.startswith("several")]


async def test_each_has_its_own_tables_and_services(pair: Pair) -> None:
    """Each plugin reads its section, has an engine and a factory, and creates its own tables."""
    app = make_app(pair)
    with EventRecorder(app.bus) as events:
        async with app:
            for name, table in (
                ("db_manager", "several__order"),
                ("stats", "several_stats__visit"),
            ):
                async with app.services[f"{name}:engine"].connect() as connection:
                    assert await connection.run_sync(table_names) == [table]
                assert (await app.health())[name].healthy
            assert {"db_manager:pool", "stats:pool"} <= app.probes.keys()
    events.assert_event("database.tables_created", database="")
    events.assert_event("database.tables_created", database="stats")
    events.assert_event("database.drained", database="")
    events.assert_event("database.drained", database="stats")
    services = [event.as_dict()["service"] for event in events.topic("service.provided").events]
    assert services == [
        *("db_manager:engine", "db_manager:uow_factory", "stats:engine", "stats:uow_factory")
    ]


async def test_one_task_may_have_a_unit_on_each(pair: Pair) -> None:
    """They commit one after the other; a second one on the same database is refused as ever."""
    app = make_app(pair)
    with EventRecorder(app.bus) as events:
        async with app:
            orders, visits = factories(app)
            async with orders() as outer:
                outer.session.add(Order(id=1))
                async with visits() as inner:
                    inner.session.add(Visit(id=1))
                    with pytest.raises(UnitOfWorkStateError, match="open already"):
                        async with visits():
                            pass
                assert (str(inner.state), str(outer.state)) == ("committed", "active")
                await outer.session.flush()
                with pytest.raises(ZeroDivisionError):
                    async with visits() as inner:
                        inner.session.add(Visit(id=2))
                        raise ZeroDivisionError
            async with visits() as uow:
                assert await uow.session.scalar(select(func.count()).select_from(Visit)) == 1
            async with orders() as uow:
                assert await uow.session.scalar(select(func.count()).select_from(Order)) == 1
    ends = [event.as_dict() for event in events.topic("uow.close").events]
    assert [(each["database"], each["outcome"]) for each in ends[:3]] == [
        *(("stats", "committed"), ("stats", "rolled_back"), ("", "committed"))
    ]
    begun = [event.as_dict() for event in events.topic("uow.begin").events]
    assert [each["database"] for each in begun[:3]] == ["", "stats", "stats"]


async def test_a_rolled_back_outer_unit_does_not_undo_the_inner_one(pair: Pair) -> None:
    """There is no promise across databases: what was committed first stays."""
    app = make_app(pair)
    async with app:
        orders, visits = factories(app)
        with pytest.raises(ZeroDivisionError):
            async with orders() as outer:
                outer.session.add(Order(id=1))
                async with visits() as inner:
                    inner.session.add(Visit(id=1))
                raise ZeroDivisionError
        assert (str(inner.state), str(outer.state)) == ("committed", "rolled_back")
        async with visits(read_only=True) as uow:
            assert await uow.session.scalar(select(func.count()).select_from(Visit)) == 1


async def test_every_event_of_a_unit_says_its_database(pair: Pair) -> None:
    """Retries, slow units, failed callbacks and exhausted pools are told apart, too."""
    app = make_app(pair, slow_unit=0.001, pool_size=1, pool_timeout=0.5)
    with EventRecorder(app.bus) as events:
        async with app:
            visits = factories(app)[1]
            failures = iter([DatabaseUnavailableError("gone")])

            async def work(uow: Any) -> None:
                uow.after_commit(lambda: 1 / 0)
                for error in failures:
                    raise error

            await visits.run(work)
            async with visits() as uow:
                await uow.session.execute(select(Visit))
                await events.wait_for("uow.slow")

                async def late() -> None:
                    async with visits() as other:
                        await other.session.execute(select(Visit))

                with pytest.raises(PoolExhaustedError, match="'stats'"):
                    await asyncio.create_task(late())
            with pytest.raises(ZeroDivisionError):
                async with visits():
                    raise ZeroDivisionError
    for topic in ("retry", "slow", "callback_failed", "rollback", "commit", "begin", "close"):
        told = events.topic(f"uow.{topic}").events
        assert told, topic
        assert {event.as_dict()["database"] for event in told} == {"stats"}, topic
    events.assert_event("pool.exhausted", database="stats")


async def test_metrics_and_the_record_tell_them_apart(pair: Pair) -> None:
    """What is of the second one has its name; what is of the first looks as if it were alone."""
    pytest.importorskip("prometheus_client")
    app = make_app(pair)
    with (
        EventRecorder(app.bus, "uow.close") as events,
        attach_metrics(app.bus, probes=app.probes) as metrics,
    ):
        async with app:
            orders, visits = factories(app)
            async with orders(), visits():
                shown = metrics.render()[0].decode()
                assert "db_manager_uow_open 1.0" in shown
                assert 'db_manager_uow_open{database="stats"} 1.0' in shown
                assert 'db_client_connection_count{pool="stats",state="idle"}' in shown
                assert 'db_client_connection_count{pool="db_manager",state="idle"}' in shown
            shown = metrics.render()[0].decode()
    assert 'uow_close_total{database="stats",outcome="committed"} 1.0' in shown
    assert 'uow_close_total{outcome="committed"} 1.0' in shown
    names = [unit_fact(event, run=1).name.partition(" on ")[2] for event in events.events]
    assert names == ["stats", ""]


@pytest.mark.parametrize("databases_", [1, 2, 3])
def test_their_deadlines_fit(databases_: int) -> None:
    """However many there are, and with plugins beside them, the default grace is enough."""
    more = [type(f"More{n}", (Stats,), {"name": f"more{n}"}) for n in range(databases_)]
    app = Application([DatabasePlugin, *more], config={"app": {"journal": "memory"}})
    first = app.plugins["db_manager"]
    assert (first.stop_deadline, first.unload_deadline) == (2.5, 1.5)
    others = [app.plugins[f"more{n}"] for n in range(databases_)]
    assert sum(each.stop_deadline + each.unload_deadline for each in others) == pytest.approx(2)


def test_a_subclass_may_say_its_own() -> None:
    """A subclass may have section and deadlines of its own; one without a name is the first."""

    class Patient(DatabasePlugin):
        name = "patient"
        config_section = "stats_db"
        stop_timeout = 1.0

    class First(DatabasePlugin):
        stop_timeout = 1.0

    assert (Patient.config_section, Patient.stop_timeout) == ("stats_db", 1.0)
    assert vars(Patient)["unload_timeout"] is None
    assert Patient.config_model.section == "stats_db"
    assert (First.config_section, First.unload_timeout) == ("database", 1.5)
    assert First.config_model is DatabasePlugin.config_model


async def test_a_stop_cancels_what_is_left_on_each(pair: Pair) -> None:
    """A unit on the second database that does not end is rolled back and named."""
    app = Application(
        [DatabasePlugin, Stats],
        config={
            "app": {"journal": "memory", "grace": 4.6, "drain": 0.2},
            "database": section(pair[0]),
            "stats": section(pair[1]),
        },
    )
    inside = asyncio.Event()

    async def endless() -> None:
        async with factories(app)[1]() as uow:
            await uow.session.execute(select(Visit))
            inside.set()
            await asyncio.Event().wait()

    with EventRecorder(app.bus) as events:
        async with app:
            task = asyncio.create_task(endless())
            await inside.wait()
            visits = factories(app)[1]
        assert task.cancelled()
    drained = events.assert_event("database.drained", database="stats", waited=1)
    assert len(drained.as_dict()["cancelled"]) == 1
    events.assert_event("uow.rollback", cause="cancelled", database="stats")
    with pytest.raises(ManagerClosedError, match="a plugin that requires stats"):
        async with visits():
            pass


# -- one of them is lost ----------------------------------------------------------------------


async def test_one_is_lost_and_the_other_is_not(databases: Databases) -> None:
    """Only its plugin is degraded, its units say which database it is, and it recovers."""
    one, other = await databases.create(), await databases.create()
    assert other.host is not None
    assert other.port is not None
    async with PostgresProxy(other.host, other.port) as proxy:
        app = make_app((one, proxy.url(other)))
        with EventRecorder(app.bus) as events:
            async with app:
                orders, visits = factories(app)
                proxy.refuse()
                proxy.cut()
                with pytest.raises(DatabaseUnavailableError, match="the database 'stats' is"):
                    while True:  # the first may still get the connection that was cut
                        try:
                            async with visits() as uow:
                                await uow.session.execute(select(Visit))
                        except DatabaseUnavailableError:
                            raise
                        except Exception:  # noqa: BLE001, S112 -- any error of a cut line
                            continue
                async with orders() as uow:
                    uow.session.add(Order(id=1))
                health = await app.health()
                assert (health["db_manager"].healthy, health["stats"].healthy) == (True, False)
                await proxy.resume()
                await events.wait_for("plugin.recovered", timeout=20)
                async with visits() as uow:
                    uow.session.add(Visit(id=1))
        degraded = [event.as_dict()["plugin"] for event in events.topic("plugin.degraded").events]
        assert degraded == ["stats"]
    await databases.drop(one)
    await databases.drop(other)


# -- the environment and the files ------------------------------------------------------------


def test_variables_are_of_their_section(monkeypatch: pytest.MonkeyPatch) -> None:
    """DATABASE__X and STATS__X mean one database each, and a typo names its own."""
    monkeypatch.setenv("DATABASE__POOL_SIZE", "3")
    monkeypatch.setenv("STATS__POOL_SIZE", "4")
    app = Application([DatabasePlugin, Stats])
    assert app.plugins["db_manager"].config.pool_size == 3
    assert app.plugins["stats"].config.pool_size == 4
    monkeypatch.setenv("STATS__PASSWRD", "secret")
    with pytest.raises(ConfigError, match="STATS__PASSWRD; did you mean STATS__PASSWORD") as caught:
        Application([DatabasePlugin, Stats])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"pool_sise": 3}, "[stats] pool_sise: unknown key (did you mean 'pool_size'?)"),
        ({"driver": "postgresql+asyncpg"}, "[stats] database: driver"),
        ({"tls_ca": "x", "tls": "require"}, "[stats] tls_ca"),
    ],
)
def test_errors_name_the_section(keys: dict[str, Any], said: str) -> None:
    """What is wrong in the second section is said of the second section."""
    with pytest.raises(ConfigError) as caught:
        Application([DatabasePlugin, Stats], config={"stats": keys})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"url": "postgresql+asyncpg://u:p@p@h/d"}, r"\[stats\] url: cannot be read"),
        ({"url": "nothing+at_all://h/d"}, r"\[stats\] driver: 'nothing\+at_all' is unknown"),
        ({"url": "postgresql+asyncpg://h/d?password=x"}, "STATS__PASSWORD_FILE"),
    ],
)
async def test_errors_of_the_url_name_the_section(keys: dict[str, Any], said: str) -> None:
    """So is what only the engine finds out."""
    app = Application([DatabasePlugin, Stats], config={"stats": keys})
    with pytest.raises(PluginFailedError, match=said):
        await app.load()
    await app.unload()


async def test_without_a_section_each_has_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two databases that nobody has configured are two files, not one."""
    monkeypatch.chdir(tmp_path)
    async with Application([DatabasePlugin, Stats], config={"app": {"journal": "memory"}}):
        pass
    for name in ("bot", "stats"):
        with closing(sqlite3.connect(f"file:{tmp_path / name}.sqlite3?mode=ro", uri=True)) as file:
            assert file.execute("SELECT count(*) FROM sqlite_master").fetchone() > (0,)


# -- tables -----------------------------------------------------------------------------------


async def test_tables_of_one_prefix_are_in_one_database(sqlite_database: URL) -> None:
    """Two databases with tables of one plugin are refused, and both are named."""

    class MixedBase(Base):
        __abstract__ = True
        metadata = MetaData()

    class Mixed(MixedBase):
        __tablename__ = "several_stats__other"

        id: Mapped[int] = mapped_column(primary_key=True)

    class Third(DatabasePlugin):
        name = "third"
        metadata = MixedBase.metadata

    config = {"app": {"journal": "memory"}, "database": section(sqlite_database)}
    app = Application([DatabasePlugin, Stats, Third], config={**config, "stats": {}})
    with pytest.raises(
        PluginFailedError, match="several_stats__other of 'third' belongs to 'stats'"
    ):
        await app.start()
    await app.unload()


async def test_two_databases_are_two_files(tmp_path: Path) -> None:
    """One file has one writer: a task with a unit on each would wait for itself."""
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for one, other in (("file", "file"), ("file", "link"), ("link", "./file")):
        files = {
            name: {"database": str(tmp_path / file)}
            for name, file in (("database", one), ("stats", other))
        }
        app = Application([DatabasePlugin, Stats], config={"app": {"journal": "memory"}, **files})
        with pytest.raises(PluginFailedError, match=r"is the database of .* and of .* one writer"):
            await app.start()
        await app.unload()


async def test_a_plugin_that_forgot_its_tables_is_refused(sqlite_database: URL) -> None:
    """Without `metadata` the second database would get the tables of the first."""

    class Forgetful(DatabasePlugin):
        name = "forgetful"

    config = {"app": {"journal": "memory"}, "database": section(sqlite_database)}
    app = Application([DatabasePlugin, Forgetful], config=config)
    with pytest.raises(PluginFailedError, match="set `metadata` of the plugin 'forgetful'"):
        await app.start()
    await app.unload()


def test_a_table_has_one_model_on_each_base() -> None:
    """The rules for names hold on a base of another database as well."""
    with pytest.raises(TableNameError, match="must be named"):
        type("Bad", (StatsBase,), {"__tablename__": "bad", "__module__": __name__})
    with pytest.raises(TableNameError, match="is claimed by"):
        type("Twice", (StatsBase,), {"__tablename__": Visit.__tablename__, "__module__": __name__})


async def test_models_of_an_own_base(pair: Pair) -> None:
    """The tables of somebody's own DeclarativeBase are created where the plugin says so."""

    class Own(DeclarativeBase):
        pass

    class Legacy(Own):
        __tablename__ = "several_legacy"

        id: Mapped[int] = mapped_column(primary_key=True)

    class Old(DatabasePlugin):
        name = "old"
        metadata = Own.metadata

    config = {"database": section(pair[0]), "old": section(pair[1])}
    async with Application([DatabasePlugin, Old], config=config) as app:
        async with app.services["old:engine"].connect() as connection:
            assert await connection.run_sync(table_names) == ["several_legacy"]
        async with app.services["old:uow_factory"]() as uow:
            uow.session.add(Legacy(id=1))
        assert str(uow.state) == "committed"


# -- handlers ---------------------------------------------------------------------------------


class Shop(Plugin):
    """A plugin whose handler writes to both."""

    name = "shop"
    requires = ("db_manager", "stats")

    async def load(self, context: PluginContext) -> None:
        """Include the router."""
        router = Router()
        router.message.register(self.buy)
        await context.enter(include_router(context.services["aiogram:dispatcher"], router))

    async def buy(
        self,
        message: Message,
        uow_factory: UnitOfWorkFactory,
        stats_uow_factory: UnitOfWorkFactory,
    ) -> None:
        """Write to both."""
        async with uow_factory() as uow:
            uow.session.add(Order(id=message.message_id))
        async with stats_uow_factory() as uow:
            uow.session.add(Visit(id=message.message_id))


async def test_a_handler_has_both_factories(pair: Pair) -> None:
    """The second one is `stats_uow_factory`; the events have the update of both units."""
    app = make_app(pair, Shop)
    dispatcher = Dispatcher()
    attach(app, dispatcher)
    content = {"message_id": 1, "date": 0, "chat": {"id": 7, "type": "private"}, "text": "x"}
    with EventRecorder(app.bus, "uow.close") as events:
        await dispatcher.emit_startup()
        update = Update.model_validate({"update_id": 5, "message": content})
        await dispatcher.feed_update(Bot("42:offline"), update)
        await dispatcher.emit_shutdown()
    ends = [event.as_dict() for event in events.events]
    assert [(end["database"], end["update_id"], end["plugin"]) for end in ends] == [
        *(("", 5, "shop"), ("stats", 5, "shop"))
    ]
