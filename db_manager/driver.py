"""The driver's own connection below SQLAlchemy's: how to begin on it, how to drop it."""

import sqlite3
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.util import await_only

from db_manager.sqlite import SqliteConnection


def begin_for_driver(connection: Connection) -> Any:
    """Begin the transaction at the server now and return the driver's connection.

    SQLAlchemy begins with the first statement that goes through it; a statement that does not go
    through it must find the transaction begun. Runs inside a greenlet.

    Args:
        connection: The unit's connection.

    Returns:
        The driver's connection.
    """
    if not connection.in_transaction():
        connection.begin()
    proxy = connection.connection
    adapter: Any = proxy.dbapi_connection
    # Private to SQLAlchemy's adapter of asyncpg; the public way below costs one round trip more.
    start = getattr(adapter, "_start_transaction", None)
    if start is not None and hasattr(adapter, "_transaction"):
        if adapter._transaction is None:  # noqa: SLF001 -- guarded by a test
            await_only(start())
    elif isinstance(proxy.driver_connection, SqliteConnection):
        proxy.driver_connection.begin_with_next()
    elif connection.dialect.driver in {"asyncpg", "aiosqlite"}:  # the others begin by themselves
        connection.exec_driver_sql("SELECT 1")
    return proxy.driver_connection


def is_aborted(connection: Connection) -> bool:
    """Return True when a statement failed that went past SQLAlchemy, on PostgreSQL.

    psycopg knows it from the last answer. Our own asyncpg connection hears it in the answer to
    COMMIT; only another asyncpg connection has to be asked. Runs inside a greenlet.

    Args:
        connection: A connection whose driver was used directly.
    """
    driver: Any = connection.connection.driver_connection
    if hasattr(driver, "pgconn"):
        return bool(driver.info.transaction_status == driver.info.transaction_status.INERROR)
    if connection.dialect.driver != "asyncpg" or hasattr(driver, "hears_rollback"):
        return False
    try:
        connection.exec_driver_sql("SELECT 1")
    except DBAPIError as error:
        return getattr(error.orig, "sqlstate", None) == "25P02"
    return False


def refuse_closed(connection: Connection) -> None:
    """Raise when somebody closed a SQLite connection, which undid its transaction.

    SQLAlchemy would skip its COMMIT in silence; the other drivers refuse it themselves.

    Args:
        connection: A connection to SQLite that is to commit.

    Raises:
        InterfaceError: It is closed.
    """
    if getattr(connection.connection.driver_connection, "closed", False):
        raise InterfaceError("COMMIT", None, sqlite3.InterfaceError("the connection is closed"))


def terminate(connection: Connection) -> None:
    """Drop the connection to the server without another word.

    Args:
        connection: A connection whose polite close did not end.
    """
    if connection.closed or connection.invalidated:
        return
    driver: Any = connection.connection.driver_connection
    for name in ("terminate", "stop", "close"):  # asyncpg, aiosqlite, asyncmy
        drop = getattr(driver, name, None)
        if drop is not None:
            result = drop()
            if hasattr(result, "close"):  # a coroutine: nobody will wait for it
                result.close()
            return
