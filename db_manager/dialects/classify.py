"""Classifies errors of drivers by code, class and phase, never by words of their text.

SQLAlchemy's class is not enough: it reports asyncpg's deadlocks as plain `DBAPIError`. The text of
an error may contain what users typed, and is never searched. Only the few texts that asyncpg's
client has instead of codes are compared, as a whole. What a code means is in the dialects.
"""

from sqlalchemy import exc

from db_manager.dialects.in_use import origin
from db_manager.dialects.known import dialect_behind
from db_manager.errors import DatabaseUnavailableError


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of *error*, or an empty string."""
    return str(getattr(origin(error), "sqlstate", None) or "")


def is_disconnect(error: BaseException) -> bool:
    """Return True if *error* means that the connection is lost."""
    below = origin(error)
    return (
        getattr(error, "connection_invalidated", False)
        or isinstance(below, (OSError, EOFError))
        or dialect_behind(below).is_lost(below)
    )


def is_unavailable(error: BaseException) -> bool:
    """Return True if *error*, of a connection attempt, means that the server is unavailable."""
    below = origin(error)
    dialect = dialect_behind(below)
    return (
        isinstance(below, OSError)  # refused, DNS, TLS, timeout
        or dialect.is_unavailable(below)
        or dialect.is_lost(below)
        or is_uncoded(error)
    )


def is_uncoded(error: BaseException) -> bool:
    """Return True if *error*, of a connection attempt, has no code, as always with psycopg."""
    below = origin(error)
    return isinstance(error, exc.OperationalError) and dialect_behind(below).is_uncoded(below)


async def refuses_us(error: BaseException) -> bool:
    """Return True if the server accepts connections but refused ours, without a code.

    Args:
        error: The error of the connection attempt.
    """
    below = origin(error)
    return is_uncoded(error) and await dialect_behind(below).refuses_us(below)


def is_other_task_busy(error: BaseException) -> bool:
    """Return True if a statement of another task is still running on the connection."""
    below = origin(error)
    return dialect_behind(below).is_other_task_busy(below)


def is_undone(error: BaseException) -> bool:
    """Return True if the server rolled back, as for a lock that was not free, and may succeed."""
    below = origin(error)
    return isinstance(error, exc.DBAPIError) and dialect_behind(below).is_undone(below)


def is_retryable(error: BaseException) -> bool:
    """Return True if the whole unit may be retried, because it wrote nothing.

    Args:
        error: The error that left the unit. An unknown outcome is never retryable. A connection
            lost before COMMIT is, because the server then rolls back.
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
        or dialect.is_stale_plan(below)  # the next attempt gets a new plan
    )
