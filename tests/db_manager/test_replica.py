"""A read replica: who answers, what is told when it is away, and that nothing else notices."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError
from support.accounting import connected
from support.postgres import Databases, PostgresServer
from support.proxy import PostgresProxy
from support.standby import Standby

from db_manager.config import DatabaseConfig
from db_manager.database import replica
from db_manager.dialects import dialect
from db_manager.engine.create import create_engine
from db_manager.errors import ConfigError, UnitOfWorkStateError
from db_manager.plugin import DatabasePlugin
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork
from lifecycle.application import Application
from lifecycle.errors import WiringError
from observability.testing import EventRecorder

CANARY = "c4n4ry"
WHO = text("SELECT name FROM who")


@pytest.fixture
async def two(databases: Databases) -> AsyncIterator[tuple[URL, URL]]:
    """Two databases with a table that says which one it is: the second plays the replica."""
    urls = (await databases.create(), await databases.create())
    for url, name in zip(urls, ("primary", "replica"), strict=True):
        async with connected(url) as connection:
            await connection.execute("CREATE TABLE who (name text)")
            await connection.execute("INSERT INTO who VALUES ($1)", name)
    yield urls
    for url in urls:
        await databases.drop(url)


@pytest.fixture
async def proxy(two: tuple[URL, URL]) -> AsyncIterator[PostgresProxy]:
    """Something between us and the replica that can lose it."""
    host, port = two[1].host, two[1].port
    assert host is not None
    assert port is not None
    async with PostgresProxy(host, port) as proxy:
        yield proxy


def shown(url: URL) -> str:
    """Return a URL with its password."""
    return url.render_as_string(hide_password=False)


def make_app(url: URL, replica_url: URL | None = None, **keys: Any) -> Application:
    """Return an application with the plugin alone."""
    section = {"url": shown(url), "create_tables": False, "drift": "ignore", **keys}
    if replica_url is not None:
        section["replica"] = shown(replica_url)
    return Application([DatabasePlugin], config={"app": {"journal": "memory"}, "database": section})


@asynccontextmanager
async def started(
    url: URL, replica_url: URL | None = None, **keys: Any
) -> AsyncIterator[tuple[Application, UnitOfWorkFactory, EventRecorder]]:
    """Start an application; at the end nothing of it may have been degraded."""
    app = make_app(url, replica_url, **keys)
    with EventRecorder(app.bus) as events:
        async with app:
            yield app, app.services["db_manager:uow_factory"], events
            assert (await app.health())["db_manager"].healthy
    events.assert_none("plugin.degraded")


async def answers(factory: UnitOfWorkFactory, read_only: Any = "replica") -> str:
    """Return who answers a unit."""
    async with factory(read_only=read_only) as uow:
        name: str = await uow.session.scalar(WHO)
    return name


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("pgbouncer", [False, True])
@pytest.mark.matrix(
    "M20",
    load="the replica is there",
    result='only read_only="replica" reads from it',
)
async def test_only_who_says_so_reads_from_it(
    two: tuple[URL, URL], driver: str, pgbouncer: bool
) -> None:
    """`read_only="replica"` reads from the replica, every other unit from the database itself."""
    main, other = (url.set(drivername=f"postgresql+{driver}") for url in two)
    async with started(main, other, pgbouncer=pgbouncer) as (_, factory, events):
        assert await answers(factory) == "replica"
        assert [await answers(factory, kind) for kind in (False, True, "snapshot")] == [
            *("primary", "primary", "primary")
        ]
        assert await factory.run(ask, read_only="replica") == "replica"
        with pytest.raises(DBAPIError, match="read-only transaction"):
            async with factory(read_only="replica") as uow:
                await uow.session.execute(text("DELETE FROM who"))
        with pytest.raises(UnitOfWorkStateError, match="read_only='replica' has none"):
            async with factory(read_only="replica") as uow, uow.savepoint():
                pass
        assert await answers(factory) == "replica"
    events.assert_none("replica.*")
    events.assert_event("uow.begin", read_only=True)


async def ask(uow: UnitOfWork) -> str:
    """Return who answers, as the work of `run`."""
    name: str = await uow.session.scalar(WHO)
    return name


async def test_without_the_key_it_is_the_database_itself(
    two: tuple[URL, URL], sqlite_database: URL
) -> None:
    """Code may say "replica" before there is one, on every database."""
    async with started(two[0]) as (app, factory, _):
        assert await answers(factory) == "primary"
        assert "db_manager:replica" not in app.probes
    async with started(sqlite_database) as (_, factory, _), factory(read_only="replica") as uow:
        assert await uow.session.scalar(text("PRAGMA query_only")) == 1


async def test_on_mariadb_it_is_a_snapshot(mariadb_database: URL) -> None:
    """Where read-only units have no engine of their own, the replica's refuse writes as well."""
    app = make_app(mariadb_database, mariadb_database)
    async with app:
        factory: UnitOfWorkFactory = app.services["db_manager:uow_factory"]
        async with factory() as uow:
            await uow.session.execute(text("CREATE TABLE who (name text)"))
        with pytest.raises(DBAPIError, match="READ ONLY transaction"):
            async with factory(read_only="replica") as uow:
                await uow.session.execute(text("INSERT INTO who VALUES ('x')"))
        levels = app.probes["db_manager:replica"]()
        assert levels == {"size": 10, "idle": 1, "used": 0, "resting": 0}
    app = make_app(mariadb_database, mariadb_database.set(port=1))
    with EventRecorder(app.bus) as events:
        async with app, app.services["db_manager:uow_factory"](read_only="replica") as uow:
            assert await uow.session.scalar(text("SELECT 1")) == 1
    events.assert_event("replica.lost")


