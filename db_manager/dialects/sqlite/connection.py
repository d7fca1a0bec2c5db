"""A SQLite connection that loses no update and calls its thread once per statement.

The stock driver begins a transaction only before the first write: two units can read the same
value, and one update is lost. It also calls its thread separately for the cursor, the statement,
the rows and the close. Here the call of the first statement also sends BEGIN IMMEDIATE and returns
the rows. For a unit of one statement, COMMIT is the second and last call.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from db_manager.dialects.ending_sql import ENDS, ending
from db_manager.dialects.sqlite.cursor import SqliteCursor
from db_manager.dialects.sqlite.in_thread import Call, InThread, begins
from db_manager.errors import TransactionAbortedError


class SqliteConnection(InThread):
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
        self._stopping: asyncio.Future[Any] | None = None

    @property
    def closed(self) -> bool:
        """True when no statement can be executed any more."""
        return self._connection is None or not self._running

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
        """Make a call of aiosqlite's own methods, from the driver's lane."""
        if self._patience.is_script(fn):
            self.ends += 1  # Python commits an open transaction before its first statement
        return self.cross(partial(self._of_driver, fn, self._begin_next), *args, **kwargs)

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
        call = Call(self, fn)
        try:
            return await super()._execute(call, *args, **kwargs)  # type: ignore[no-untyped-call]  # untyped there
        except BaseException as error:
            self._failed = self._failed or in_transaction
            # The transaction may not have begun, and some errors end it. The next statement would
            # commit by itself, so it must begin one.
            self._begin_next = in_transaction
            if not isinstance(error, Exception):
                # Otherwise the statement would continue in its thread and keep the write lock.
                call.cancelled = True
                self.ends += int(self._may_end(args))  # it would be noticed too late
                self._in_transaction = True  # a safe assumption; `_end_here` checks it
                self._interrupt()
            raise

    def _may_end(self, args: tuple[Any, ...]) -> bool:
        """Return True if a cancelled call with *args* may commit something."""
        if self.begins_nothing:
            return True
        return any(isinstance(sql, str) and ending(sql) in ENDS for sql in args)

    def _interrupt(self) -> None:
        if self._connection is not None:
            self._connection.interrupt()

    def cursor(self) -> SqliteCursor:  # type: ignore[override]  # as much of it as SQLAlchemy needs
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
        """Close without waiting; a second call returns the future of the first one.

        aiosqlite would wait forever for a thread that has already ended.
        """
        if self._stopping is None:
            self._interrupt()
            self._tx.put_nowait((None, self._close_opened))
            self._stopping = super().stop()
        return self._stopping

    async def close(self) -> None:
        """Interrupt a running statement, then close; a cancellation leaves nothing open."""
        stopping = self.stop()
        if stopping is not None:
            await stopping
