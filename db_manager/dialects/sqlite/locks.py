"""Waits for locks of other processes on a SQLite file, in short slices that can be cancelled."""

import sqlite3
import time
from collections.abc import Callable
from typing import Any, Final

from db_manager.dialects.sqlite.statement import kind

#: Longest wait of SQLite itself, in seconds: it sleeps in C and cannot be interrupted.
SLICE: Final = 0.05
#: Methods of the driver that run one statement, which had no effect if it met a lock.
_STATEMENTS: Final = frozenset({"execute", "executemany", "_execute_insert", "_execute_fetchall"})
#: Methods that run several statements: they cannot be repeated, so they wait in C.
_SCRIPTS: Final = frozenset({"executescript", "backup"})
#: What SQLite says of every lock.
_BARE: Final = "database is locked"


class Patience:
    """The wait of a connection for locks; its methods run in the driver's thread.

    SQLite itself waits at most `SLICE`; then the call is repeated, until it is cancelled or the
    timeout is over. The timeout is that of the driver, or of `PRAGMA busy_timeout`.

    Args:
        seconds: Longest wait in seconds.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def open(
        self, connect: Callable[[], sqlite3.Connection], wanted: Callable[[], bool]
    ) -> sqlite3.Connection:
        """Open a database.

        Args:
            connect: Opens it, with a timeout of one slice.
            wanted: Returns True while the caller waits.

        Returns:
            A connection that waits in slices.
        """
        try:
            connection = connect()
        except sqlite3.OperationalError as error:
            # SQLite does not wait where a file that is not in WAL mode yet is being written: its
            # busy handler is not called for `PRAGMA journal_mode`.
            connection = self.again(connect, error, wanted, pause=SLICE)
        self._wait_in_slices(connection)
        return connection

    def again(
        self,
        call: Callable[[], Any],
        error: sqlite3.OperationalError,
        wanted: Callable[[], bool],
        *,
        pause: float = 0,
    ) -> Any:
        """Repeat *call* until it meets no lock.

        Args:
            call: The call that failed.
            error: Its error.
            wanted: Returns True while the caller waits and the call has had no effect.
            pause: Seconds to wait for SQLite where it does not wait; 0 if that means that waiting
                cannot help, as in a deadlock.

        Returns:
            The result of *call*.

        Raises:
            OperationalError: The timeout is over, the call is not wanted any more, or waiting
                does not help.
        """
        at_once = min(SLICE, self.seconds)
        now = time.monotonic()
        end = now + self.seconds - at_once
        while _may_end(error) and wanted() and now < end:
            try:
                return call()
            except sqlite3.OperationalError as later:
                error = later
            asked, now = now, time.monotonic()
            if now - asked < at_once / 2:
                if not pause:
                    break
                time.sleep(pause)
        raise error

    def explain(self, error: sqlite3.OperationalError, *, reads_first: bool) -> None:
        """Say in the text of *error*, if it is of a lock, what is locked and what to do.

        Args:
            error: The error, which keeps its code.
            reads_first: Its transaction began without the write lock.
        """
        code = getattr(error, "sqlite_errorcode", 0)
        if not is_lock(error) or str(error) != _BARE:
            return
        said = f"somebody outside of this engine wrote for {self.seconds:g} s (lock_timeout)"
        if reads_first or code == sqlite3.SQLITE_BUSY_SNAPSHOT:
            said = (
                "this transaction read before somebody else wrote, so it may not write; roll it "
                "back and begin again, in a unit (`async with uow_factory()`) or with BEGIN "
                "IMMEDIATE as the first statement"
            )
        error.args = (f"{_BARE}: {said}",)

    def is_statement(self, fn: Callable[..., Any]) -> bool:
        """Return True if *fn* of the driver may be repeated after it met a lock."""
        return called(fn) in _STATEMENTS

    def is_script(self, fn: Callable[..., Any]) -> bool:
        """Return True if *fn* of the driver runs a script."""
        return called(fn) == "executescript"

    def is_touched(self, fn: Callable[..., Any], sql: str) -> bool:
        """Return True if the call for *sql* needs SQLite to have its full timeout."""
        return kind(sql) == "waiting" or called(fn) in _SCRIPTS

    def untouched(
        self, connection: sqlite3.Connection, fn: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Call *fn* while SQLite has its full timeout, and read the timeout afterwards.

        Args:
            connection: The connection.
            fn: Reads or sets `busy_timeout`, or cannot be repeated.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

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


def called(fn: Callable[..., Any]) -> str:
    """Return the name of the driver's method that *fn* is."""
    return getattr(fn, "__name__", "")


def is_repeatable(parameters: tuple[Any, ...]) -> bool:
    """Return True if a statement with *parameters* can be repeated; an iterator can be read once.

    Args:
        parameters: The arguments of the driver's method after the statement.
    """
    for given in parameters:  # noqa: SIM110 -- `any` would make a generator for each statement
        if hasattr(given, "__next__"):
            return False
    return True


def is_lock(error: sqlite3.Error) -> bool:
    """Return True if *error* is of a lock of another connection."""
    code = getattr(error, "sqlite_errorcode", 0)  # the driver's own errors have none
    return code & 0xFF == sqlite3.SQLITE_BUSY


def _may_end(error: sqlite3.OperationalError) -> bool:
    # A snapshot that is too old to write stays too old.
    return is_lock(error) and error.sqlite_errorcode != sqlite3.SQLITE_BUSY_SNAPSHOT