def test_another_word_is_refused(sqlite_database: URL) -> None:
    """A typo would otherwise be a unit that reads from somewhere else."""
    engine = create_engine(DatabaseConfig(url=shown(sqlite_database)))
    with pytest.raises(ValueError, match="read_only is 'replca'; it is one of"):
        UnitOfWork(engine, read_only="replca")  # type: ignore[arg-type]  # that is the point


async def test_its_pool_is_seen_apart(two: tuple[URL, URL]) -> None:
    """The levels of its pool have a name of their own, and say whether it rests."""
    async with started(*two) as (app, factory, _):
        await answers(factory)
        assert app.probes["db_manager:replica"]() == {
            "size": 10,
            "idle": 1,
            "used": 0,
            "resting": 0,
        }
        assert app.probes["db_manager:pool"]() == {"size": 10, "idle": 1, "used": 0, "units": 0}
        assert (await app.health())["db_manager"].details["replica"] == "is used"


@pytest.mark.matrix(
    "M20",
    load="the replica goes away and comes back",
    result="the database answers meanwhile; both changes are told once",
)
async def test_a_refused_replica_is_left_alone(
    two: tuple[URL, URL], proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it refuses the database answers; both changes are told once; it is asked in between."""
    async with started(two[0], proxy.url(two[1])) as (app, factory, events):
        assert await answers(factory) == "replica"
        proxy.refuse()
        proxy.cut()
        # The first may still get the connection that was cut.
        asked = [factory.run(ask, read_only="replica") for _ in range(20)]
        assert set(await asyncio.gather(*map(asyncio.create_task, asked))) == {"primary"}
        told = events.assert_event("replica.lost", database="")
        assert "ConnectionRefusedError" in told.as_dict()["reason"]
        levels, health = app.probes["db_manager:replica"](), await app.health()
        assert isinstance(levels, dict)
        assert levels["resting"] == 1
        assert health["db_manager"].details["replica"].startswith("rests: ")
        accepted = proxy.accepted
        await proxy.resume()
        assert await answers(factory) == "primary"
        assert proxy.accepted == accepted  # it rests
        monkeypatch.setattr(replica, "REST", 0.0)
        app_replica = factory._database.checkout.replica
        assert app_replica is not None
        app_replica._rests_until = 0.0
        assert await answers(factory) == "primary"  # this unit does not wait for it
        await events.wait_for("replica.recovered")
        assert await answers(factory) == "replica"
    assert len(events.topic("replica.lost").events) == 1
    assert len(events.topic("replica.recovered").events) == 1


async def test_a_replica_that_is_away_from_the_start_on(
    two: tuple[URL, URL], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bot starts, reads from the database, and is told again and again that it is away once."""
    monkeypatch.setattr(replica, "REST", 0.0)
    for away in (
        two[1].set(database="no_such_database"),
        two[1].set(username="nobody_knows_me"),
        two[1].set(port=1),
        two[1].set(host="no-such-host.invalid"),
    ):
        async with started(two[0], away) as (_, factory, events):
            for _ in range(5):
                assert await answers(factory) == "primary"
        assert len(events.topic("replica.lost").events) == 1
        events.assert_none("replica.recovered")


async def test_a_silent_replica_costs_one_login(two: tuple[URL, URL], proxy: PostgresProxy) -> None:
    """One that accepts and says nothing is given up after `connect_timeout`, by all who wait."""
    async with started(two[0], proxy.url(two[1]), connect_timeout=1.0) as (_, factory, events):
        proxy.black_hole()
        asked = [asyncio.create_task(answers(factory)) for _ in range(5)]
        assert set(await asyncio.gather(*asked)) == {"primary"}
        accepted = proxy.accepted
        assert await answers(factory) == "primary"
        assert proxy.accepted == accepted
        await proxy.resume()
    assert len(events.topic("replica.lost").events) == 1


async def test_silence_during_a_statement_is_tried_again_elsewhere(
    two: tuple[URL, URL], proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit that was on it fails, and `run` asks the database itself."""
    monkeypatch.setattr(dialect, "ANSWER_MARGIN", 0.1)
    keys: dict[str, Any] = {"statement_timeout": 0.5, "connect_timeout": 1.0}
    async with started(two[0], proxy.url(two[1]), **keys) as (_, factory, events):
        assert await answers(factory) == "replica"
        proxy.hold()
        with pytest.raises(OperationalError):
            await answers(factory)
        events.assert_event("replica.lost", reason="no answer from the server in time")
        assert await answers(factory) == "primary"
        await proxy.resume()
    async with started(two[0], proxy.url(two[1]), **keys) as (_, factory, events):
        assert await answers(factory) == "replica"
        proxy.hold()
        assert await factory.run(ask, read_only="replica") == "primary"
        events.assert_event("uow.retry", attempt=1)
        await proxy.resume()


async def test_an_exhausted_replica_is_helped_out(two: tuple[URL, URL]) -> None:
    """When none of its connections comes free in time the database answers."""
    keys: dict[str, Any] = {"pool_size": 1, "pool_timeout": 0.5}
    async with started(*two, **keys) as (_, factory, events):
        async with factory(read_only="replica") as uow:
            assert await uow.session.scalar(WHO) == "replica"
            assert await asyncio.create_task(answers(factory)) == "primary"
            events.assert_none("pool.exhausted")
        told = events.assert_event("replica.lost")
        assert "no connection became free in 0.50 s" in told.as_dict()["reason"]


async def test_a_cancelled_wait_is_no_loss(two: tuple[URL, URL], proxy: PostgresProxy) -> None:
    """Who stops waiting for it says nothing about it, and nothing of it is left."""
    async with started(two[0], proxy.url(two[1])) as (_, factory, events):
        proxy.black_hole()
        waiting = asyncio.create_task(answers(factory))
        while not proxy.accepted:  # noqa: ASYNC110 -- the proxy tells nobody
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await proxy.resume()
        assert await answers(factory) == "replica"
    events.assert_none("replica.lost")


async def test_a_stop_does_not_wait_for_a_silent_replica(
    two: tuple[URL, URL], proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task that asks whether it is back ends with the plugin."""
    monkeypatch.setattr(replica, "REST", 0.0)
    async with started(two[0], proxy.url(two[1]), connect_timeout=1.0) as (_, factory, events):
        proxy.black_hole()
        assert await answers(factory) == "primary"
        accepted = proxy.accepted
        await answers(factory)  # which lets it be asked
        while proxy.accepted == accepted:  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0)
    events.assert_sequence("replica.lost", "plugin.stopped", "plugin.unloaded")


async def test_what_is_left_on_its_connection_goes_with_it(two: tuple[URL, URL]) -> None:
    """A setting of one unit is not there for the next, as on every read-only connection."""
    async with started(*two) as (_, factory, _):
        async with factory(read_only="replica") as uow:
            await uow.session.execute(text("SET search_path TO nowhere"))
        assert await answers(factory) == "replica"


async def test_it_answers_while_the_database_is_lost(
    two: tuple[URL, URL], proxy: PostgresProxy
) -> None:
    """What may be read from the replica can be read although the database is away."""
    host, port = two[0].host, two[0].port
    assert host is not None
    assert port is not None
    async with PostgresProxy(host, port) as front:
        app = make_app(front.url(two[0]), proxy.url(two[1]))
        async with app:
            factory: UnitOfWorkFactory = app.services["db_manager:uow_factory"]
            front.refuse()
            front.cut()
            assert await answers(factory) == "replica"
            await front.resume()


# -- the key --------------------------------------------------------------------------------


def refusal(**section: Any) -> str:
    """Return what `create_engine` says of the replica in a section."""
    with pytest.raises(ConfigError) as caught:
        create_engine(DatabaseConfig(**section), replica=True)
    assert CANARY not in str(caught.value)
    assert CANARY not in repr(DatabaseConfig(**section))
    return str(caught.value)


MAIN = "postgresql+asyncpg://bot@localhost/bot"


@pytest.mark.parametrize(
    ("url", "given", "said"),
    [
        (
            MAIN,
            f"postgresql+asyncpg://bot:{CANARY}@p@host/bot",
            "[database] replica: cannot be read",
        ),
        (MAIN, f"postgresql+asyncpg://host/bot?password={CANARY}", "does not belong in the query"),
        (MAIN, "postgresql+asyncpg://host/bot?sslmode=require", "[database] replica: set tls"),
        (MAIN, "postgresql+psycopg://host/bot", "its driver is 'postgresql+psycopg'"),
        ("sqlite+aiosqlite:///bot.sqlite3", MAIN, "sqlite is a file and has no replica"),
        (MAIN, "", "[database] replica: the key is missing"),
    ],
)
def test_what_cannot_be_a_replica_is_refused(url: str, given: str, said: str) -> None:
    """The rules are those of `url`, and the error names the key and no secret."""
    assert said in refusal(url=url, replica=given)


async def test_on_sqlite_the_bot_does_not_start(sqlite_database: URL) -> None:
    """The key is refused where nothing can follow it, with the way out."""
    app = make_app(sqlite_database, URL.create("postgresql+asyncpg", host="localhost"))
    with pytest.raises(Exception, match=r"remove the key, and read_only=\"replica\" reads from"):
        await app.load()


def test_the_environment_overrides_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its variable, its file, and an empty variable that switches it off; the password is apart."""
    monkeypatch.setenv("DATABASE__REPLICA", f"postgresql+asyncpg://bot:{CANARY}@one/bot")
    config = DatabaseConfig(url=MAIN, replica="postgresql+asyncpg://two/bot")
    engine = create_engine(config, replica=True)
    assert engine.url.host == "one"
    assert CANARY not in engine.url.render_as_string(hide_password=False)
    assert CANARY not in repr(config)
    (tmp_path / "replica").write_text("postgresql+asyncpg://three/bot\n")
    monkeypatch.delenv("DATABASE__REPLICA")
    monkeypatch.setenv("DATABASE__REPLICA_FILE", str(tmp_path / "replica"))
    assert create_engine(DatabaseConfig(url=MAIN), replica=True).url.host == "three"
    monkeypatch.delenv("DATABASE__REPLICA_FILE")
    monkeypatch.setenv("DATABASE__REPLICA", "")
    config = DatabaseConfig(url=MAIN, replica="postgresql+asyncpg://two/bot")
    with pytest.raises(ConfigError, match="the key is missing"):
        create_engine(config, replica=True)


def test_a_number_is_no_url() -> None:
    """A value of another type is refused with the name of the key."""
    with pytest.raises(WiringError, match=r"\[database\] replica"):
        Application([DatabasePlugin], config={"database": {"replica": 5}})


# -- a real one -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def primary() -> Iterator[PostgresServer]:
    """A server of this module's own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def standby(primary: PostgresServer) -> Iterator[PostgresServer]:
    """A hot standby of it, on which what the primary does comes before what is being read."""
    with Standby(primary, patience="0") as server:
        yield server


async def caught_up(primary: PostgresServer, standby: PostgresServer) -> None:
    """Wait until the standby has replayed what the primary has written."""
    async with connected(primary.url()) as one, connected(standby.url()) as other:
        written = await one.fetchval("SELECT pg_current_wal_insert_lsn()::text")
        replayed = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn"
        async with asyncio.timeout(20):
            while not await other.fetchval(replayed, written):
                pass


async def interfere(primary: PostgresServer, standby: PostgresServer, sleeps: int) -> None:
    """Remove what is read on the standby, once so many statements sleep there."""
    async with connected(primary.url()) as one, connected(standby.url()) as other:
        sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        async with asyncio.timeout(20):
            while await other.fetchval(sleeping) < sleeps:
                pass
        await one.execute("UPDATE who SET name = 'new'")
        await one.execute("VACUUM who")
    await caught_up(primary, standby)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("reads", ["in a statement", "between two"])
@pytest.mark.matrix(
    "M20",
    load="what the replica replays ends a read",
    result="run once more; it reads what is new",
)
async def test_a_conflict_with_recovery_is_tried_again(
    primary: PostgresServer, standby: PostgresServer, driver: str, reads: str
) -> None:
    """A read that the standby ends because of what it replays is run once more."""
    async with connected(primary.url()) as connection:
        await connection.execute("DROP TABLE IF EXISTS who")
        await connection.execute("CREATE TABLE who (name text)")
        await connection.execute("INSERT INTO who VALUES ('old')")
    await caught_up(primary, standby)
    names: list[str] = []
    interfering: list[asyncio.Task[None]] = []

    async def work(uow: UnitOfWork) -> None:
        names.append(await uow.session.scalar(WHO))
        if len(names) == 1 and reads == "in a statement":
            interfering.append(asyncio.create_task(interfere(primary, standby, 1)))
            await uow.session.execute(text("SELECT pg_sleep(20) FROM who"))
        elif len(names) == 1:
            await interfere(primary, standby, 0)
        assert await uow.session.scalar(text("SELECT pg_is_in_recovery() FROM who"))

    level = "REPEATABLE READ" if reads == "between two" else None
    main, other = primary.url(driver=driver), standby.url(driver=driver)
    async with started(main, other) as (_, factory, events):
        await factory.run(work, read_only="replica", isolation_level=level)
    await asyncio.gather(*interfering)
    assert names == ["old", "new"]
    events.assert_none("replica.lost")
    if reads == "in a statement":
        assert events.assert_event("uow.retry").as_dict()["sqlstate"] == "40001"
