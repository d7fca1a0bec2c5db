"""Builds the async engine from the configuration: safe defaults for every database we test."""

import asyncio
import uuid
from typing import Any

from sqlalchemy import event, exc
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from db_manager.config import DatabaseConfig
from db_manager.dialects.liveness import is_dead
from db_manager.dialects.sqlite.connection import SqliteConnection
from db_manager.dialects.sqlite.file import connector
from db_manager.engine.pool import FairQueuePool
from db_manager.engine.tls import tls_context
from db_manager.engine.url import database_url, in_memory
from db_manager.errors import ConfigError

#: Milliseconds between PostgreSQL's looks at the client while a statement runs. Without them a
#: statement whose client is gone lives on, with its locks, to its end.
CLIENT_CHECK_INTERVAL = 1000
#: A driver gives up on an answer this many seconds after the server should have ended the
#: statement by itself.
ANSWER_MARGIN = 5.0
#: libpq's: an idle connection that was lost in silence is known to be lost after a minute.
KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
_DRIVERS = "use postgresql+asyncpg, sqlite+aiosqlite, postgresql+psycopg or mysql+asyncmy"


def create_engine(config: DatabaseConfig, *, read_only: bool = False) -> AsyncEngine:
    """Build an engine with safe defaults; nothing is connected yet.

    Args:
        config: The section [database].
        read_only: Build one whose connections commit each statement by itself and refuse writes.

    Returns:
        The engine. Its URL carries no password: that is handed to the driver at connect.

    Raises:
        ConfigError: The driver is unknown, not installed or not async, or the URL is malformed.
    """
    url, password = database_url(config)
    backend = url.get_backend_name()
    options: dict[str, Any] = {
        "hide_parameters": True,
        "pool_size": config.pool_size,
        "max_overflow": config.max_overflow,
        "pool_timeout": config.pool_timeout,
        "pool_recycle": config.pool_recycle,
        "pool_pre_ping": config.pre_ping,
        "pool_use_lifo": True,
        "poolclass": FairQueuePool,
    }
    connect_args: dict[str, Any] = {}
    if backend == "postgresql":
        connect_args = _postgresql(config, url, read_only=read_only)
    elif backend in {"mysql", "mariadb"}:
        connect_args = _mysql(config, url)
    elif url.drivername == "sqlite+aiosqlite":
        connect_args = _sqlite(config, url, read_only=read_only)
        if in_memory(url):  # it lives in its one connection
            options |= {"pool_size": 1, "max_overflow": 0, "pool_recycle": -1}
    if str(config.engine_options.get("isolation_level", "")).upper() == "AUTOCOMMIT":
        raise ConfigError(
            "[database] engine_options: isolation_level AUTOCOMMIT would leave units nothing to "
            "roll back; leave it out, and use `engine.connect()` for statements without a unit"
        )
    if read_only and backend != "sqlite":
        options["isolation_level"] = "AUTOCOMMIT"
    options |= config.engine_options
    options["connect_args"] = _merged(connect_args, config.connect_args)
    engine = _build(url, options)
    if password is not None and backend != "sqlite":

        @event.listens_for(engine.sync_engine, "do_connect")
        def add_password(_d: object, _r: object, _args: object, cparams: dict[str, Any]) -> None:
            cparams["password"] = password

    if not isinstance(engine.sync_engine.pool, FairQueuePool):
        event.listen(engine.sync_engine, "checkout", _refuse_dead)
    return engine


