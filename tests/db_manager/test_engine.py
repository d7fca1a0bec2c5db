"""The engine: safe defaults for each driver, TLS by host, passwords apart, wrong drivers named."""

import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.config import DatabaseConfig
from db_manager.dialects.postgresql.asyncpg_connection import connect
from db_manager.engine.create import create_engine
from db_manager.engine.tls import tls_context, unverified_host
from db_manager.engine.url import remote_hosts
from db_manager.errors import ConfigError

CANARY = "c4n4ry-in-the-engine"


class _LookedError(Exception):
    """Ends a connection attempt before it goes out."""


async def sent_to_driver(config: DatabaseConfig, **options: Any) -> dict[str, Any]:
    """Return the arguments that an engine hands to the driver's connect."""
    engine = create_engine(config, **options)
    seen: dict[str, Any] = {}

    @event.listens_for(engine.sync_engine, "do_connect")
    def look(_d: object, _r: object, _args: object, cparams: dict[str, Any]) -> None:
        seen.update(cparams)
        raise _LookedError

    with suppress(_LookedError):
        async with engine.connect():
            pass
    return seen


@pytest.fixture
async def engine(request: pytest.FixtureRequest, postgres_database: URL) -> AsyncIterator[Any]:
    """An engine on PostgreSQL with the driver of the parameter."""
    url = postgres_database.set(drivername=request.param)
    engine = create_engine(
        DatabaseConfig(
            url=url.render_as_string(hide_password=False),
            statement_timeout=7.0,
            lock_timeout=2.5,
            idle_in_transaction_timeout=11.0,
            application_name="notes",
        )
    )
    yield engine
    await engine.dispose()


@pytest.mark.parametrize("engine", ["postgresql+asyncpg", "postgresql+psycopg"], indirect=True)
async def test_postgresql_sessions_are_bounded(engine: AsyncEngine) -> None:
    """A session of either driver runs under our timeouts, checks its client and has a name."""
    expected = {
        "statement_timeout": "7s",
        "lock_timeout": "2500ms",
        "idle_in_transaction_session_timeout": "11s",
        "client_connection_check_interval": "1s",
        "application_name": "notes",
    }
    async with engine.connect() as connection:
        got = {name: await connection.scalar(text(f"SHOW {name}")) for name in expected}
    assert got == expected


@pytest.mark.parametrize("driver", ["postgresql+asyncpg", "postgresql+psycopg"])
async def test_pgbouncer_gets_only_what_it_understands(driver: str) -> None:
    """Behind PgBouncer no start-up parameter but the name is sent and no statement is kept."""
    sent = await sent_to_driver(
        DatabaseConfig(driver=driver, database="bot", host="localhost", pgbouncer=True)
    )
    if driver.endswith("asyncpg"):
        assert sent["server_settings"] == {"application_name": "db_manager"}
        assert sent["statement_cache_size"] == sent["prepared_statement_cache_size"] == 0
        make_name = sent["prepared_statement_name_func"]
        assert make_name() != make_name()
    else:
        assert (sent["options"], sent["prepare_threshold"]) == ("", None)


async def test_asyncpg_defaults() -> None:
    """The driver asyncpg gives up some time after the server would, and hears rollbacks."""
    sent = await sent_to_driver(
        DatabaseConfig(driver="postgresql+asyncpg", database="bot", connect_timeout=3.0)
    )
    assert (sent["timeout"], sent["command_timeout"]) == (3.0, 20.0)
    assert sent["async_creator_fn"] is connect
    assert sent["ssl"] is False


async def test_mysql_defaults() -> None:
    """One statement sets every timeout that MariaDB or MySQL knows; the driver has its own."""
    sent = await sent_to_driver(
        DatabaseConfig(driver="mysql+asyncmy", database="bot", lock_timeout=4.0)
    )
    assert sent["init_command"] == (
        "SET SESSION innodb_lock_wait_timeout = 4, lock_wait_timeout = 4"
        " /*M!100101 , max_statement_time = 15.000 */"
        " /*!50708 , max_execution_time = 15000 */"
    )
    assert (sent["connect_timeout"], sent["answer_timeout"]) == (5, 20.0)


