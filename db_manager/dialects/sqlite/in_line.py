"""How a connection outside of units writes: it waits in the line in which the units wait.

A unit has the one writer before it has its connection. A session of other code begins as a reader,
and waits for the writer before its first statement that may write.
"""

import asyncio
import sqlite3
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

from db_manager.dialects.sqlite.in_thread import InThread
from db_manager.dialects.sqlite.locks import is_lock
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

    def free(self, connection: object) -> None:
        """Let the next one write after *connection*; may be called in any thread."""


class InLine(InThread):
    """The part of a connection that knows the line for the one writer."""

    #: None on a connection that is alone: one that reads only, or a database in memory.
    line: Line | None = None
    #: True while it holds the writer by itself, and not because a unit gave it.
    _took = False

    def must_wait(self, sql: str, *, script: bool = False) -> bool:
        """Return True if *sql*, or any part of a script, may write, and it is not its turn."""
        line = self.line
        return line is not None and line.holder is not self and (script or may_write(sql))

    async def _wait_for_turn(self) -> None:
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
            self.line.free(self)

    def _end_turn_after(self, closing: "asyncio.Future[Any] | None") -> None:
        """Let the next one write when this connection is closed."""
        if closing is None or not self._took:
            self._end_turn()
        else:
            closing.add_done_callback(lambda _closed: self._end_turn())

    async def cross_in_turn(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Wait in line, then call *fn* in the driver's thread, as `cross` does.

        Raises:
            OperationalError: It was not its turn in time, or its transaction cannot write.
        """
        await self._wait_for_turn()
        try:
            return await self.cross(fn, *args, **kwargs)
        except sqlite3.OperationalError as error:
            if self._reads_first and is_lock(error):  # it cannot write, and keeps nobody waiting
                self._end_turn()
            raise

    @abstractmethod
    async def cross(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call *fn* in the driver's thread."""

    def _begin_with(self) -> str:
        """Return the BEGIN of the next transaction; a session that reads keeps nobody waiting."""
        line = self.line
        return (self._begin or "") if line is None or line.holder is self else "BEGIN"
