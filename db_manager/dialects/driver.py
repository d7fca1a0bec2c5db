"""The driver's own connection below SQLAlchemy's: begin on it, look at it, drop it."""

import sqlite3
from typing import Any, Final

from sqlalchemy.engine import Connection
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import await_only

from db_manager.dialects.sqlite.connection import SqliteConnection

#: libpq's number for a transaction in which a statement failed (PQTRANS_INERROR).
_INERROR: Final = 3


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


def is_autocommit(connection: PoolProxiedConnection) -> bool:
    """Return True when each statement of *connection* commits itself; asks nobody.

    Args:
        connection: The pooled connection of a unit.
    """
    adapter: Any = connection.dbapi_connection
    setting = getattr(adapter, "autocommit", None)
    if isinstance(setting, bool):  # asyncpg, psycopg
        return setting
    if setting is None:  # aiosqlite
        try:
            return getattr(adapter, "isolation_level", "") is None
        except ValueError:  # it is closed
            return False
    return bool(adapter.get_autocommit())  # asyncmy


def was_ended(adapter: Any, driver: Any, ends: int) -> bool:
    """Return True when the transaction of a unit is over before COMMIT; asks nobody.

    Args:
        adapter: SQLAlchemy's connection of the driver; None when the line is lost.
        driver: The driver's own, as it was when the unit got it.
        ends: How many transactions had ended on it then, where it counts them.
    """
    if getattr(driver, "ends", ends) != ends:
        return True
    # Private to SQLAlchemy's adapter of asyncpg: the transaction that it began.
    begun = getattr(adapter, "_transaction", None) is not None
    return begun and not driver.is_closed() and not driver.is_in_transaction()


def is_in_the_middle(driver: object) -> bool:
    """Return True when the driver takes its connection for something that was left half done.

    asyncpg remembers a transaction whose BEGIN was cancelled, and would take the next unit's for
    a part of it: its COMMIT would be a RELEASE. psycopg remembers the pipeline of an
    `executemany` that was cancelled: the next unit's statements would have no results.

    Args:
        driver: The driver's connection of a unit that is over.
    """
    left: object = getattr(driver, "_top_xact", None)  # both guarded by a test
    return left is not None or getattr(driver, "_pipeline", None) is not None


def transaction_id(connection: PoolProxiedConnection, driver: object) -> int | None:
    """Return PostgreSQL's id of the transaction, 0 when it wrote nothing, None elsewhere.

    Args:
        connection: The pooled connection of a unit; runs inside a greenlet.
        driver: The driver's own.
    """
    if not hasattr(driver, "is_in_transaction") and not hasattr(driver, "pgconn"):
        return None
    return int(_scalar(connection, "SELECT pg_current_xact_id_if_assigned()::text") or 0)


def is_aborted(connection: PoolProxiedConnection, driver: Any) -> bool:
    """Return True when a statement failed that went past SQLAlchemy, and undid the transaction.

    psycopg knows it from the last answer. Our own asyncpg connection hears it in the answer to
    COMMIT; the stock one does not look, so that the server has to be asked before. Runs inside a
    greenlet.

    Args:
        connection: The pooled connection of a unit.
        driver: The driver's own.

    Raises:
        InterfaceError: It is a connection to SQLite that somebody closed, which undid its
            transaction; SQLAlchemy would skip its COMMIT in silence.
    """
    if getattr(driver, "failed", False):  # MariaDB undid what was before it, and would go on
        return True
    if hasattr(driver, "pgconn"):
        return bool(driver.pgconn.transaction_status == _INERROR)
    if isinstance(driver, SqliteConnection) and driver.closed:
        raise sqlite3.InterfaceError("the connection is closed")
    if not hasattr(driver, "is_in_transaction") or hasattr(driver, "hears_rollback"):
        return False
    try:
        _scalar(connection, "SELECT 1")
    except Exception as error:
        if getattr(error, "sqlstate", None) == "25P02":
            return True
        raise
    return False


def _scalar(connection: PoolProxiedConnection, sql: str) -> Any:
    cursor = connection.cursor()
    try:
        cursor.execute(sql)
        row = cursor.fetchone()
    finally:
        cursor.close()
    return row[0] if row else None


def terminate(connection: Connection) -> None:
    """Drop the connection to the server without another word, and free its place in the pool.

    To be called outside of a greenlet: nobody waits for anything.

    Args:
        connection: A connection whose polite close did not end.
    """
    if connection.closed or connection.invalidated:
        return
    driver: Any = connection.connection.driver_connection
    if hasattr(driver, "pgconn"):  # psycopg; SQLAlchemy would wait for it
        connection.connection.detach()
        getattr(driver, "terminate", driver.pgconn.finish)()
    else:  # SQLAlchemy's `terminate` of asyncpg, aiosqlite, asyncmy
        connection.invalidate()
        connection.close()