async def test_psycopg_defaults() -> None:
    """The driver psycopg gives up some time after the server would."""
    sent = await sent_to_driver(
        DatabaseConfig(driver="postgresql+psycopg", database="bot", connect_timeout=3.0)
    )
    assert (sent["connect_timeout"], sent["answer_timeout"]) == (3, 20.0)
    assert sent["keepalives_idle"] + sent["keepalives_interval"] * sent["keepalives_count"] == 60


async def test_a_reading_engine_refuses_writes_at_the_server() -> None:
    """The engine for read-only units commits each statement and sets the session read-only."""
    config = DatabaseConfig(driver="postgresql+asyncpg", database="bot")
    sent = await sent_to_driver(config, read_only=True)
    assert sent["server_settings"]["default_transaction_read_only"] == "on"


@pytest.mark.parametrize("driver", ["postgresql+asyncpg", "postgresql+psycopg", "mysql+asyncmy"])
async def test_the_password_is_added_at_connect(driver: str) -> None:
    """The engine's URL carries no password; the driver gets it when it connects."""
    config = DatabaseConfig(
        url=f"{driver}://bot:{CANARY}%40@localhost/bot", password="not this one"
    )
    engine = create_engine(config)
    assert engine.url.password is None
    assert CANARY not in engine.url.render_as_string(hide_password=False)
    assert (await sent_to_driver(config))["password"] == f"{CANARY}@"


async def test_the_key_password_completes_a_url() -> None:
    """A URL without a password takes the one of the key."""
    config = DatabaseConfig(url="postgresql+asyncpg://bot@localhost/bot", password=CANARY)
    assert (await sent_to_driver(config))["password"] == CANARY


async def test_options_are_passed_through() -> None:
    """engine_options reach the engine and connect_args the driver, and both win over ours."""
    config = DatabaseConfig(
        driver="postgresql+asyncpg",
        database="bot",
        engine_options={"pool_size": 2, "echo": False},
        connect_args={"command_timeout": 99, "direct_tls": True},
    )
    sent = await sent_to_driver(config)
    pool: Any = create_engine(config).sync_engine.pool
    assert pool.size() == 2
    assert (sent["command_timeout"], sent["direct_tls"]) == (99, True)


async def test_own_server_settings_keep_the_safe_ones() -> None:
    """A server setting in connect_args joins our settings instead of replacing them."""
    config = DatabaseConfig(
        driver="postgresql+asyncpg",
        database="bot",
        connect_args={"server_settings": {"jit": "off", "lock_timeout": "1s"}},
    )
    settings = (await sent_to_driver(config))["server_settings"]
    assert (settings["jit"], settings["lock_timeout"]) == ("off", "1s")
    assert settings["statement_timeout"] == "15000"


async def test_sqlite_takes_connect_args_too(tmp_path: Path) -> None:
    """connect_args reach sqlite3 as they reach every other driver."""
    config = DatabaseConfig(
        database=str(tmp_path / "bot.sqlite3"), connect_args={"cached_statements": "many"}
    )
    engine = create_engine(config)
    with pytest.raises(TypeError, match="interpreted as an integer"):
        async with engine.connect():
            pass


