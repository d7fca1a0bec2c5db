"""How a connection outside of units writes: it waits in the line in which the units wait.

A unit has the one writer before it has its connection. A session of other code begins as a reader,
and waits for the writer before its first statement that may write.
"""

import asyncio
import sqlite3
from typing import Any, Protocol

from db_manager.dialects.sqlite.in_thread import InThread
from db_manager.dialects.sqlite.statement import may_write


class Line(Protocol):
    """The line for the one writer of a file, as a connection sees it."""

    #: The connection that may write now.
    holder: object

    async def turn(self, connection: object) -> None:
        """Wait until *connection* may write.

        Raises:
            TimeoutError: It was not its turn in time; the text says who writes.
        """

    def free(self) -> None:
        """Let the next one write; may be called in any thread."""


class InLine(InThread):
    """The part of a connection that knows the line for the one writer."""

    #: None on a connection that is alone: one that reads only, or a database in memory.
    line: Line | None = None
    #: True while it holds the writer by itself, and not because a unit gave it.
    _took = False

    def must_wait(self, sql: str) -> bool:
        """Return True if *sql* may write, and it is not the turn of this connection."""
        line = self.line
        return line is not None and line.holder is not self and may_write(sql)

    async def wait_for_turn(self) -> None:
        """Wait in line.

        Raises:
            OperationalError: It was not its turn in time.
        """
        assert self.line is not None  # noqa: S101 -- for mypy
        try:
            await self.line.turn(self)
        except TimeoutError as late:
            error = sqlite3.OperationalError(f"database is locked: {late}")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            error.sqlite_errorname = "SQLITE_BUSY"
            raise error from None
        self._took = True

    def _end_turn(self) -> None:
        """Let the next one write, if this connection took the writer."""
        if self._took and self.line is not None:
            self._took = False
            self.line.free()

    def _end_turn_after(self, closing: "asyncio.Future[Any] | None") -> None:
        """Let the next one write when this connection is closed."""
        if closing is None or not self._took:
            self._end_turn()
        else:
            closing.add_done_callback(lambda _closed: self._end_turn())

    def _explain(self, error: sqlite3.OperationalError) -> None:
        """Say in *error* what to do about a lock; a transaction that is too old cannot write."""
        if self._patience.explain(error, reads_first=self._reads_first) and self._reads_first:
            self._end_turn()

    def _begin_with(self) -> str:
        """Return the BEGIN of the next transaction; a session that reads keeps nobody waiting."""
        line = self.line
        return (self._begin or "") if line is None or line.holder is self else "BEGIN"
