"""What a driver knows of the state of its connection without asking the server."""

import select
from typing import Any, Final

from db_manager.dialects.sqlite.connection import SqliteConnection

#: The drivers of which `is_closed` and `is_dead` know the truth.
KNOWN: Final = frozenset({"asyncpg", "psycopg", "asyncmy", "aiosqlite"})
#: MariaDB's flag for "in a transaction", in the status that comes with each answer.
_MYSQL_IN_TRANSACTION: Final = 1
#: What a socket says whose other side has said good-bye, also behind unread data (Linux).
_HUNG_UP: Final = getattr(select, "POLLRDHUP", 0)


def is_closed(driver: Any) -> bool:
    """Return True when the connection is known to be gone, whoever uses it now.

    Args:
        driver: The driver's own connection.
    """
    if hasattr(driver, "is_in_transaction"):  # asyncpg: its transport tells it
        return bool(driver.is_closed())
    if hasattr(driver, "pgconn"):  # psycopg looks at its socket only when it uses it
        return driver.closed or (_HUNG_UP > 0 and _polled(driver.pgconn.socket, _HUNG_UP))
    if isinstance(driver, SqliteConnection):
        return driver.closed
    if hasattr(driver, "_stream_broken"):  # asyncmy; guarded by a test
        return bool(driver._stream_broken)  # noqa: SLF001 -- it has no public word for it
    return bool(getattr(driver, "closed", False))


def is_dead(driver: Any) -> bool:
    """Return True when an idle connection is gone, or is still in somebody's transaction.

    It costs no round trip: an idle server says nothing but good-bye.

    Args:
        driver: The driver's own connection, which nobody uses.
    """
    if hasattr(driver, "is_in_transaction"):
        return bool(driver.is_closed() or driver.is_in_transaction())
    if hasattr(driver, "pgconn"):
        # Not `driver.info`: it makes two objects for a number.
        if driver.closed or driver.pgconn.transaction_status != 0:
            return True
        return _polled(driver.pgconn.socket, getattr(select, "POLLIN", 0))
    if hasattr(driver, "_stream_broken"):
        return bool(driver._stream_broken or driver.server_status & _MYSQL_IN_TRANSACTION)  # noqa: SLF001 -- as above
    return is_closed(driver)


def is_settled(driver: Any) -> bool:
    """Return True when the driver knows that a ROLLBACK would find nothing to undo.

    Args:
        driver: The driver's own connection, as a unit leaves it.
    """
    if hasattr(driver, "pgconn"):
        pipelined: object = getattr(driver, "_pipeline", None)  # as in `is_in_the_middle`
        return driver.pgconn.transaction_status == 0 and pipelined is None
    if isinstance(driver, SqliteConnection):
        return driver.settled
    if hasattr(driver, "_stream_broken"):
        return not (driver.server_status & _MYSQL_IN_TRANSACTION or driver._stream_broken)  # noqa: SLF001 -- as above
    return False  # SQLAlchemy's adapter of asyncpg asks itself


def is_silent(error: BaseException) -> bool:
    """Return True when *error* of a lost connection says that nobody spoke any more.

    Then other connections that go the same way are lost as well, and do not know it.

    Args:
        error: The driver's error.
    """
    cause = error.__cause__
    return isinstance(error, TimeoutError) or (cause is not None and is_silent(cause))


def _polled(file: int, events: int) -> bool:
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([file], [], [], 0)[0])
    poller = select.poll()  # select() refuses the files of a process with more than 1024 of them
    poller.register(file, events)
    return bool(poller.poll(0))
