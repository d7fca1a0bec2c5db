"""A SQLite connection that loses no update and crosses threads once per statement.

The stock driver begins a transaction only before the first write, so that two units read the same
value and one update is lost; and it crosses to its thread for the cursor, the statement, the rows
and the close. Here the first statement's crossing brings its BEGIN IMMEDIATE along and takes the
rows back, and COMMIT is the second and last crossing.
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
    """aiosqlite's connection with one crossing per statement.

    Args:
        connect: Opens the database in the driver's thread.
        read_only: Refuse writes, and begin no transaction: each statement sees the newest rows.
        lock_timeout: Seconds to wait for the lock of another process.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        *,
        read_only: bool,
        lock_timeout: float = 5.0,
    ) -> None:
        super().__init__(connect, read_only=read_only, lock_timeout=lock_timeout)
        #: The next crossing to the thread begins the transaction, whatever it is for.
        self._begin_next = False
        self._stopping: asyncio.Future[Any] | None = None

    @property
    def closed(self) -> bool:
        """True when nothing can be executed any more."""
        return self._connection is None or not self._running

    @property
    def begins_nothing(self) -> bool:
        """True when SQLAlchemy asked for AUTOCOMMIT."""
        return self._connection is not None and not begins(self._connection)

    def is_settled(self) -> bool:
        """Return True when nothing is open on it, and its next transaction is a usual one."""
        return not (self._in_transaction or self._unread or self._failed or self._begin_next) and (
            (self._begin, self._read_only) == self._usual
        )

    def begin_snapshot(self) -> None:
        """Make the next transactions read-only ones whose statements share a snapshot each."""
        self._begin, self._read_only = "BEGIN", True

    def end_snapshots(self) -> None:
        """Make the next transactions usual ones again."""
        self._begin, self._read_only = self._usual

    def _execute(
        self, fn: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Coroutine[Any, Any, Any]:
        """Make a call of aiosqlite's own: of the driver's lane."""
        if self._patience.is_script(fn):
            self.ends += 1  # Python commits an open transaction before its first statement
        return self.cross(partial(self._of_driver, fn, self._begin_next), *args, **kwargs)

    async def cross(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call *fn* in the driver's thread.

        Args:
            fn: What talks to the database.
            args: Its arguments.
            kwargs: The same by name.

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
            # It may not have begun, and some errors end the transaction: what follows would commit
            # itself.
            self._begin_next = in_transaction
            if not isinstance(error, Exception):
                # Otherwise the statement goes on in its thread and keeps the write lock.
                call.cancelled = True
                self.ends += int(self._may_end(args))  # later than anybody looks
                self._in_transaction = True  # for all that is known here; the end looks
                self._interrupt()
            raise

    def _may_end(self, args: tuple[Any, ...]) -> bool:
        """Return True when a call with *args* that nobody waits for may commit something."""
        if self.begins_nothing:
            return True
        return any(isinstance(sql, str) and ending(sql) in ENDS for sql in args)

    def _interrupt(self) -> None:
        if self._connection is not None:
            self._connection.interrupt()

    def cursor(self) -> SqliteCursor:  # type: ignore[override]  # SQLAlchemy needs no more of it
        """Return a cursor; nothing crosses to the thread before its first statement."""
        return SqliteCursor(self)

    def begin_with_next(self) -> None:
        """Begin the transaction in the same crossing as the next statement, on whatever lane."""
        self._begin_next = self._begin_next or not self._in_transaction

    async def commit(self) -> None:
        """Commit, without a crossing when nothing was begun.

        Raises:
            TransactionAbortedError: A statement had failed, on whatever lane, and nobody undid it.
        """
        if self._failed:
            await self.rollback()
            raise TransactionAbortedError
        await self._end("COMMIT")

    async def rollback(self) -> None:
        """Roll back, without a crossing when nothing was begun."""
        self._failed = False
        await self._end("ROLLBACK")

    async def _end(self, sql: str) -> None:
        self.ends += int(self._begin_next)  # nothing would begin what follows
        self._begin_next = False
        if self._in_transaction or self._unread:
            try:
                await self.cross(self._end_here, sql)
            finally:
                self._failed = self._begin_next = False  # it is over, whatever became of its COMMIT

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
