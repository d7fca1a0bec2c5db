"""Reads and writes the table of the inbox."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db_manager.delivery.again import claim_again
from db_manager.delivery.inbox.inbox_sql import inbox_statements
from db_manager.delivery.table.at_once import AtOnce
from db_manager.dialects.known import dialect_of

#: Deaths after which an update is handled while nothing else is.
SUSPECT: Final = 2


@dataclass(frozen=True, slots=True)
class Stored:
    """An update that this process handles.

    Args:
        id: Its number in the table.
        owner: As whom it was claimed.
        bot_id: The bot.
        update_id: Telegram's number.
        lane: Its lane, of which nobody else handles any meanwhile.
        payload: The update.
        deaths: How often its process died.
        age: Seconds since it was stored.
    """

    id: int
    owner: int
    bot_id: int
    update_id: int
    lane: str
    payload: str = field(repr=False)  # what a user has written
    deaths: int
    age: float


class Updates:
    """What is read and written in the table; every statement may be repeated.

    Args:
        engine: The engine of what is not a part of a unit.
        has_members: Other processes handle updates too.
    """

    def __init__(self, engine: AsyncEngine, *, has_members: bool) -> None:
        self._at_once = AtOnce(engine)
        self._sql = inbox_statements(dialect_of(engine.dialect), has_members=has_members)

    async def store(
        self, rows: Sequence[Mapping[str, Any]], me: int
    ) -> tuple[list[Stored], list[str], list[int]]:
        """Store *rows*, and claim the first of each lane where nothing waits.

        Args:
            rows: With the keys of `inbox_sql.STORED` but `n`.
            me: Who claims; 0 claims nothing.

        Returns:
            What was claimed, the lanes of what was not, and the numbers of updates that were known.
        """
        numbered = [{**row, "n": n} for n, row in enumerate(rows)]
        first = {row["lane"]: row for row in reversed(numbered)} if me else {}

        def store(connection: Connection) -> tuple[list[Any], list[Any]]:
            stored, rest = [], numbered
            if first:
                given = {"rows": json.dumps(list(first.values())), "me": me}
                stored = list(connection.execute(self._sql["store_first"], given))
                have = {(row.bot_id, row.update_id) for row in stored}
                rest = [row for row in rest if (row["bot_id"], row["update_id"]) not in have]
            others = []
            if rest:
                given = {"rows": json.dumps(rest)}
                others = list(connection.execute(self._sql["store"], given))
            return stored, others

        is_lone = len(first) in {0, len(rows)}
        stored, others = await self._at_once.run(store, is_lone=is_lone)
        have = {(row.bot_id, row.update_id) for row in [*stored, *others]}
        repeated = [
            row["update_id"] for row in rows if (row["bot_id"], row["update_id"]) not in have
        ]
        claimed = [
            Stored(**row._mapping, payload=first[row.lane]["payload"], deaths=0, age=0.0)  # noqa: SLF001 -- public in SQLAlchemy despite its name
            for row in stored
            if row.owner is not None
        ]
        waiting = [row.lane for row in [*stored, *others] if row.owner is None]
        return claimed, waiting, repeated

    async def claim(self, me: int, bots: Iterable[int], most: int) -> list[Stored]:
        """Claim the heads of up to *most* lanes of these bots in which something waits."""
        wanted = json.dumps([{"bot_id": bot} for bot in bots])
        return await self._claim("claim", me, bots=wanted, most=most)

    async def claim_in(self, me: int, lanes: Iterable[str]) -> list[Stored]:
        """Claim the heads of these lanes, where nobody has one."""
        wanted = json.dumps([{"lane": lane} for lane in lanes])
        return await self._claim("claim_in", me, lanes=wanted)

    async def mine(self, me: int) -> list[Stored]:
        """Return what I have claimed."""
        return await self._claim("mine", me)

    async def done_in(self, connection: AsyncConnection, update: Mapping[str, Any]) -> bool:
        """Say in the transaction of *connection* that *update* is done.

        Args:
            connection: That of the unit.
            update: Its `id`, as whom it was claimed as `me`, and its `attempts`.

        Returns:
            Whether it was mine.
        """
        return bool((await connection.execute(self._sql["done"], update)).rowcount)

    async def done(self, row: Stored, attempts: int) -> bool:
        """Say that *row* is done; return whether it was mine and open."""
        return bool(await self._run("done", id=row.id, me=row.owner, attempts=attempts))

    async def park(self, row: Stored, attempts: int, error: str) -> bool:
        """Let *row* be, with what is wrong; return whether it was mine and open."""
        given = {"attempts": attempts, "error": error}
        return bool(await self._run("park", id=row.id, me=row.owner, **given))

    async def is_mine(self, row: Stored) -> bool:
        """Return whether *row* is mine and open."""
        given = {"id": row.id, "me": row.owner}
        return bool(await self._at_once.rows(self._sql["is_mine"], given))

    async def is_done(self, row: Stored) -> bool:
        """Return whether *row* is done, whoever said so."""
        return bool(await self._at_once.rows(self._sql["is_done"], {"id": row.id}))

    async def levels(self) -> tuple[int, float]:
        """Return how many updates are open, up to 10,000, and the age of the oldest."""
        [row] = await self._at_once.rows(self._sql["waits"], {})
        return row.open, row.oldest

    async def count_death(self, row: Stored) -> None:
        """Count a death before it comes: whoever dies with *row* counts nothing any more."""
        await self._run("count_death", id=row.id, me=row.owner)

    async def forgive(self, row: Stored) -> None:
        """Take back the death that did not come."""
        await self._run("forgive", id=row.id, me=row.owner, deaths=row.deaths)

    async def release(self) -> int:
        """Take from their owners the rows of those who are gone; return how many."""
        return len(await self._at_once.rows(self._sql["release"], {"suspect": SUSPECT}))

    async def give_back(self, me: int) -> None:
        """Let others have what is open."""
        await self._run("give_back", me=me)

    async def forget(self, keep: float) -> None:
        """Delete what was done more than *keep* seconds ago."""
        await self._run("forget", keep=keep)

    async def _run(self, statement: str, **parameters: Any) -> int:
        return await self._at_once.count(self._sql[statement], parameters)

    async def _claim(self, statement: str, me: int, **parameters: Any) -> list[Stored]:
        given = {"me": me, **parameters}
        found = await claim_again(partial(self._at_once.rows, self._sql[statement], given))
        rows = [Stored(owner=me, **row._mapping) for row in found]  # noqa: SLF001 -- public in SQLAlchemy despite its name
        return sorted(rows, key=lambda row: row.id)
