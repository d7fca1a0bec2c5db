"""A SQLite connection that loses no update and crosses threads once per statement.

The stock driver begins a transaction only before the first write, so that two units read the same
value and one update is lost; and it crosses to its thread for the cursor, the statement, the rows
and the close. Here the first statement's crossing brings its BEGIN IMMEDIATE along and takes the
rows back, and COMMIT is the second and last crossing.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Self

import aiosqlite

from db_manager.errors import TransactionAbortedError

#: Rows that come back with the statement itself; more are fetched when they are asked for.
FIRST_ROWS = 1000


def connector(path: str, *, synchronous: str, **arguments: Any) -> Callable[[], Any]:
    """Return a function that opens *path* with settings that are safe for several units.

    Args:
        path: File, `:memory:` or a `file:` URI.
        synchronous: `NORMAL` (survives kill -9) or `FULL` (also power loss).
        **arguments: For `sqlite3.connect`, as `timeout`: seconds to wait for the lock of another
            process.

    Returns:
        A function for the driver's thread.
    """

    def connect() -> sqlite3.Connection:
        options = {"uri": path.startswith("file:"), **arguments, "isolation_level": None}
        connection: sqlite3.Connection = sqlite3.connect(path, **options)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    return connect


class SqliteConnection(aiosqlite.Connection):
    """aiosqlite's connection with one crossing per statement.

    Args:
        connect: Opens the database in the driver's thread.
        read_only: Refuse writes, and begin no transaction: each statement sees the newest rows.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], *, read_only: bool) -> None:
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
        self._query_only = False
        #: How many transactions ended on it so far.
        self.ends = 0
        #: The next crossing to the thread begins the transaction, whatever it is for.
        self._begin_next = False
        self._stopping: asyncio.Future[Any] | None = None

    @property
    def closed(self) -> bool:
        """True when nothing can be executed any more."""
        return self._connection is None or not self._running

    def begin_snapshot(self) -> None:
        """Make the next transaction a read-only one whose statements share a snapshot."""
        self._begin, self._read_only = "BEGIN", True

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        in_transaction = self._in_transaction or self._begin_next
        begins, self._begin_next = self._begin_next, False
        call = _Call(self, partial(self._after_begin, fn) if begins else fn)
        try:
            return await super()._execute(call, *args, **kwargs)  # type: ignore[no-untyped-call]  # untyped there
        except asyncio.CancelledError:
            # Otherwise the statement goes on in its thread and keeps the write lock.
            call.cancelled = True
            self._begin_next = begins  # it may not have begun
            self._interrupt()
            raise
        except sqlite3.Error:
            self._begin_next = begins
            self._failed = self._failed or in_transaction
            raise

    def _interrupt(self) -> None:
        if self._connection is not None:
            self._connection.interrupt()

    def cursor(self) -> "SqliteCursor":  # type: ignore[override]  # SQLAlchemy needs no more of it
        """Return a cursor; nothing crosses to the thread before its first statement."""
        return SqliteCursor(self)

    def executescript(self, sql_script: str) -> Any:
        """Run a script; Python commits an open transaction before its first statement."""
        self.ends += int(self._in_transaction or self._begin_next)
        return super().executescript(sql_script)

    def begin_with_next(self) -> None:
        """Begin the transaction in the same crossing as the next statement, on whatever lane."""
        self._begin_next = not self._in_transaction

    def _after_begin(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            self._begin_here()
            return fn(*args, **kwargs)
        finally:
            self._in_transaction = self._conn.in_transaction

    def _begin_here(self) -> None:
        connection = self._conn
        if self._query_only is not self._read_only:
            connection.execute(f"PRAGMA query_only = {int(self._read_only)}")
            self._query_only = self._read_only
        if self._begin and not connection.in_transaction:
            connection.execute(self._begin)

    def run(self, method: str, sql: str, parameters: Any) -> tuple[sqlite3.Cursor, list[Any]]:
        """In the driver's thread: begin when needed, execute, bring the first rows along."""
        connection = self._conn
        self._begin_here()
        try:
            if self._failed and sql.startswith("SAVEPOINT"):
                raise sqlite3.OperationalError("a statement failed before this savepoint")
            cursor: sqlite3.Cursor = getattr(connection, method)(sql, parameters)
            if sql.startswith("ROLLBACK TO"):
                self._failed = False
            return cursor, cursor.fetchmany(FIRST_ROWS) if cursor.description else []
        finally:
            self._in_transaction = connection.in_transaction

    async def commit(self) -> None:
        """Commit, without a crossing when nothing was begun.

        Raises:
            TransactionAbortedError: A statement had failed, on whatever lane, and nobody undid it.
        """
        if self._failed:
            await self.rollback()
            raise TransactionAbortedError
        self._begin, self._read_only = self._usual
        self._begin_next = False
        if self._in_transaction:
            await self._execute(self._end, "COMMIT")

    async def rollback(self) -> None:
        """Roll back, without a crossing when nothing was begun."""
        self._begin, self._read_only = self._usual
        self._failed = self._begin_next = False
        if self._in_transaction:
            await self._execute(self._end, "ROLLBACK")

    def _end(self, sql: str) -> None:
        connection = self._conn
        try:
            if connection.in_transaction:  # some errors end the transaction by themselves
                connection.execute(sql)
        finally:
            self._in_transaction = connection.in_transaction

    def _open(self) -> sqlite3.Connection:
        """In the driver's thread: open, and remember it for a caller that does not wait."""
        self._opened = self._connect_here()
        return self._opened

    def _close_opened(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def stop(self) -> asyncio.Future[Any] | None:
        """Close from outside of the event loop's turn; a second stop waits for the first one.

        aiosqlite would wait for ever for a thread that has ended already.
        """
        if self._stopping is None:
            self._interrupt()
            self._tx.put_nowait((None, self._close_opened))
            self._stopping = super().stop()
        return self._stopping

    async def close(self) -> None:
        """Interrupt what still runs, then close; a cancellation leaves nothing open."""
        stopping = self.stop()
        if stopping is not None:
            await stopping


class _Call:
    """A call for the driver's thread that is not made once it was cancelled."""

    __slots__ = ("_connection", "cancelled", "fn")

    def __init__(self, connection: SqliteConnection, fn: Callable[..., Any]) -> None:
        self._connection = connection
        self.fn = fn
        self.cancelled = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.cancelled:
            return None
        opened = self._connection._conn  # noqa: SLF001 -- the call is a part of the connection
        begun = opened.in_transaction
        result = self.fn(*args, **kwargs)
        # A statement that fails can end the transaction too, but never commits it.
        if begun and not opened.in_transaction:
            self._connection.ends += 1
        return result


class SqliteCursor:
    """The cursor that SQLAlchemy sees: its rows are here already.

    Args:
        connection: The connection it belongs to.
    """

    arraysize = 1

    def __init__(self, connection: SqliteConnection) -> None:
        self._connection = connection
        self._cursor: sqlite3.Cursor | None = None
        self._rows: list[Any] = []
        self._more = False
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, sql: str, parameters: Iterable[Any] = ()) -> Self:
        """Execute one statement, beginning the transaction when it is the first."""
        return await self._run("execute", sql, parameters)

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> Self:
        """Execute one statement for every row of *parameters*."""
        return await self._run("executemany", sql, parameters)

    async def _run(self, method: str, sql: str, parameters: Any) -> Self:
        connection = self._connection
        cursor, self._rows = await connection._execute(connection.run, method, sql, parameters)  # noqa: SLF001 -- the cursor is the connection's other half
        self._cursor = cursor
        self._more = len(self._rows) == FIRST_ROWS
        self.description = cursor.description
        self.rowcount = cursor.rowcount
        self.lastrowid = cursor.lastrowid
        return self

    async def _fetch(self, size: int | None) -> Sequence[Any]:
        if self._more and (size is None or len(self._rows) < size) and self._cursor is not None:
            run = self._connection._execute  # noqa: SLF001 -- as above
            if size is None:
                self._rows += await run(self._cursor.fetchall)
                self._more = False
            else:
                rows = await run(self._cursor.fetchmany, max(size, FIRST_ROWS))
                self._rows += rows
                self._more = len(rows) == max(size, FIRST_ROWS)
        size = len(self._rows) if size is None else size
        taken, self._rows = self._rows[:size], self._rows[size:]
        return taken

    async def fetchall(self) -> Sequence[Any]:
        """Return the remaining rows."""
        return await self._fetch(None)

    async def fetchmany(self, size: int | None = None) -> Sequence[Any]:
        """Return the next *size* rows."""
        return await self._fetch(size or self.arraysize)

    async def fetchone(self) -> Any:
        """Return the next row, or None."""
        rows = await self._fetch(1)
        return rows[0] if rows else None

    async def close(self) -> None:
        """Forget the rows; a cursor that was not read to its end is closed in its thread."""
        if self._more and self._cursor is not None:
            self._more = False
            await self._connection._execute(self._cursor.close)  # noqa: SLF001 -- as above
        self._rows = []