def _merged(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Let *theirs* win, key by key also inside of tables as `server_settings`."""
    both = {**ours, **theirs}
    for name, table in theirs.items():
        if isinstance(table, dict) and isinstance(ours.get(name), dict):
            both[name] = {**ours[name], **table}
    return both


def _build(url: URL, options: dict[str, Any]) -> AsyncEngine:
    try:
        if not url.get_dialect().get_async_dialect_cls(url).is_async:
            raise ConfigError(f"[database] driver: {url.drivername!r} is not async; {_DRIVERS}")
        return create_async_engine(url, **options)
    except exc.NoSuchModuleError:
        raise ConfigError(f"[database] driver: {url.drivername!r} is unknown; {_DRIVERS}") from None
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"[database] driver: {url.drivername!r} needs the package {error.name!r}: "
            f"pip install {error.name}"
        ) from None
    except exc.ArgumentError as error:
        raise ConfigError(f"[database] url: {error}") from None
    except TypeError as error:
        raise ConfigError(f"[database] engine_options: {str(error).split(' sent to')[0]}") from None


def _refuse_dead(dbapi_connection: Any, _record: object, _proxy: object) -> None:
    """Replace a connection that died while it was idle; our own pool looks for itself."""
    if is_dead(dbapi_connection.driver_connection):
        raise exc.DisconnectionError("the connection was lost while it was idle")


def _postgresql(config: DatabaseConfig, url: URL, *, read_only: bool) -> dict[str, Any]:
    settings = {"application_name": config.application_name}
    if not config.pgbouncer:  # it refuses start-up parameters that it does not know
        settings |= {
            "statement_timeout": str(int(config.statement_timeout * 1000)),
            "lock_timeout": str(int(config.lock_timeout * 1000)),
            "idle_in_transaction_session_timeout": str(
                int(config.idle_in_transaction_timeout * 1000)
            ),
            "client_connection_check_interval": str(CLIENT_CHECK_INTERVAL),
        }
    if read_only:
        settings["default_transaction_read_only"] = "on"
    context = tls_context(config, url)
    if url.get_driver_name() == "asyncpg":
        from db_manager.dialects.postgresql.asyncpg_connection import connect  # noqa: PLC0415 -- only when used

        arguments: dict[str, Any] = {
            "async_creator_fn": connect,
            "timeout": config.connect_timeout,
            "command_timeout": config.statement_timeout + ANSWER_MARGIN,
            "server_settings": settings,
            "ssl": context or False,
        }
        if config.pgbouncer:
            arguments |= {
                "statement_cache_size": 0,
                "prepared_statement_cache_size": 0,
                "prepared_statement_name_func": lambda: f"db_manager_{uuid.uuid4().hex}",
            }
        return arguments
    arguments = {
        "async_creator_fn": _connect_psycopg,
        "answer_timeout": config.statement_timeout + ANSWER_MARGIN,
        "connect_timeout": max(2, round(config.connect_timeout)),  # libpq's least is 2
        **KEEPALIVE,
        "application_name": settings.pop("application_name"),
        "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
        "sslmode": "disable" if context is None else _libpq_mode(config),
    }
    if config.tls_ca:
        arguments["sslrootcert"] = str(config.tls_ca)
    elif arguments["sslmode"] == "verify-full":
        arguments["sslrootcert"] = "system"
    if config.pgbouncer:
        arguments["prepare_threshold"] = None
    return arguments


def _connect_psycopg(*args: Any, **kwargs: Any) -> Any:
    from db_manager.dialects.postgresql.psycopg_connection import connect  # noqa: PLC0415 -- only when installed

    return connect(*args, **kwargs)


def _connect_asyncmy(*args: Any, **kwargs: Any) -> Any:
    from db_manager.dialects.mysql.asyncmy_connection import connect  # noqa: PLC0415 -- only when installed

    return connect(*args, **kwargs)


def _libpq_mode(config: DatabaseConfig) -> str:
    return "require" if config.tls == "require" else "verify-full"


def _mysql(config: DatabaseConfig, url: URL) -> dict[str, Any]:
    lock = max(1, round(config.lock_timeout))
    longest = max(0.001, config.statement_timeout)
    arguments: dict[str, Any] = {
        # MariaDB reads the first comment and MySQL the second; each is blank for the other.
        "init_command": (
            f"SET SESSION innodb_lock_wait_timeout = {lock}, lock_wait_timeout = {lock}"
            f" /*M!100101 , max_statement_time = {longest:.3f} */"
            f" /*!50708 , max_execution_time = {longest * 1000:.0f} */"
        ),
    }
    if url.get_driver_name() == "asyncmy":
        arguments |= {
            "async_creator_fn": _connect_asyncmy,
            "answer_timeout": config.statement_timeout + ANSWER_MARGIN,
            "connect_timeout": config.connect_timeout,
        }
    else:
        arguments["connect_timeout"] = max(1, round(config.connect_timeout))
    if context := tls_context(config, url):
        arguments["ssl"] = context
    return arguments


def _sqlite(config: DatabaseConfig, url: URL, *, read_only: bool) -> dict[str, Any]:
    name = url.database or ""

    async def connect(path: str, **arguments: Any) -> SqliteConnection:
        if name.startswith("file:") and not arguments.get("uri"):
            path = name  # SQLAlchemy made a path of the file system of it
        arguments = {"timeout": config.lock_timeout, **arguments}
        open_file = connector(path, synchronous=config.sqlite_synchronous, **arguments)
        connection = SqliteConnection(
            open_file, read_only=read_only, lock_timeout=arguments["timeout"]
        )
        # The process may end while a connection is open, as it may with every other driver.
        connection._thread.daemon = True  # noqa: SLF001 -- what SQLAlchemy itself sets
        async with asyncio.timeout(config.connect_timeout):
            return await connection  # type: ignore[return-value]  # it returns itself

    return {"async_creator_fn": connect}
