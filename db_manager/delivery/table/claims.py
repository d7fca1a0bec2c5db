"""Reads and writes the table of the outbox."""

import json
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final, Self

from sqlalchemy import Connection, RowMapping, Table, delete, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db_manager.delivery.again import claim_again
from db_manager.delivery.table.at_once import AtOnce
from db_manager.delivery.table.outbox_sql import statements
from db_manager.delivery.table.tables import FileRow
from db_manager.dialects.known import dialect_of
from db_manager.errors import DbManagerError

#: Seconds, more than 0, of what is read from the table in the moment in which it was written.
_YOUNGEST: Final = 1e-6
_FILES: Final[Table] = FileRow.__table__  # type: ignore[assignment]  # what it is for a class
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
        age: Seconds since it was due; 0 when it was not read from the table.
    """

    id: int
    owner: int
    bot_id: int
    lane: str
    method: str
    payload: str = field(repr=False)  # what a user may have written
    once: bool
    age: float

    @classmethod
    def as_written(cls, row: Mapping[str, Any], number: int, owner: int) -> Self:
        """Return a row that was claimed when it was written.

        Args:
            row: With the keys of `outbox_sql.WRITTEN`.
            number: Its number.
            owner: Who has claimed it.
        """
        fields = {name: row[name] for name in ("bot_id", "lane", "method", "payload", "once")}
        return cls(id=number, owner=owner, age=0.0, **fields)


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file that a message has, until it is sent.

    Args:
        field: Where it is in the call, as `media[0].media`.
        name: Its name for Telegram.
        content: What is in it.
    """

    field: str
    name: str
    content: bytes


