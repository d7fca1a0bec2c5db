"""What an error of a driver means: by SQLSTATE and phase, never by its class.

The rules are PostgreSQL's (documentation 13.5 and appendix A), SQLite's and MariaDB's codes beside
them. asyncpg reports deadlocks and serialization failures as plain `DBAPIError`, so classes tell
nothing.
"""

import asyncio
import sqlite3
from typing import Any, Final

from sqlalchemy import exc

from db_manager.errors import DatabaseUnavailableError

#: The server said that it undid the transaction, and that another try may succeed.
UNDONE: Final = frozenset({"40001", "40P01", "55P03", "25006"})
#: Nothing began: the server refused or is not there yet.
UNAVAILABLE: Final = frozenset({"57P03", "53300", "08001", "08004", "57P05"})
#: The connection is gone; before COMMIT was sent that means rolled back.
LOST: Final = frozenset({"08000", "08003", "08006", "08007", "57P01", "57P02", "40003", "25P03"})
#: MariaDB: lock wait timeout, deadlock, record changed since last read.
MYSQL_UNDONE: Final = frozenset({1020, 1205, 1213})
#: MariaDB: too many connections, cannot connect, shutting down.
MYSQL_UNAVAILABLE: Final = frozenset({1040, 1053, 2002, 2003})
#: MariaDB: the connection is gone.
MYSQL_LOST: Final = frozenset({1317, 2006, 2013, 2055})


def origin(error: BaseException) -> BaseException:
    """Return the driver's own error below SQLAlchemy's."""
    below = getattr(error, "orig", None)
    return below if isinstance(below, BaseException) else error


def sqlstate(error: BaseException) -> str:
    """Return the server's five-character code, or an empty string."""
    return str(getattr(origin(error), "sqlstate", None) or "")


def errno(error: BaseException) -> int:
    """Return MariaDB's error number, or 0."""
    args: tuple[Any, ...] = origin(error).args
    return args[0] if args and isinstance(args[0], int) else 0


def is_busy(error: BaseException) -> bool:
    """Return True when SQLite could not get a lock."""
    code: int = getattr(origin(error), "sqlite_errorcode", 0) or 0
    return code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def is_disconnect(error: BaseException) -> bool:
    """Return True when the connection did not survive *error*."""
    return (
        getattr(error, "connection_invalidated", False)
        or sqlstate(error) in LOST
        or errno(error) in MYSQL_LOST
        or isinstance(origin(error), (OSError, EOFError))
    )


def is_unavailable(error: BaseException) -> bool:
    """Return True when *error* of a connection attempt says that the server is not there now."""
    return (
        isinstance(origin(error), OSError)  # refused, DNS, TLS, timeout
        or sqlstate(error) in UNAVAILABLE | LOST
        or errno(error) in MYSQL_UNAVAILABLE | MYSQL_LOST
        or (
            # psycopg reports a refused connection without a code.
            isinstance(error, exc.OperationalError)
            and not sqlstate(error)
            and not errno(error)
            and type(origin(error)).__module__.startswith("psycopg")
            and "authentication failed" not in str(error)
            and "does not exist" not in str(error)
        )
    )


def is_client_refusal(error: BaseException) -> bool:
    """Return True when the driver itself refused: the statement was never sent.

    asyncpg's InterfaceError without a SQLSTATE: the connection was closed already, or is busy with
    a statement of another task.
    """
    return isinstance(error, exc.InterfaceError) and not sqlstate(error)


def is_other_task_busy(error: BaseException) -> bool:
    """Return True when a statement of another task still runs on the connection."""
    text = str(origin(error))
    return "another operation is in progress" in text or "manually started transaction" in text


def commit_is_undone(error: BaseException) -> bool:
    """Return True when *error* of a COMMIT proves that nothing was written.

    Args:
        error: What COMMIT raised.

    Returns:
        True when the server answered with an error, or the driver did not send COMMIT. False when
        the answer is missing: then nobody here can know.
    """
    if isinstance(error, (asyncio.CancelledError, OSError)):
        return False  # a deadline, or the line
    if is_client_refusal(error):
        return True
    return not is_disconnect(error)


def is_retryable(error: BaseException) -> bool:
    """Return True when the whole unit may be tried again: nothing of it was written.

    Args:
        error: What left the unit. An unknown outcome is never retryable; a connection lost before
            COMMIT is, because then the server rolled back.
    """
    if isinstance(error, DatabaseUnavailableError):
        return True
    if not isinstance(error, exc.DBAPIError):
        return False
    return (
        sqlstate(error) in UNDONE | UNAVAILABLE | LOST
        or errno(error) in MYSQL_UNDONE | MYSQL_LOST
        or is_busy(error)
        or is_disconnect(error)
        or (is_client_refusal(error) and not is_other_task_busy(error))
        or "cached plan must not change" in str(error)  # 0A000, gone at the next try
        or "cached statement plan is invalid" in str(error)
    )
