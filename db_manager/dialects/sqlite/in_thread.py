"""What a SQLite connection does in the driver's thread."""

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import WeakSet

import aiosqlite

from db_manager.dialects.sqlite.cursor import FIRST_ROWS
from db_manager.dialects.sqlite.locks import Patience, is_repeatable
from db_manager.dialects.sqlite.statement import kind


class InThread(aiosqlite.Connection):
    """The half of our connection whose methods run in the driver's thread.

    Args:
        connect: Opens the database in the driver's thread.
        read_only: Refuse writes, and begin no transaction: each statement sees the newest rows.
        lock_timeout: Seconds to wait for the lock of another process.
    """

    def __init__(
        self, connect: Callable[[], sqlite3.Connection], *, read_only: bool, lock_timeout: float
    ) -> None:
        super().__init__(self._open, iter_chunk_size=64)
        self._connect_here = connect
        self._opened: sqlite3.Connection | None = None
        # What begins a transaction before its first statement; None begins none.
        self._usual: tuple[str | None, bool] = (
            (None, True) if read_only else ("BEGIN IMMEDIATE", False)
        )
        self._begin: str | None
        self._begin, self._read_only = self._usual
        self._in_transaction = False
        #: A statement of the transaction failed; PostgreSQL would refuse its COMMIT.
        self._failed = False
        #: What the connection was told last; None when it has to be told again.
        self._query_only: bool | None = False
        #: Cursors that may have rows left, which keep a snapshot of the database.
        self._unread: WeakSet[sqlite3.Cursor] = WeakSet()
        self._patience = Patience(lock_timeout)
        #: What the driver's thread does.
        self.crossing: Call | None = None
        #: How many transactions ended on it so far, statements that commit themselves among them.
        self.ends = 0

    def _of_driver(self, fn: Callable[..., Any], begins: bool, *args: Any, **kwargs: Any) -> Any:  # noqa: FBT001 -- what follows is the driver's
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
        """In the driver's thread: make *call* for *sql*, and see what it did to the transaction.

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
                # A statement that fails can end the transaction too, but never commits it. Where
                # none was begun, a statement commits itself, and of many rows those before the
                # one that failed.
                self.ends += int(not failed if begun else not what)

    def _begin_here(self, connection: sqlite3.Connection) -> None:
        self._refuse_writes(connection)
        if self._begin and not connection.in_transaction and begins(connection):
            self._patiently(connection, connection.execute, self._begin)

    def _refuse_writes(self, connection: sqlite3.Connection) -> None:
        if self._query_only is not self._read_only:
            connection.execute(f"PRAGMA query_only = {int(self._read_only)}")
            self._query_only = self._read_only

    def _doubt(self, sql: str) -> None:
        """Refuse writes anew before the next statement, when *sql* may switch that off."""
        if self._query_only and "pragma" in sql.lower():
            self._query_only = None

    def _patiently(
        self, connection: sqlite3.Connection, fn: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        before = connection.total_changes
        try:
            return fn(*args, **kwargs)
        except sqlite3.OperationalError as error:

            def has_sense() -> bool:  # of many rows, those before the lock are written
                return self._is_wanted() and connection.total_changes == before

            return self._patience.again(partial(fn, *args, **kwargs), error, has_sense)

    def run(self, method: str, sql: str, parameters: Any) -> tuple[sqlite3.Cursor, list[Any]]:
        """In the driver's thread: begin when needed, execute, bring the first rows along."""
        connection, what = self._conn, kind(sql)
        if what not in {"waiting", "level"}:  # about the connection, outside of transactions
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
            # What was not read to its end would keep its snapshot, and the log could only grow.
            self._close_unread()
            if connection.in_transaction:  # some errors end the transaction by themselves
                self._patiently(connection, connection.execute, sql)
        except sqlite3.Error:
            # SQLite keeps a transaction whose COMMIT it refused, and the next unit would be in it.
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
        """In the driver's thread: open, and remember it for a caller that does not wait."""
        self._opened = self._patience.open(self._connect_here, self._is_wanted)
        return self._opened

    def _is_wanted(self) -> bool:
        """In the driver's thread: whether somebody still waits for what it does."""
        return self._running and (self.crossing is None or self.crossing.is_wanted())

    def _close_opened(self) -> None:
        """In the driver's thread: undo what is open, and close.

        SQLite keeps what is closed while somebody has a statement of it, the traceback of a
        cancellation for example: its transaction would hold the lock for as long as that.
        """
        if self._opened is None:
            return
        with suppress(sqlite3.Error):  # it is closed already
            self._close_unread()
            self._opened.rollback()
        self._opened.close()


def begins(connection: sqlite3.Connection) -> bool:
    """Return True unless SQLAlchemy asked *connection* for AUTOCOMMIT."""
    return getattr(connection, "asked", "") is not None


def _executed(
    execute: Callable[..., sqlite3.Cursor], sql: str, parameters: Any
) -> tuple[sqlite3.Cursor, list[Any]]:
    cursor = execute(sql, parameters)
    return cursor, cursor.fetchmany(FIRST_ROWS) if cursor.description else []


class Call:
    """A call for the driver's thread that is not made, or given up, once it was cancelled."""

    __slots__ = ("_connection", "_fn", "cancelled")

    def __init__(self, connection: InThread, fn: Callable[..., Any]) -> None:
        self._connection = connection
        self._fn = fn
        self.cancelled = False

    def is_wanted(self) -> bool:
        """Return True while somebody waits for it."""
        return not self.cancelled

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make the call, unless nobody waits for it any more.

        Raises:
            Error: The call failed in sqlite3, and somebody still waits for its result.
        """
        if self.cancelled:
            return None
        connection = self._connection
        connection.crossing = self
        try:
            return self._fn(*args, **kwargs)
        except sqlite3.Error:
            if self.is_wanted():
                raise
            return None  # nobody waits for the answer any more
        finally:
            connection.crossing = None
