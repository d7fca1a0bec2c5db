"""What became of updates and messages: lost, twice, out of order, or of a unit that never was."""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Final, NamedTuple

import asyncpg
from sqlalchemy import NullPool, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from support.unreliable import Arrival

#: Of each unit; `id` is the order of the entries.
LEDGER: Final = """
    CREATE TABLE ledger (
        id {serial}, chat bigint NOT NULL, key bigint NOT NULL, unit varchar(16) NOT NULL
    )
"""
#: How many messages, and updates, are left.
_OPEN: Final = "SELECT count(*) FROM delivery__outbox WHERE state = 0"
_UNDONE: Final = """
    SELECT count(*) FROM delivery__inbox WHERE done_at IS NULL AND parked_at IS NULL
    AND update_id <> 0
"""  # 0 says who polls
_PARKED: Final = "SELECT payload FROM delivery__inbox WHERE parked_at IS NOT NULL"
#: What processes of a number of the operating system are sending.
_HELD: Final = """
    SELECT payload FROM delivery__outbox
    JOIN delivery__member AS member ON member.id = owner AND member.name LIKE :name
    WHERE state = 0 AND bot_id <> 0
"""
#: The one process of a SQLite file has no number.
_HELD_BY_ONE: Final = """
    SELECT payload FROM delivery__outbox WHERE state = 0 AND owner IS NOT NULL AND bot_id <> 0
"""
_STATES: Final = "SELECT state, count(*) AS number FROM delivery__outbox GROUP BY state"
_PAUSE: Final = 0.05
#: What a database raises that is away; SQLAlchemy 2.0.40 lets through what asyncpg raises first.
_AWAY: Final = (OSError, DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Entry(NamedTuple):
    """A committed unit, which is the effect of an update."""

    chat: int
    key: int
    unit: str


@dataclass(frozen=True)
class Verdict:
    """How many went wrong, which is never right, unless a row says so; and what came twice."""

    effects_lost: int
    effects_twice: int
    effects_out_of_order: int
    messages_lost: int
    phantoms: int
    messages_out_of_order: int
    #: Messages that arrived once more, and how often.
    again: Counter[Arrival]

    @property
    def duplicates(self) -> int:
        """How many messages arrived once more."""
        return self.again.total()

    def wrong(self, *besides: str) -> dict[str, int]:
        """Return what went wrong.

        Args:
            *besides: What does not count here.
        """
        free = {"again", *besides}
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: number for name, number in found.items() if number and name not in free}


def judge(said: Mapping[int, int], entries: Iterable[Entry], arrived: Iterable[Arrival]) -> Verdict:
    """Compare what people said with what was committed, and that with what arrived.

    Args:
        said: The last number of each chat; they have said 1, 2, 3 and so on.
        entries: In the order in which they were written.
        arrived: In the order of arrival.
    """
    effects: dict[int, list[tuple[int, int]]] = defaultdict(list)
    due: dict[Arrival, int] = {}
    for place, (chat, key, unit) in enumerate(entries):
        effects[chat].append((key, 0))
        due.update({Arrival(chat, key, each, unit): place for each in range(1 + key % 2)})
    times = Counter(arrived)
    order: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for each in times:  # in the order of first arrivals
        if each in due:
            order[each.chat].append((due[each], each.number))
    keys = Counter((chat, key) for chat, found in effects.items() for key, _ in found)
    return Verdict(
        effects_lost=sum(
            (chat, key) not in keys for chat, last in said.items() for key in range(1, last + 1)
        ),
        effects_twice=keys.total() - len(keys),
        effects_out_of_order=sum(_disorder(found) for found in effects.values()),
        messages_lost=len(due.keys() - times.keys()),
        phantoms=len(times.keys() - due.keys()),
        messages_out_of_order=sum(_disorder(found) for found in order.values()),
        again=times - Counter(times.keys()),
    )


def _disorder(found: Sequence[tuple[int, int]]) -> int:
    """Return how many come after one that is later."""
    return sum(later < former for former, later in pairwise(found))


class Books:
    """The database of replicas, seen from outside.

    Args:
        url: Where it is.
        inbox: They have an inbox.
    """

    def __init__(self, url: URL, *, inbox: bool) -> None:
        self._inbox = inbox
        self._url = url
        self._engine = create_async_engine(url, poolclass=NullPool)

    async def open(self) -> None:
        """Create the ledger."""
        sqlite = self._url.get_backend_name() == "sqlite"
        serial = "INTEGER PRIMARY KEY" if sqlite else "bigserial PRIMARY KEY"
        async with self._engine.begin() as connection:
            await connection.execute(text(LEDGER.format(serial=serial)))

    async def entries(self) -> list[Entry]:
        """Return what is in the ledger."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(text("SELECT chat, key, unit FROM ledger ORDER BY id"))
            return [Entry(*row) for row in rows]

    async def states(self) -> dict[int, int]:
        """Return how many messages are in each state of the outbox."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(text(_STATES))
            return {row.state: row.number for row in rows}

    async def parked(self) -> set[tuple[int, int]]:
        """Return chat and key of the updates that are parked."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(text(_PARKED))
            messages = [json.loads(row.payload)["message"] for row in rows]
        return {(each["chat"]["id"], int(each["text"])) for each in messages}

    async def settle(self, seconds: float) -> None:
        """Wait until no row is open any more.

        Args:
            seconds: How long this may take.

        Raises:
            AssertionError: It takes longer.
        """
        left = -1
        try:
            async with asyncio.timeout(seconds):
                while left:
                    await asyncio.sleep(_PAUSE)
                    left = await self.open_rows()
        except TimeoutError:
            raise AssertionError(f"{left} rows are open after {seconds} s") from None

    async def held_by(self, pid: int) -> set[Arrival]:
        """Return the messages that a process was sending, when nobody has taken them over yet.

        Args:
            pid: The process.
        """
        held = _HELD_BY_ONE if self._url.get_backend_name() == "sqlite" else _HELD
        try:
            async with self._engine.connect() as connection:
                rows = await connection.execute(text(held), {"name": f"%:{pid}"})
                calls = [json.loads(row.payload) for row in rows]
        except _AWAY:
            return set()
        found = [(call["chat_id"], *call["text"].split()) for call in calls]
        return {Arrival(chat, int(key), int(number), unit) for chat, key, number, unit in found}

    async def open_rows(self) -> int:
        """Return how many updates and messages are open; -1 while the database does not say."""
        try:
            async with self._engine.connect() as connection:
                undone = await connection.scalar(text(_UNDONE)) if self._inbox else 0
                return int(undone or 0) + int(await connection.scalar(text(_OPEN)) or 0)
        except _AWAY:  # or its writer is busy
            return -1
