"""A SQLite cursor whose rows are returned together with its statement."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, Self

#: Most rows that are returned with the statement; further rows are fetched on demand.
FIRST_ROWS: Final = 1000


class Connection(Protocol):
    """What a cursor needs of its connection."""

    async def cross(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call *fn* in the driver's thread."""

    def run(self, method: str, sql: str, parameters: Any) -> tuple[sqlite3.Cursor, list[Any]]:
        """In the driver's thread: begin if needed, execute, return the cursor and first rows."""


class SqliteCursor:
    """The cursor that SQLAlchemy uses; it already has its first rows.

    Args:
        connection: The connection it belongs to.
    """

    arraysize = 1

    def __init__(self, connection: Connection) -> None:
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
        """Execute one statement; the first one also begins the transaction."""
        return await self._run("execute", sql, parameters)

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> Self:
        """Execute one statement for every row of *parameters*."""
        return await self._run("executemany", sql, parameters)

    async def _run(self, method: str, sql: str, parameters: Any) -> Self:
        connection = self._connection
        cursor, self._rows = await connection.cross(connection.run, method, sql, parameters)
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
