"""Reads and writes the table of the outbox."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db_manager.delivery.again import claim_again
from db_manager.delivery.table.outbox_sql import statements
from db_manager.dialects.known import dialect_of
from db_manager.errors import DbManagerError

#: States of a row.
OPEN, SENT, DEAD, UNKNOWN, EXPIRED = range(5)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A row that this process sends.

    Args:
        id: Its number.
        owner: As whom it was claimed.
        bot_id: The bot.
        lane: Its lane, of which nobody else sends meanwhile.
        method: Name of the method.
        payload: Its fields.
        once: It must not come twice.
        age: Seconds since it was due.
    """

    id: int
    owner: int
    bot_id: int
    lane: str
    method: str
    payload: str
    once: bool
    age: float


class Claims:
    """What is read and written in the table; every statement may be repeated.

    Args:
        engine: The engine of what is not a part of a unit.
        has_members: Other processes empty the table too.

    Raises:
        DbManagerError: The database is neither PostgreSQL nor SQLite.
    """

    def __init__(self, engine: AsyncEngine, *, has_members: bool) -> None:
        dialect = dialect_of(engine.dialect)
        if not dialect.moment_now:
            raise DbManagerError(
                f"messages are kept on PostgreSQL and SQLite, not on {engine.dialect.name}; set "
                f"[delivery] outbox = false"
            )
        self._engine = engine
        self._unsafe_settings = dialect.unsafe_settings
        self._statements = statements(dialect, has_members=has_members)

    async def write(
        self, connection: AsyncConnection, rows: Sequence[Mapping[str, Any]], me: int, most: int
    ) -> list[tuple[int, bool]]:
        """Write *rows*, and claim the first of each lane where nothing waits.

        Args:
            connection: That of the unit.
            rows: With the keys of `outbox_sql.WRITTEN` but `n`.
            me: Who claims; 0 claims nothing.
            most: Most rows to claim.

        Returns:
            The number of each row, and whether it was claimed.
        """
        numbered = [{**row, "n": n} for n, row in enumerate(rows)]
        first = {row["lane"]: row for row in reversed(numbered) if row["due"] is None}
        found: dict[int, tuple[int, bool]] = {}
        wanted = sorted(first.values(), key=lambda row: row["n"])[: most if me else 0]
        if wanted:
            free = await self._execute(connection, "write_claimed", rows=wanted, me=me)
            found = {first[row.lane]["n"]: (row.id, True) for row in free}
        rest = [row for row in numbered if row["n"] not in found]
        if rest:
            written = await self._execute(connection, "write", rows=rest)
            numbers = sorted(row.id for row in written)  # counted up in the order of the rows
            found |= {row["n"]: (number, False) for row, number in zip(rest, numbers, strict=True)}
        return [found[n] for n in range(len(rows))]

    async def claim(self, me: int, bots: Iterable[int], most: int) -> list[Claimed]:
        """Claim the heads of up to *most* lanes of these bots in which something waits."""
        wanted = [{"bot_id": bot} for bot in bots]
        return await self._claim("claim", me, bots=wanted, most=most)

    async def claim_in(self, me: int, lanes: Iterable[str]) -> list[Claimed]:
        """Claim the heads of these lanes, where nobody has one."""
        return await self._claim("claim_in", me, lanes=[{"lane": lane} for lane in lanes])

    async def end(
        self, me: int, rows: Sequence[Mapping[str, Any]], lanes: Collection[str]
    ) -> list[Claimed]:
        """Write what has become of *rows*, and claim what comes next in their lanes.

        Args:
            me: Who has sent them.
            rows: With the keys of `outbox_sql.ENDED`.
            lanes: Those in which the next is wanted.
        """
        async with self._engine.begin() as connection:
            await self._execute(connection, "end", rows=rows, name="ended", me=me)
            if not lanes:
                return []
            named = [{"lane": lane} for lane in lanes]
            return _claimed(me, await self._execute(connection, "claim_in", named, "lanes", me=me))

    async def release(self) -> list[RowMapping]:
        """Take from their owners the rows of those who are gone; return id, bot, method, state."""
        async with self._engine.begin() as connection:
            return [row._mapping for row in await self._execute(connection, "release")]  # noqa: SLF001 -- public in SQLAlchemy despite its name

    async def give_back(self, me: int) -> None:
        """Let others have what is open."""
        async with self._engine.begin() as connection:
            await connection.execute(self._statements["give_back"], {"me": me})

    async def mine(self, me: int) -> list[Claimed]:
        """Return what I have claimed."""
        async with self._engine.begin() as connection:
            return _claimed(me, await self._execute(connection, "mine", me=me))

    async def look(self, ids: Iterable[int]) -> dict[int, tuple[int, str]]:
        """Return state and error of these rows; what is missing is not there."""
        wanted = [{"id": each} for each in ids]
        async with self._engine.begin() as connection:
            found = await self._execute(connection, "look", wanted, "wanted")
        return {row.id: (row.state, row.error or "") for row in found}

    async def levels(self) -> tuple[int, float]:
        """Return how many rows are open and due, up to 10,000, and the age of the oldest."""
        async with self._engine.begin() as connection:
            [row] = await self._execute(connection, "open")
        return row.open, row.oldest

    async def unsafe_settings(self) -> tuple[str, ...]:
        """Return the settings of the server by which a crash of it loses what was committed."""
        if not self._unsafe_settings:
            return ()
        async with self._engine.begin() as connection:
            found = await connection.execute(text(self._unsafe_settings))
            return tuple(f"{name} = {value}" for name, value in found)

    async def forget(self, after: int, most: int, keep: float) -> int | None:
        """Delete what was sent more than *keep* seconds ago, among the *most* rows after a number.

        Returns:
            The number of the last of them; None if there is none.
        """
        async with self._engine.begin() as connection:
            window = {"after": after, "most": most}
            last: int | None = await connection.scalar(self._statements["next"], window)
            await connection.execute(self._statements["forget"], {**window, "keep": keep})
        return last

    async def _claim(self, statement: str, me: int, **parameters: Any) -> list[Claimed]:
        [(name, rows)] = [each for each in parameters.items() if isinstance(each[1], list)]
        rest = {key: value for key, value in parameters.items() if key != name}

        async def claim() -> list[Claimed]:
            async with self._engine.begin() as connection:
                found = await self._execute(connection, statement, rows, name, me=me, **rest)
                return _claimed(me, found)

        return await claim_again(claim)

    async def _execute(
        self,
        connection: AsyncConnection,
        statement: str,
        rows: Sequence[Mapping[str, Any]] | None = None,
        name: str = "rows",
        **parameters: Any,
    ) -> list[Any]:
        if rows is not None:
            parameters[name] = json.dumps([dict(row) for row in rows])
        result = await connection.execute(self._statements[statement], parameters)
        return list(result) if result.returns_rows else []


def _claimed(me: int, rows: Iterable[Any]) -> list[Claimed]:
    """Return *rows* in the order in which they were written."""
    found = [
        Claimed(
            row.id,
            me,
            row.bot_id,
            row.lane,
            row.method,
            row.payload or "{}",
            bool(row.once),
            row.age,
        )
        for row in rows
    ]
    return sorted(found, key=lambda each: each.id)
