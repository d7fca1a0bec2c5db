"""What is in the tables of the plugin `delivery` that is not done yet, or never will be."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from db_manager.delivery.table.claims import DEAD, EXPIRED, OPEN, UNKNOWN
from db_manager.dialects.known import dialect_of
from db_manager.undelivered.sent_to_many import BROADCASTS

_COUNTS: Final = """
SELECT state, count(*) AS number, sum(CASE WHEN due_at > {now} THEN 1 ELSE 0 END) AS later,
    {oldest} AS oldest, {next} AS next
FROM delivery__outbox WHERE state <> 1 GROUP BY state
"""
#: Number 0 is no update: who has that row asks Telegram for updates of its bot.
_UPDATES: Final = """
SELECT sum(CASE WHEN parked_at IS NULL THEN 1 ELSE 0 END) AS waiting,
    sum(CASE WHEN parked_at IS NULL THEN 0 ELSE 1 END) AS parked,
    {oldest} AS oldest
FROM delivery__inbox WHERE done_at IS NULL AND update_id > 0
"""
_MESSAGES: Final = """
SELECT id, bot_id, lane, method, state, attempts, error, payload, {age} AS age
FROM delivery__outbox WHERE state IN (2, 3) ORDER BY id DESC LIMIT :most
"""
_PARKED: Final = """
SELECT id, bot_id, update_id, lane, attempts, deaths, error, payload, {age} AS age
FROM delivery__inbox WHERE parked_at IS NOT NULL AND done_at IS NULL ORDER BY id DESC LIMIT :most
"""
_MEMBERS: Final = """
SELECT name, {silent} AS silent,
    (SELECT count(*) FROM delivery__outbox WHERE owner = member.id) AS messages,
    (SELECT count(*) FROM delivery__inbox WHERE owner = member.id AND update_id > 0) AS updates
FROM delivery__member member ORDER BY {silent}, name
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is not done.

    Args:
        due: Messages that are to be sent now.
        oldest: Seconds since the oldest of them was due.
        scheduled: Messages that are to be sent later.
        next: Seconds until the first of them is due.
        dead: Messages that will not be sent.
        unknown: Messages that may have been sent.
        expired: Messages that it was too late for.
        messages: The newest of the dead and unknown ones.
        waiting: Updates that are to be handled.
        oldest_update: Seconds since the oldest of them came.
        parked: Updates that will not be handled.
        updates: The newest of these.
        members: The processes that share the tables; None where there is only one.
        broadcasts: Those that are not over, and the last one that is.
    """

    due: int
    oldest: float
    scheduled: int
    next: float
    dead: int
    unknown: int
    expired: int
    messages: Sequence[Any]
    waiting: int
    oldest_update: float
    parked: int
    updates: Sequence[Any]
    members: Sequence[Any] | None
    broadcasts: Sequence[Any]

    @property
    def is_worth_a_look(self) -> bool:
        """True when something was given up that may be opened again."""
        return bool(self.dead or self.unknown or self.parked)


async def standing(connection: AsyncConnection, most: int) -> Standing:
    """Look at the tables.

    Args:
        connection: A connection to their database.
        most: Most rows of each list.
    """
    dialect = dialect_of(connection.dialect)
    now = dialect.moment_now

    def seconds(begin: str, end: str = now) -> str:
        return dialect.seconds_between.format(begin=begin, end=end)

    async def rows(sql: str, **parameters: Any) -> Sequence[Any]:
        return (await connection.execute(text(sql), parameters)).all()

    later = seconds(now, end=f"min(CASE WHEN due_at > {now} THEN due_at END)")
    counts = _COUNTS.format(now=now, oldest=seconds("min(due_at)"), next=later)
    found = {row.state: row for row in await rows(counts)}
    waits, number = found.get(OPEN), {state: row.number for state, row in found.items()}
    parked_or_not = "min(CASE WHEN parked_at IS NULL THEN received_at END)"
    [updates] = await rows(_UPDATES.format(oldest=seconds(parked_or_not)))
    members = _MEMBERS.format(silent=seconds("seen_at"))
    return Standing(
        due=waits.number - waits.later if waits else 0,
        oldest=max(waits.oldest, 0.0) if waits else 0.0,
        scheduled=waits.later if waits else 0,
        next=waits.next or 0.0 if waits else 0.0,
        dead=number.get(DEAD, 0),
        unknown=number.get(UNKNOWN, 0),
        expired=number.get(EXPIRED, 0),
        messages=await rows(_MESSAGES.format(age=seconds("ended_at")), most=most),
        waiting=updates.waiting or 0,
        oldest_update=updates.oldest or 0.0,
        parked=updates.parked or 0,
        updates=await rows(_PARKED.format(age=seconds("parked_at")), most=most),
        members=await rows(members) if dialect.has_server else None,
        broadcasts=await rows(BROADCASTS, most=most),
    )
