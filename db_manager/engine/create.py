"""Builds the async engine from the configuration, with safe defaults for each tested database."""

from functools import partial
from typing import Any, Final

from sqlalchemy import event, exc
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from db_manager.config import DatabaseConfig
from db_manager.dialects.dialect import Dialect
from db_manager.dialects.known import dialect_at
from db_manager.engine.given_up import SurePool
from db_manager.engine.left_open import warn_if_left_open
from db_manager.engine.one_writer import OneWriter
from db_manager.engine.pool import FairQueuePool
from db_manager.engine.reaching import keep_access, section_of
from db_manager.engine.tls import tls_context
from db_manager.engine.url import database_url, replica_url
from db_manager.errors import ConfigError

#: Execution option of the connections of `create_beside`.
BACKGROUND: Final = "db_manager_background"

_DRIVERS: Final = "use postgresql+asyncpg, sqlite+aiosqlite, postgresql+psycopg or mysql+asyncmy"


def create_engine(
    config: DatabaseConfig, *, read_only: bool = False, replica: bool = False
) -> AsyncEngine:
    """Build an engine with safe defaults; nothing is connected yet.

    An engine that has connected and is dropped without `await engine.dispose()` gives a
    `ResourceWarning`.

    Args:
        config: The section [database].
        read_only: Build an engine whose connections refuse writes and begin no transaction.
        replica: Build the engine of the read replica.

    Returns:
        The engine. Its URL contains no password; the driver gets it at each connect.

    Raises:
        ConfigError: The driver is unknown, not installed or not async, the URL is malformed, or
            there is no replica.
    """
    found = replica_url(config) if replica else database_url(config)
    if found is None:
        raise ConfigError(f"[{config.section}] replica: the key is missing")
    url, password = found
    dialect = dialect_at(url)
    options = _pool_options(config)
    if dialect.is_in_memory(url):  # the database is its one connection
        options |= {"pool_size": 1, "max_overflow": 0, "pool_recycle": -1}
    tls = tls_context(config, url) if dialect.has_server else None
    connect_args = dialect.connect_arguments(config, url, tls, read_only=read_only)
    if str(config.engine_options.get("isolation_level", "")).upper() == "AUTOCOMMIT":
        raise ConfigError(
            f"[{config.section}] engine_options: isolation_level AUTOCOMMIT would leave units "
            f"nothing to roll back; leave it out, and use `engine.connect()` for statements "
            f"without a unit"
        )
    if read_only and dialect.has_server:
        options["isolation_level"] = "AUTOCOMMIT"
    options |= config.engine_options
    options["connect_args"] = _merged(connect_args, config.connect_args)
    engine = _build(url, options, config.section)
    if dialect.has_one_writer and not read_only and not dialect.is_in_memory(url):
        line = OneWriter.of(engine.dialect, config.pool_timeout)
        event.listen(engine.sync_engine, "connect", partial(_line_up, dialect, line))
    _listen(engine, dialect, password)
    keep_access(engine, config, url, password)
    return engine


def create_beside(engine: AsyncEngine, size: int) -> AsyncEngine:
    """Build an engine with a pool of its own, for work that must not wait for that of *engine*.

    Args:
        engine: The engine.
        size: Most connections.

    Returns:
        The engine; its pool is that of *engine* if that was not made here, or one writes at a
        time.
    """
    section = section_of(engine)
    if section is not None and not dialect_at(engine.url).has_one_writer:
        engine = create_engine(section.model_copy(update={"pool_size": size, "max_overflow": 0}))
    return engine.execution_options(**{BACKGROUND: True})


def _listen(engine: AsyncEngine, dialect: Dialect, password: str | None) -> None:
    if password is not None and dialect.has_server:

        @event.listens_for(engine.sync_engine, "do_connect")
        def add_password(_d: object, _r: object, _args: object, cparams: dict[str, Any]) -> None:
            cparams["password"] = password

    dialect.complete(engine.dialect)
    if isinstance(engine.sync_engine.pool, FairQueuePool):
        engine.sync_engine.pool.know(dialect)
    else:
        event.listen(engine.sync_engine, "checkout", partial(_refuse_dead, dialect))
    warn_if_left_open(engine)


def _pool_options(config: DatabaseConfig) -> dict[str, Any]:
    return {
        "hide_parameters": True,
        "pool_size": config.pool_size,
        "max_overflow": config.max_overflow,
        "pool_timeout": config.pool_timeout,
        "pool_recycle": config.pool_recycle,
        "pool_pre_ping": config.pre_ping,
        "pool_use_lifo": True,
        "poolclass": SurePool,
    }


def _merged(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Merge both, with *theirs* first; nested tables such as `server_settings` key by key."""
    both = {**ours, **theirs}
    for name, table in theirs.items():
        if isinstance(table, dict) and isinstance(ours.get(name), dict):
            both[name] = {**ours[name], **table}
    return both


def _build(url: URL, options: dict[str, Any], section: str) -> AsyncEngine:
    try:
        if not url.get_dialect().get_async_dialect_cls(url).is_async:
            raise ConfigError(f"[{section}] driver: {url.drivername!r} is not async; {_DRIVERS}")
        return create_async_engine(url, **options)
    except exc.NoSuchModuleError:
        raise ConfigError(
            f"[{section}] driver: {url.drivername!r} is unknown; {_DRIVERS}"
        ) from None
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"[{section}] driver: {url.drivername!r} needs the package {error.name!r}: "
            f"pip install {error.name}"
        ) from None
    except exc.ArgumentError as error:
        raise ConfigError(f"[{section}] url: {error}") from None
    except TypeError as error:
        raise ConfigError(
            f"[{section}] engine_options: {str(error).split(' sent to')[0]}"
        ) from None


def _line_up(dialect: Dialect, line: OneWriter, adapter: Any, _record: object) -> None:
    dialect.line_up(adapter.driver_connection, line)


def _refuse_dead(dialect: Dialect, dbapi_connection: Any, _record: object, _proxy: object) -> None:
    """Replace a connection that died while idle; `FairQueuePool` does this by itself.

    Raises:
        DisconnectionError: The connection is dead; the pool then opens another one.
    """
    if dialect.is_dead(dbapi_connection.driver_connection):
        raise exc.DisconnectionError("the connection was lost while it was idle")
