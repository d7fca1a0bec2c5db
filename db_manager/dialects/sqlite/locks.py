"""Waits for the locks of other processes on a SQLite file, in slices that a cancellation ends."""

import sqlite3
import time
from collections.abc import Callable
from typing import Any, Final

from db_manager.dialects.sqlite.statement import kind

#: Seconds that SQLite itself waits at a time; it sleeps in C, where nothing wakes it.
SLICE: Final = 0.05
#: Calls of the driver that are one statement, which took no effect when it found a lock.
_STATEMENTS: Final = frozenset({"execute", "executemany", "_execute_insert", "_execute_fetchall"})
#: Calls of the driver that are several: they cannot be made again, and wait in C.
_SCRIPTS: Final = frozenset({"executescript", "backup"})


class Patience:
    """How long a connection waits for a lock; its methods run in the driver's thread.

    SQLite waits for no more than `SLICE`, and what it could not do then is asked again: until
    nobody wants it any more, or for as long as `timeout` of the driver or `PRAGMA busy_timeout`
    said.

    Args:
        seconds: Longest wait.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def open(
        self, connect: Callable[[], sqlite3.Connection], wanted: Callable[[], bool]
    ) -> sqlite3.Connection:
        """Open a database.

        Args:
            connect: Opens it, with a wait of a slice.
            wanted: Tells whether somebody still waits.

        Returns:
            Its connection, that waits in slices.
        """
        try:
            connection = connect()
        except sqlite3.OperationalError as error:
            connection = self.again(connect, error, wanted)
        self._wait_in_slices(connection)
        return connection

    def again(
        self, call: Callable[[], Any], error: sqlite3.OperationalError, wanted: Callable[[], bool]
    ) -> Any:
        """Make *call* again until it finds no lock.

        Args:
            call: What failed.
            error: What it failed with.
            wanted: Tells whether somebody still waits, and it took no effect.

        Returns:
            The result of *call*.

        Raises:
            OperationalError: Time is over, nobody wants it, or it is no lock that could go.
        """
        at_once = min(SLICE, self.seconds)
        now = time.monotonic()
        end = now + self.seconds - at_once
        while _is_lock(error) and wanted() and now < end:
            try:
                return call()
            except sqlite3.OperationalError as later:
                error = later
            asked, now = now, time.monotonic()
            if now - asked < at_once / 2:
                break  # where a wait could not help, as of two for each other, SQLite does not wait
        raise error

    def is_statement(self, fn: Callable[..., Any]) -> bool:
        """Return True when *fn* of the driver may be called again after it found a lock."""
        return getattr(fn, "__name__", "") in _STATEMENTS

    def is_script(self, fn: Callable[..., Any]) -> bool:
        """Return True when *fn* of the driver runs several statements of a text."""
        return getattr(fn, "__name__", "") == "executescript"

    def is_touched(self, fn: Callable[..., Any], sql: str) -> bool:
        """Return True when the call for *sql* must not see that SQLite waits in slices."""
        return kind(sql) == "waiting" or getattr(fn, "__name__", "") in _SCRIPTS

    def untouched(
        self, connection: sqlite3.Connection, fn: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Call *fn* while SQLite itself waits as long as it was told, and learn how long that is.

        Args:
            connection: The connection.
            fn: What asks or sets `busy_timeout`, or cannot be called again.
            args: Its arguments.
            kwargs: The same by name.

        Returns:
            Its result.
        """
        connection.execute(f"PRAGMA busy_timeout = {int(self.seconds * 1000)}")
        try:
            return fn(*args, **kwargs)
        finally:
            asking = connection.cursor()
            asking.row_factory = None
            self.seconds = asking.execute("PRAGMA busy_timeout").fetchone()[0] / 1000
            self._wait_in_slices(connection)

    def _wait_in_slices(self, connection: sqlite3.Connection) -> None:
        milliseconds = int(min(SLICE, self.seconds) * 1000)
        connection.execute(f"PRAGMA busy_timeout = {milliseconds}")


def is_repeatable(parameters: tuple[Any, ...]) -> bool:
    """Return True when a statement with *parameters* can be made again: an iterator is used up.

    Args:
        parameters: What the driver gets beside the statement: values, or rows of them, or nothing.
    """
    for given in parameters:  # noqa: SIM110 -- `any` would make a generator for each statement
        if hasattr(given, "__next__"):
            return False
    return True


def _is_lock(error: sqlite3.OperationalError) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)  # the driver's own errors have none
    # A snapshot that is too old to write does not become younger.
    return code & 0xFF == sqlite3.SQLITE_BUSY and code != sqlite3.SQLITE_BUSY_SNAPSHOT
