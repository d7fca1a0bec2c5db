"""What an error of a driver means: by its code, its class and its phase, never by its words.

The rules are PostgreSQL's (documentation 13.5 and appendix A), SQLite's and MariaDB's codes beside
them. SQLAlchemy's class tells nothing: it reports asyncpg's deadlocks as plain `DBAPIError`. The
text of an error holds what users typed and is never searched; three texts that asyncpg has instead
of codes are compared as a whole.
"""

import sqlite3
from typing import Any, Final

from sqlalchemy import exc

from db_manager.errors import DatabaseUnavailableError, TransactionAbortedError

#: The server said that it undid the transaction, and that another try may succeed.
UNDONE: Final = frozenset({"40001", "40P01", "55P03", "25006"})
#: Nothing began: the server refused or is not there yet.
UNAVAILABLE: Final = frozenset({"57P03", "53300", "08001", "08004", "57P05"})
#: The connection is gone; before COMMIT was sent that means rolled back.
LOST: Final = frozenset({"08000", "08003", "08006", "08007", "57P01", "57P02", "40003", "25P03"})
#: The statement has to be inside of a transaction block.
NO_TRANSACTION: Final = "25P01"
#: MariaDB: lock wait timeout, deadlock, record changed since last read.
MYSQL_UNDONE: Final = frozenset({1020, 1205, 1213})
#: MariaDB: too many connections, cannot connect, shutting down.
MYSQL_UNAVAILABLE: Final = frozenset({1040, 1053, 2002, 2003})
#: MariaDB: the connection is gone.
MYSQL_LOST: Final = frozenset({2006, 2013, 2055})
#: MariaDB: KILL QUERY. The connection serves on, somebody wanted the statement to end, and whether
#: a COMMIT was through already it does not say.
_MYSQL_KILLED: Final = 1317

_MYSQL_CLIENT: Final = 2
#: The log was written, and nobody knows whether it is on the disk.
_SQLITE_UNSURE: Final = frozenset({sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC})

# What asyncpg's client says before it sends anything. It has one class for all that it refuses, and
# no codes: the whole text is the code, of that very class. A test provokes each.
_OTHER_TASK: Final = frozenset(
    {
        "cannot perform operation: another operation is in progress",
        "cannot use Connection.transaction() in a manually started transaction",
    }
)
_CLOSED: Final = frozenset(
    {"connection is closed", "cannot perform operation: connection is closed"}
)
#: Where PostgreSQL finds out that a migration made a plan stale; its code, 0A000, has other causes.
_STALE_PLAN: Final = "RevalidateCachedQuery"


def origin(error: BaseException) -> BaseException:
    """Return the driver's own error below SQLAlchemy's, of which asyncpg's has two layers."""
    while isinstance(error, (exc.StatementError, exc.EmulatedDBAPIException)):
        below = error.orig or error.__cause__
        if below is None:
            break
        error = below
    return error


def sqlstate(error: BaseException) -> str:
    """Return the server's five-character code, or an empty string."""
    return str(getattr(origin(error), "sqlstate", None) or "")


def errno(error: BaseException) -> int:
    """Return MariaDB's error number, or 0."""
    below = origin(error)
    number = below.args[0] if below.args and _driver(below) == "asyncmy" else 0
    return number if isinstance(number, int) else 0


def _driver(below: BaseException) -> str:
    return type(below).__module__.partition(".")[0]


def _refusal(error: BaseException) -> str:
    """Return what asyncpg's client refused to do; empty for every other error."""
    below = origin(error)
    is_refusal = _driver(below) == "asyncpg" and type(below).__name__ == "InterfaceError"
    return str(below) if is_refusal else ""


def _is_stale_plan(error: BaseException) -> bool:
    below: Any = origin(error)
    found = getattr(below, "server_source_function", None)  # asyncpg
    if found is None and _driver(below) == "psycopg":
        found = below.diag.source_function
    return bool(found == _STALE_PLAN)


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
        or is_uncoded(error)
        or _refusal(error) in _CLOSED  # raw: lost while SQLAlchemy was setting it up
    )


def is_uncoded(error: BaseException) -> bool:
    """Return True when *error* of a connection attempt has no code: psycopg's never has.

    A server that is not there and one that refuses us look the same then; `refuses_us` of
    `db_manager.dialects.postgresql.psycopg_connection` can ask.
    """
    return (
        isinstance(error, exc.OperationalError)
        and _driver(origin(error)) == "psycopg"
        and not sqlstate(error)
    )


def is_other_task_busy(error: BaseException) -> bool:
    """Return True when a statement of another task still runs on the connection."""
    return _refusal(error) in _OTHER_TASK


def commit_is_undone(error: BaseException) -> bool:
    """Return True when *error* of a COMMIT proves that nothing was written.

    Args:
        error: What COMMIT raised.

    Returns:
        True when the server answered with an error, or the driver did not send COMMIT. False when
        the answer is missing: then nobody here can know.
    """
    if isinstance(error, TransactionAbortedError):
        return True  # answered with ROLLBACK
    if state := sqlstate(error):
        # PgBouncer says 08P01 when its server is gone.
        return state not in LOST and not state.startswith("08")
    if number := errno(error):  # those from 2000 on are the client's: it waited in vain
        return number != _MYSQL_KILLED and number // 1000 != _MYSQL_CLIENT
    if _driver(origin(error)) == "sqlite3":
        return getattr(origin(error), "sqlite_errorcode", 0) not in _SQLITE_UNSURE
    return _refusal(error) != ""  # asyncpg's client sent nothing


def is_retryable(error: BaseException) -> bool:
    """Return True when the whole unit may be tried again: nothing of it was written.

    Args:
        error: What left the unit. An unknown outcome is never retryable; a connection lost before
            COMMIT is, because then the server rolled back.
    """
    if isinstance(error, DatabaseUnavailableError):
        return True
    if not isinstance(error, exc.DBAPIError) or is_other_task_busy(error):
        return False
    return (
        sqlstate(error) in UNDONE | UNAVAILABLE | LOST
        or errno(error) in MYSQL_UNDONE | MYSQL_LOST
        or is_busy(error)
        or is_disconnect(error)
        or _refusal(error) in _CLOSED
        or _is_stale_plan(error)  # gone at the next try
    )