class Claims:
    """What is read and written in the table; every statement may be repeated.

    Args:
        engine: The engine of what is not a part of a unit.
        has_members: Other processes empty the table too.

    Attributes:
        strange: Methods that this release does not know: their messages wait for a newer one.

    Raises:
        DbManagerError: The database is neither PostgreSQL nor SQLite.
    """

    def __init__(self, engine: AsyncEngine, *, has_members: bool) -> None:
        self.strange: set[str] = set()
        dialect = dialect_of(engine.dialect)
        if not dialect.moment_now:
            raise DbManagerError(
                f"messages are kept on PostgreSQL and SQLite, not on {engine.dialect.name}; set "
                f"[delivery] outbox = false"
            )
        self._at_once = AtOnce(engine)
        #: Whether one statement can change rows here and there.
        self.changes_two = dialect.has_server
        self._unsafe_settings = dialect.unsafe_settings
        self._statements = statements(dialect, has_members=has_members)

    async def write(
        self,
        connection: AsyncConnection,
        rows: Sequence[Mapping[str, Any]],
        me: int,
        most: int,
        bots: Container[int],
        update: Mapping[str, Any] | None = None,
    ) -> tuple[list[tuple[int, bool]], bool]:
        """Write *rows*, and claim the first of each lane where nothing waits.

        Args:
            connection: That of the unit.
            rows: With the keys of `outbox_sql.WRITTEN` but `n`.
            me: Who claims; 0 claims nothing.
            most: Most rows to claim.
            bots: Those of whom this process sends; others are left to who has them.
            update: What says that an update is done, first; where `changes_two`.

        Returns:
            The number of each row, and whether it was claimed; and whether the update was mine.
        """
        numbered = [{**row, "n": n} for n, row in enumerate(rows)]
        ours = [row for row in numbered if row["due"] is None and row["bot_id"] in bots]
        first = {row["lane"]: row for row in reversed(ours)}
        found: dict[int, tuple[int, bool]] = {}
        wanted = sorted(first.values(), key=lambda row: row["n"])[: most if me else 0]
        is_done = update is None
        if wanted or update is not None:
            sql = "write_first" if update is None else "done_and_write_first"
            given = {"rows": json.dumps(wanted), "writer": me, **(update or {})}
            for row in await connection.execute(self._statements[sql], given):
                is_done = update is None or bool(row.done)
                if row.id is not None:
                    found[first[row.lane]["n"]] = row.id, row.owner is not None
        rest = [row for row in numbered if row["n"] not in found]
        if rest:
            given = {"rows": json.dumps(rest)}
            written = await connection.scalars(self._statements["write"], given)
            numbers = sorted(written)  # counted up in the order of the rows
            found |= {row["n"]: (number, False) for row, number in zip(rest, numbers, strict=True)}
        return [found[n] for n in range(len(rows))], is_done

    async def write_files(
        self, connection: AsyncConnection, files: Mapping[int, Sequence[KeptFile]]
    ) -> None:
        """Write files of messages that are written.

        Args:
            connection: That of the unit.
            files: Those of each message, by its number.
        """
        rows = [
            {"outbox_id": number, **asdict(file)} for number, own in files.items() for file in own
        ]
        await connection.execute(insert(_FILES), rows)

    async def files(self, number: int) -> list[KeptFile]:
        """Return the files of a message."""
        columns = _FILES.c.field, _FILES.c.name, _FILES.c.content
        of_it = select(*columns).where(_FILES.c.outbox_id == number)
        return await self._at_once.run(
            lambda each: [KeptFile(*row) for row in each.execute(of_it)], is_lone=True
        )

    async def claim(self, me: int, bots: Iterable[int], most: int) -> list[Claimed]:
        """Claim the heads of up to *most* lanes of these bots in which something waits."""
        wanted = json.dumps([{"bot_id": bot} for bot in bots])
        return await self._claim("claim", me, bots=wanted, most=most)

    async def claim_in(self, me: int, lanes: Iterable[str]) -> list[Claimed]:
        """Claim the heads of these lanes, where nobody has one."""
        return await self._claim("claim_in", me, lanes=_lanes(lanes))

    async def end(
        self,
        me: int,
        rows: Sequence[Mapping[str, Any]],
        lanes: Collection[str],
        with_files: Sequence[int] = (),
    ) -> list[Claimed]:
        """Write what has become of *rows*, and claim what comes next in their lanes.

        Args:
            me: Who claims.
            rows: With the keys of `outbox_sql.ENDED`.
            lanes: Those in which the next is wanted.
            with_files: Numbers of those that were sent and had files, which go now.
        """
        ended = {"ended": json.dumps(rows), "number": len(rows)}
        if not (lanes or with_files):
            await self._at_once.count(self._statements["end"], ended)
            return []
        following = {"me": me, "lanes": _lanes(lanes), "strange": self._strange}
        if self.changes_two and not with_files:
            sql = self._statements["end_and_claim"]
            return _claimed(me, await self._at_once.rows(sql, ended | following))

        def end_then_claim(connection: Connection) -> list[Any]:
            connection.execute(self._statements["end"], ended)
            if with_files:
                connection.execute(delete(_FILES).where(_FILES.c.outbox_id.in_(with_files)))
            return list(connection.execute(self._statements["claim_in"], following))

        return _claimed(me, await self._at_once.run(end_then_claim, is_lone=False))

    async def release(self) -> list[RowMapping]:
        """Take from their owners the rows of those who are gone; return id, bot, method, state."""
        return [row._mapping for row in await self._rows("release")]  # noqa: SLF001 -- public in SQLAlchemy despite its name

    async def give_back(self, me: int) -> None:
        """Let others have what is open."""
        await self._at_once.count(self._statements["give_back"], {"me": me})

    async def leave_to_others(self, row: Claimed) -> None:
        """Let others have *row*, whose method this release does not know, and no other of it."""
        self.strange.add(row.method)
        given = {"id": row.id, "me": row.owner}
        await self._at_once.count(self._statements["leave_to_others"], given)

    async def mine(self, me: int) -> list[Claimed]:
        """Return what I have claimed."""
        return _claimed(me, await self._rows("mine", me=me))

    async def look(self, ids: Iterable[int]) -> dict[int, tuple[int, str]]:
        """Return state and error of these rows; what is missing is not there."""
        found = await self._rows("look", wanted=json.dumps([{"id": each} for each in ids]))
        return {row.id: (row.state, row.error or "") for row in found}

    async def levels(self) -> tuple[int, float]:
        """Return how many rows are open and due, up to 10,000, and the age of the oldest."""
        [row] = await self._rows("open")
        return row.open, row.oldest

    async def unsafe_settings(self) -> tuple[str, ...]:
        """Return the settings of the server by which a crash of it loses what was committed."""
        if not self._unsafe_settings:
            return ()
        found = await self._at_once.rows(text(self._unsafe_settings), {})
        return tuple(f"{name} = {value}" for name, value in found)

    async def forget(self, after: int, most: int, keep: float) -> int | None:
        """Delete what was sent more than *keep* seconds ago, among the *most* rows after a number.

        Returns:
            The number of the last of them; None if there is none.
        """
        window = {"after": after, "most": most}
        [(last,)] = await self._rows("next", **window)
        if last is not None:
            await self._at_once.count(self._statements["forget"], {**window, "keep": keep})
        found: int | None = last
        return found

    async def _claim(self, statement: str, me: int, **parameters: Any) -> list[Claimed]:
        parameters |= {"me": me, "strange": self._strange}
        return _claimed(me, await claim_again(partial(self._rows, statement, **parameters)))

    @property
    def _strange(self) -> str:
        return json.dumps([{"method": method} for method in sorted(self.strange)])

    async def _rows(self, statement: str, **parameters: Any) -> list[Any]:
        return await self._at_once.rows(self._statements[statement], parameters)


def _lanes(lanes: Iterable[str]) -> str:
    return json.dumps([{"lane": lane} for lane in lanes])


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
            max(row.age, _YOUNGEST),
        )
        for row in rows
    ]
    return sorted(found, key=lambda each: each.id)
