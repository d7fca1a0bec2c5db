"""A SQLite connection that loses no update and calls its thread once per statement.

The stock driver begins a transaction only before the first write: two units can read the same
value, and one update is lost. It also calls its thread separately for the cursor, the statement,
the rows and the close. Here the call of the first statement also sends BEGIN IMMEDIATE and returns
the rows. For a unit of one statement, COMMIT is the second and last call.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from functools import partial
from typing import Any, Final, Self

from db_manager.dialects.ending_sql import ENDS, ending
from db_manager.dialects.sqlite.in_line import InLine
from db_manager.dialects.sqlite.in_thread import FIRST_ROWS, InThread, begins
from db_manager.dialects.sqlite.locks import called
from db_manager.errors import TransactionAbortedError

#: sqlite3 would wait for the lock of its own connection, without end, in a call that nothing ends.
_BACKUP: Final = (
    "backup() cannot copy through a connection that writes: open the unit with read_only=True, or "
    "use `await db_manager.backup(engine, path)`"
)


class SqliteConnection(InLine):
    """aiosqlite's connection with one call to its thread per statement.

    Args:
        connect: Opens the database; called in the driver's thread.
        read_only: Refuse writes, and begin no transaction: each statement sees the newest rows.
        lock_timeout: Longest wait in seconds for the lock of another process.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        *,
        read_only: bool,
        lock_timeout: float = 5.0,
    ) -> None:
        super().__init__(connect, read_only=read_only, lock_timeout=lock_timeout)
        #: True when the next call to the thread begins the transaction, whatever it does.
        self._begin_next = False
        #: True when no statement can be executed any more.
        self.closed = False
        self._stopping: asyncio.Future[Any] | None = None

    @property
    def begins_nothing(self) -> bool:
        """True when SQLAlchemy has set AUTOCOMMIT."""
        return self._connection is not None and not begins(self._connection)

    def is_settled(self) -> bool:
        """Return True if nothing is open on it, and no snapshot was asked for."""
        return not (self._in_transaction or self._unread or self._failed or self._begin_next) and (
            (self._begin, self._read_only) == self._usual
        )

    def begin_snapshot(self) -> None:
        """Make the next transactions read-only, each with one snapshot for its statements."""
        self._begin, self._read_only = "BEGIN", True

    def end_snapshots(self) -> None:
        """Undo `begin_snapshot`."""
        self._begin, self._read_only = self._usual

    def _execute(
        self, fn: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Coroutine[Any, Any, Any]:
        """Make a call of aiosqlite's own methods, from the driver's lane.

        Raises:
            OperationalError: It is `backup`, through a connection that writes.
        """
        if script := self._patience.is_script(fn):
            self.ends += 1  # Python commits an open transaction before its first statement
        if called(fn) == "backup" and self._is_writing():
            raise sqlite3.OperationalError(_BACKUP)
        call = partial(self._of_driver, fn, self._begin_next)
        if args and isinstance(args[0], str) and self.must_wait(args[0], script=script):
            return self.cross_in_turn(call, *args, **kwargs)
        return self.cross(call, *args, **kwargs)

    def _is_writing(self) -> bool:
        """Return True if the transaction, open or about to begin, has or gets the write lock."""
        if self._begin_next:
            return not self._read_only
        return self._in_transaction and not (self._reads_first and not self._took)

    async def cross(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call *fn* in the driver's thread.

        Args:
            fn: A function that uses the database.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Returns:
            Its result.
        """
        in_transaction = self._in_transaction or self._begin_next
        self._begin_next = False
        call = _Call(self, fn)
        try:
            return await super()._execute(call, *args, **kwargs)  # type: ignore[no-untyped-call]  # untyped there
        except BaseException as error:
            self._failed = self._failed or in_transaction
            if isinstance(error, sqlite3.OperationalError):
                self._patience.explain(error, reads_first=self._reads_first)
            # The transaction may not have begun, and some errors end it. The next statement would
            # commit by itself, so it must begin one.
            self._begin_next = in_transaction
            if not isinstance(error, Exception):
                # Otherwise the statement would continue in its thread and keep the write lock.
                self.ends += int(self._may_end(args))  # it would be noticed too late
                self._in_transaction = True  # a safe assumption; `_end_here` checks it
                call.cancel()
            raise
        finally:
            if self._took and not self._in_transaction:
                self._end_turn()

    def _may_end(self, args: tuple[Any, ...]) -> bool:
        """Return True if a cancelled call with *args* may commit something."""
        if self.begins_nothing:
            return True
        return any(isinstance(sql, str) and ending(sql) in ENDS for sql in args)

    def cursor(self) -> "SqliteCursor":  # type: ignore[override]  # what SQLAlchemy needs
        """Return a cursor; the thread is not called before its first statement."""
        return SqliteCursor(self)

    def begin_with_next(self) -> None:
        """Begin the transaction in the same call as the next statement, on any lane."""
        self._begin_next = self._begin_next or not self._in_transaction

    async def commit(self) -> None:
        """Commit; without a call to the thread if nothing has begun.

        Raises:
            TransactionAbortedError: A statement failed, on any lane, and was not undone by a
                savepoint.
        """
        if self._failed:
            await self.rollback()
            raise TransactionAbortedError
        await self._end("COMMIT")

    async def rollback(self) -> None:
        """Roll back; without a call to the thread if nothing has begun."""
        self._failed = False
        await self._end("ROLLBACK")

    async def _end(self, sql: str) -> None:
        self.ends += int(self._begin_next)  # what follows would run outside a transaction
        self._begin_next = False
        if self._in_transaction or self._unread:
            try:
                await self.cross(self._end_here, sql)
            finally:
                self._failed = self._begin_next = False  # it ended, whatever COMMIT did

    def stop(self) -> asyncio.Future[Any] | None:
        """Close without waiting; a second call, after the thread has ended, waits for the first."""
        self.closed = True
        if self._stopping is None:
            empties_log = self._begin == "BEGIN IMMEDIATE" and self.is_settled()
            self.call_unawaited(partial(self._close_opened, empties_log=empties_log))
            self._stopping = super().stop()
            self.interrupt_until(lambda: self._stopping is None or self._stopping.done())
            self._end_turn_after(self._stopping)
        return self._stopping

    async def close(self) -> None:
        """Interrupt a running statement, then close; a cancellation leaves nothing open."""
        if (stopping := self.stop()) is not None:
            await asyncio.shield(stopping)  # who is cancelled here does not end it for the others


class SqliteCursor:
    """The cursor that SQLAlchemy uses; it already has its first rows.

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

    def __await__(self) -> Generator[Any, None, Self]:
        return self.__aenter__().__await__()  # SQLAlchemy 2.0 awaits it, 2.1 enters it

    async def execute(self, sql: str, parameters: Iterable[Any] = ()) -> Self:
        """Execute one statement; the first one also begins the transaction."""
        return await self._run("execute", sql, parameters)

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> Self:
        """Execute one statement for every row of *parameters*."""
        return await self._run("executemany", sql, parameters)

    async def _run(self, method: str, sql: str, parameters: Any) -> Self:
        connection = self._connection
        line, cross = connection.line, connection.cross
        if line is not None and line.holder is not connection and connection.must_wait(sql):
            cross = connection.cross_in_turn
        try:
            cursor, self._rows = await cross(connection.run_sql, method, sql, parameters)
        except ValueError:
            if connection.closed:  # in these words, SQLAlchemy 2.0 sees that it is lost
                raise sqlite3.OperationalError("no active connection") from None
            raise
        self._cursor = cursor
        self._more = len(self._rows) == FIRST_ROWS
        self.description = cursor.description
        self.rowcount = cursor.rowcount
        self.lastrowid = cursor.lastrowid
        return self

    async def _fetch(self, size: int | None) -> Sequence[Any]:
        if self._more and (size is None or len(self._rows) < size) and self._cursor is not None:
            run = self._connection.cross
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
        """Drop the rows; if there are more, close the cursor in the driver's thread."""
        if self._more and self._cursor is not None:
            self._more = False
            await self._connection.cross(self._cursor.close)
        self._rows = []


class _Call:
    """A call for the driver's thread; once cancelled, it is skipped or interrupted."""

    __slots__ = ("_cancelled", "_connection", "_fn", "_over")

    def __init__(self, connection: InThread, fn: Callable[..., Any]) -> None:
        self._connection = connection
        self._fn = fn
        self._cancelled = self._over = False

    def cancel(self) -> None:
        """Skip it, or end what it does; called in the event loop when nobody waits for it."""
        self._cancelled = True
        self._connection.interrupt_until(lambda: self._over)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make the call, unless it was cancelled.

        Raises:
            Error: The call failed in sqlite3, and was not cancelled.
        """
        connection = self._connection
        connection.still_wanted = lambda: not self._cancelled
        try:
            return None if self._cancelled else self._fn(*args, **kwargs)
        except sqlite3.Error:
            if not self._cancelled:
                raise
            return None
        finally:
            connection.still_wanted = None
            with connection.interrupting:  # an interruption would strike the next call
                self._over = True
