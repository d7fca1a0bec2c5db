"""What an error of a driver means: by its code, its class and its phase, never by its words.

SQLAlchemy's class tells nothing: it reports asyncpg's deadlocks as plain `DBAPIError`. The text of
an error holds what users typed and is never searched; three texts that asyncpg has instead of
codes are compared as a whole. What a code means is in the dialects.
"""

from sqlalchemy import exc

from db_manager.dialects.known import dialect_behind
from db_manager.errors import DatabaseUnavailableError, TransactionAbortedError


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


def is_disconnect(error: BaseException) -> bool:
    """Return True when the connection did not survive *error*."""
    below = origin(error)
    return (
        getattr(error, "connection_invalidated", False)
        or isinstance(below, (OSError, EOFError))
        or dialect_behind(below).is_lost(below)
    )


def is_silent(error: BaseException) -> bool:
    """Return True when *error* of a lost connection says that nobody spoke any more.

    Then other connections that go the same way are lost as well, and do not know it.

    Args:
        error: The driver's error.
    """
    cause = error.__cause__
    return isinstance(error, TimeoutError) or (cause is not None and is_silent(cause))


def is_unavailable(error: BaseException) -> bool:
    """Return True when *error* of a connection attempt says that the server is not there now."""
    below = origin(error)
    dialect = dialect_behind(below)
    return (
        isinstance(below, OSError)  # refused, DNS, TLS, timeout
        or dialect.is_unavailable(below)
        or dialect.is_lost(below)
        or is_uncoded(error)
    )


def is_uncoded(error: BaseException) -> bool:
    """Return True when *error* of a connection attempt has no code: psycopg's never has."""
    below = origin(error)
    return isinstance(error, exc.OperationalError) and dialect_behind(below).is_uncoded(below)


async def refuses_us(error: BaseException) -> bool:
    """Return True when the server takes connections, and refused ours without a code.

    Args:
        error: What the attempt raised.
    """
    below = origin(error)
    return is_uncoded(error) and await dialect_behind(below).refuses_us(below)


def is_other_task_busy(error: BaseException) -> bool:
    """Return True when a statement of another task still runs on the connection."""
    below = origin(error)
    return dialect_behind(below).is_other_task_busy(below)


def needs_transaction(error: BaseException) -> bool:
    """Return True when the statement has to be inside of a transaction block."""
    below = origin(error)
    return dialect_behind(below).needs_transaction(below)


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
    below = origin(error)
    return dialect_behind(below).was_not_committed(below)


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
    below = origin(error)
    dialect = dialect_behind(below)
    return (
        dialect.is_undone(below)
        or dialect.is_unavailable(below)
        or is_disconnect(error)
        or dialect.is_stale_plan(below)  # gone at the next try
    )
