"""The part of a SQLite connection that runs in the driver's thread."""

import asyncio
import sqlite3
from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import Any, Final
from weakref import WeakSet

from db_manager.dialects.sqlite.locks import Patience, is_repeatable
from db_manager.dialects.sqlite.statement import kind
from db_manager.dialects.sqlite.stoppable import Stoppable

#: Most rows that are returned with the statement; further rows are fetched on demand.
FIRST_ROWS: Final = 1000
#: Seconds between two interruptions of one call.
PAUSE: Final = 0.01


class InThread(Stoppable):
    """The half of our connection whose methods run in the driver's thread.

    Args:
        connect: Opens the database; called in the driver's thread.
        read_only: Refuse writes, and begin no transaction: each statement sees the newest rows.
        lock_timeout: Longest wait in seconds for the lock of another process.
    """

    def __init__(
        self, connect: Callable[[], sqlite3.Connection], *, read_only: bool, lock_timeout: float
    ) -> None:
        super().__init__(self._open, iter_chunk_size=64)
        self._connect_here = connect
        self._opened: sqlite3.Connection | None = None
        #: Held by who interrupts, and by the thread when a call ends, or when it closes: from then
        #: on nobody does.
        self.interrupting = Lock()
        self._interruptible = True
        # The BEGIN before the first statement of a transaction (None: no transaction), and
        # whether writes are refused.
        self._usual: tuple[str | None, bool] = (
            (None, True) if read_only else ("BEGIN IMMEDIATE", False)
        )
        self._begin: str | None
        self._begin, self._read_only = self._usual
        self._in_transaction = False
        #: True when its transaction began without the write lock.
        self._reads_first = False
        #: True after a statement failed; as on PostgreSQL, COMMIT is then refused.
        self._failed = False
        #: The last value set for `PRAGMA query_only`; None if it must be set again.
        self._query_only: bool | None = False
        #: Cursors that may have unread rows, which keep a snapshot of the database open.
        self._unread: WeakSet[sqlite3.Cursor] = WeakSet()
        self._patience = Patience(lock_timeout)
        #: Tells whether a caller waits for the call that the driver's thread is making.
        self.still_wanted: Callable[[], bool] | None = None
        #: Number of transactions that ended on it, with statements that committed by themselves.
        self.ends = 0

    def _of_driver(self, fn: Callable[..., Any], begins: bool, *args: Any, **kwargs: Any) -> Any:  # noqa: FBT001 -- the arguments of the driver's call follow
        connection, patience = self._conn, self._patience
        if begins:
            self._begin_here(connection)
        else:
            self._refuse_writes(connection)
        sql = args[0] if args and patience.is_statement(fn) else ""
        if args and isinstance(args[0], str):
            self._doubt(args[0])
        call: Callable[..., Any] = fn
        if patience.is_touched(fn, sql) or (sql and not is_repeatable(args[1:])):
            call = partial(patience.untouched, connection, fn)
        elif sql:
            call = partial(self._patiently, connection, fn)
        result = self._make(connection, sql, call, *args, **kwargs)
        if isinstance(result, sqlite3.Cursor):
            self._unread.add(result)
        return result

    def _make(
        self,
        connection: sqlite3.Connection,
        sql: str,
        call: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Make *call* for *sql*, and note its effect on the transaction.

        Raises:
            OperationalError: *sql* begins a savepoint, and a statement before it failed.
        """
        what = kind(sql)
        if what == "savepoint" and self._failed:
            raise sqlite3.OperationalError("a statement failed before this savepoint")
        begun, failed = connection.in_transaction, True
        try:
            result = call(*args, **kwargs)
            failed = False
            if what == "undo":
                self._failed = False
            return result
        finally:
            self._in_transaction = connection.in_transaction
            if self._begin and not self._in_transaction:
                # A statement that fails may also end the transaction, but never commits it. If
                # none had begun, a statement commits by itself, and an executemany that fails
                # half-way has committed the rows before.
                self.ends += int(not failed if begun else not what)

    def _begin_here(self, connection: sqlite3.Connection) -> None:
        self._refuse_writes(connection)
        if self._begin and not connection.in_transaction and begins(connection):
            begin = self._begin_with()
            self._reads_first = begin == "BEGIN"
            self._patiently(connection, connection.execute, begin)

    @abstractmethod
    def _begin_with(self) -> str:
        """Return the BEGIN of the next transaction."""

    def _refuse_writes(self, connection: sqlite3.Connection) -> None:
        if self._query_only is not self._read_only:
            connection.execute(f"PRAGMA query_only = {int(self._read_only)}")
            self._query_only = self._read_only

    def _doubt(self, sql: str) -> None:
        """Set `query_only` again before the next statement if *sql* may switch it off."""
        if self._query_only and "pragma" in sql.lower():
            self._query_only = None

    def _patiently(
        self, connection: sqlite3.Connection, fn: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        before = connection.total_changes
        try:
            return fn(*args, **kwargs)
        except sqlite3.OperationalError as error:

            def may_retry() -> bool:  # not if an executemany has written its first rows
                return self._is_wanted() and connection.total_changes == before

            return self._patience.again(partial(fn, *args, **kwargs), error, may_retry)

    def run_sql(self, method: str, sql: str, parameters: Any) -> tuple[sqlite3.Cursor, list[Any]]:
        """Begin if needed, execute, and return the cursor and its first rows."""
        connection, what = self._conn, kind(sql)
        if what == "begin" and not connection.in_transaction:
            self._refuse_writes(connection)
            self._reads_first = False
        elif what not in {"waiting", "level"}:  # settings of the connection, not of a transaction
            self._begin_here(connection)
        self._doubt(sql)
        call: Callable[..., Any] = partial(self._patiently, connection)
        if what == "waiting" or not is_repeatable((parameters,)):
            call = partial(self._patience.untouched, connection)
        cursor: sqlite3.Cursor
        rows: list[Any]
        execute = getattr(connection, method)
        cursor, rows = self._make(connection, sql, call, _executed, execute, sql, parameters)
        if len(rows) == FIRST_ROWS:
            self._unread.add(cursor)
        return cursor, rows

    def _end_here(self, sql: str) -> None:
        connection = self._conn
        self.ends += int(connection.in_transaction)
        try:
            # An unread cursor would keep its snapshot, so that the log could never be truncated.
            self._close_unread()
            if connection.in_transaction:  # some errors end the transaction
                self._patiently(connection, connection.execute, sql)
        except sqlite3.Error:
            # SQLite keeps a transaction whose COMMIT it refused: the next unit would be inside it.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        finally:
            self._in_transaction = connection.in_transaction

    def _close_unread(self) -> None:
        for cursor in list(self._unread):
            cursor.close()
        self._unread.clear()

    def _open(self) -> sqlite3.Connection:
        """Open the database, and keep the connection so that it is closed without a waiter, too."""
        self._opened = self._patience.open(self._connect_here, self._is_wanted)
        return self._opened

    def _is_wanted(self) -> bool:
        """Return True while a caller waits for the current call."""
        return self._running and (self.still_wanted is None or self.still_wanted())

    def interrupt_until(self, is_over: Callable[[], bool]) -> None:
        """End the statements that the driver's thread executes; called in the event loop.

        Again and again: SQLite forgets an interruption that comes before a statement has begun.

        Args:
            is_over: Returns True when what was to be ended has ended.
        """
        with self.interrupting:
            if is_over() or not self._interruptible:
                return
            if self._connection is not None:
                self._connection.interrupt()
        with suppress(RuntimeError):  # without an event loop the garbage collector is the caller
            asyncio.get_running_loop().call_later(PAUSE, self.interrupt_until, is_over)

    def _close_opened(self, *, empties_log: bool) -> None:
        """Roll back, and close, so that the last one to close leaves one complete file.

        SQLite keeps a closed connection open while a statement of it is referenced, for example
        by the traceback of a cancellation. Its transaction would keep the lock for that long.

        Args:
            empties_log: Copy the write-ahead log into the file, because another process may keep
                the log in use.
        """
        with self.interrupting:
            self._interruptible = False
        if self._opened is None:
            return
        # SQLite remembers an interruption until the next statement. The checkpoint of the last
        # close would be interrupted, and the log left beside a file without its tables.
        last = "PRAGMA wal_checkpoint(PASSIVE)" if empties_log else "SELECT 1"
        with suppress(sqlite3.Error):  # it is closed already
            self._close_unread()
            self._opened.rollback()
            self._opened.execute(last).close()
        self._opened.close()


def begins(connection: sqlite3.Connection) -> bool:
    """Return True unless SQLAlchemy has set AUTOCOMMIT on *connection*."""
    return connection.isolation_level is not None


def _executed(
    execute: Callable[..., sqlite3.Cursor], sql: str, parameters: Any
) -> tuple[sqlite3.Cursor, list[Any]]:
    cursor = execute(sql, parameters)
    return cursor, cursor.fetchmany(FIRST_ROWS) if cursor.description else []