async def test_a_left_over_password_does_not_break_sqlite(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A password in the environment means nothing to SQLite."""
    monkeypatch.setenv("DATABASE__PASSWORD", CANARY)
    engine = create_engine(DatabaseConfig(database=str(tmp_path / "bot.sqlite3")))
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()


@pytest.mark.parametrize("name", ["file:{}/bot.sqlite3", "file:{}/bot.sqlite3?mode=rwc"])
async def test_a_sqlite_uri_is_a_file(tmp_path: Path, name: str) -> None:
    """The key database takes SQLite's `file:` URIs."""
    engine = create_engine(DatabaseConfig(database=name.format(tmp_path)))
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE t (id INTEGER)"))
    await engine.dispose()
    assert (tmp_path / "bot.sqlite3").exists()


@pytest.mark.parametrize(
    ("driver", "text"),
    [
        (
            "postgres",
            (
                "[database] driver: 'postgres' is unknown; use postgresql+asyncpg, "
                "sqlite+aiosqlite, postgresql+psycopg or mysql+asyncmy"
            ),
        ),
        (
            "mysql+aiomysql",
            (
                "[database] driver: 'mysql+aiomysql' needs the package 'aiomysql': "
                "pip install aiomysql"
            ),
        ),
        (
            "sqlite+pysqlite",
            (
                "[database] driver: 'sqlite+pysqlite' is not async; use postgresql+asyncpg, "
                "sqlite+aiosqlite, postgresql+psycopg or mysql+asyncmy"
            ),
        ),
        (
            "postgresql+psycopg2",
            (
                "[database] driver: 'postgresql+psycopg2' is not async; use postgresql+asyncpg, "
                "sqlite+aiosqlite, postgresql+psycopg or mysql+asyncmy"
            ),
        ),
    ],
)
def test_a_wrong_driver_is_named_with_the_fix(driver: str, text: str) -> None:
    """An unknown, a missing and a synchronous driver are each refused with what to do."""
    with pytest.raises(ConfigError) as caught:
        create_engine(DatabaseConfig(driver=driver, database="bot", password=CANARY))
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (
            f"postgresql+asyncpg//bot:{CANARY}@localhost",
            (
                "[database] url: cannot be read; write driver://user:password@host:port/database, "
                "with @ : / in the password written as %40 %3A %2F"
            ),
        ),
        (
            f"postgresql+asyncpg://bot:{CANARY}@localhost:port/bot",
            (
                "[database] url: cannot be read; write driver://user:password@host:port/database, "
                "with @ : / in the password written as %40 %3A %2F"
            ),
        ),
        (
            f"postgresql+asyncpg://bot@localhost/bot?password={CANARY}",
            (
                "[database] url: password does not belong in the query; use the key password or "
                "DATABASE__PASSWORD_FILE"
            ),
        ),
        (
            "postgresql+asyncpg://bot@localhost/bot?sslmode=require",
            "[database] url: set tls = 'verify' (or require, disable) instead of ssl",
        ),
        (
            f"postgresql+asyncpg://bot:a@{CANARY}@localhost/bot",
            (
                "[database] url: cannot be read; write driver://user:password@host:port/database, "
                "with @ : / in the password written as %40 %3A %2F"
            ),
        ),
    ],
)
def test_a_wrong_url_is_refused_without_showing_it(url: str, text: str) -> None:
    """A URL that is malformed or carries a secret in its query is refused, never quoted."""
    with pytest.raises(ConfigError) as caught:
        create_engine(DatabaseConfig(url=url))
    assert str(caught.value) == text


def test_hosts_without_ports_are_refused() -> None:
    """What SQLAlchemy refuses in a URL is an error of the configuration too."""
    url = "postgresql+asyncpg://bot@/bot?host=a.example,b.example"
    with pytest.raises(ConfigError, match=r"^\[database\] url: All ports are required"):
        create_engine(DatabaseConfig(url=url))


def test_an_engine_that_commits_by_itself_is_refused() -> None:
    """AUTOCOMMIT for all units is refused: a rollback would be a lie."""
    with pytest.raises(ConfigError, match="AUTOCOMMIT would leave units nothing to roll back"):
        create_engine(DatabaseConfig(engine_options={"isolation_level": "AUTOCOMMIT"}))


def test_an_unknown_engine_option_is_named() -> None:
    """An option that SQLAlchemy does not know is refused by its name."""
    with pytest.raises(ConfigError) as caught:
        create_engine(DatabaseConfig(engine_options={"pool_sise": 3}))
    assert str(caught.value) == "[database] engine_options: Invalid argument(s) 'pool_sise'"


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("/var/run/postgresql", True),
        (None, True),
        ("db.example.com", False),
        ("10.0.0.5", False),
        ("localhost.example.com", False),
    ],
)
def test_only_a_host_that_is_not_local_is_verified(host: str | None, *, local: bool) -> None:
    """`tls = "auto"` verifies certificate and name of every host that is not this machine."""
    config = DatabaseConfig(driver="postgresql+asyncpg", database="bot", host=host)
    context = tls_context(config, URL.create("postgresql+asyncpg", host=host))
    assert (context is None) is local
    if context is not None:
        assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)


@pytest.mark.parametrize(
    ("query", "remote"),
    [
        ("host=/var/run/postgresql", []),
        ("host=localhost", []),
        ("host=db.example.com", ["db.example.com"]),
        ("host=localhost:5432&host=b.example.com:5433", ["b.example.com"]),
        ("host=a.example,b.example&port=1,2", ["a.example", "b.example"]),
    ],
)
def test_hosts_in_the_query_count(query: str, remote: list[str]) -> None:
    """PostgreSQL's hosts may stand in the query, several of them: each is looked at."""
    url = f"postgresql+asyncpg://bot@/bot?{query}"
    config = DatabaseConfig(url=url, tls="disable")
    engine = create_engine(config)
    assert remote_hosts(engine.url) == remote
    assert unverified_host(config) == (", ".join(remote) or None)
    verified = tls_context(DatabaseConfig(url=url), engine.url)
    assert (verified is not None) is bool(remote)


def test_who_does_not_verify_is_told() -> None:
    """`require` and `disable` on a host that is not local are reported, the others are not."""
    remote: dict[str, Any] = {
        "driver": "postgresql+asyncpg",
        "database": "bot",
        "host": "db.example.com",
    }
    assert unverified_host(DatabaseConfig(**remote, tls="require")) == "db.example.com"
    assert unverified_host(DatabaseConfig(**remote, tls="disable")) == "db.example.com"
    assert unverified_host(DatabaseConfig(**remote)) is None
    assert unverified_host(DatabaseConfig(**{**remote, "host": "::1"}, tls="disable")) is None


def test_require_encrypts_without_verifying() -> None:
    """`tls = "require"` encrypts and believes whoever answers."""
    config = DatabaseConfig(driver="postgresql+asyncpg", database="bot", tls="require")
    context = tls_context(config, URL.create("postgresql+asyncpg", host="db.example.com"))
    assert context is not None
    assert (context.check_hostname, context.verify_mode) == (False, ssl.CERT_NONE)


@pytest.mark.parametrize(
    ("tls", "host", "mode"),
    [
        ("auto", "localhost", "disable"),
        ("auto", "db.example.com", "verify-full"),
        ("require", "db.example.com", "require"),
        ("disable", "db.example.com", "disable"),
    ],
)
async def test_psycopg_gets_the_same_decision(tls: str, host: str, mode: str) -> None:
    """The library libpq is told by sslmode what asyncpg is told by a context."""
    config = DatabaseConfig(driver="postgresql+psycopg", database="bot", host=host, tls=tls)
    assert (await sent_to_driver(config))["sslmode"] == mode


def test_a_missing_authority_is_named(tmp_path: Path) -> None:
    """A tls_ca that cannot be read is refused by its path."""
    path = tmp_path / "ca.pem"
    config = DatabaseConfig(
        driver="postgresql+asyncpg", database="bot", host="db.example.com", tls_ca=path
    )
    with pytest.raises(ConfigError, match=r"\[database\] tls_ca: cannot read .*ca\.pem"):
        create_engine(config)
