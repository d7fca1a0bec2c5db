"""Broadcasts on a command line: how far each is, and to pause, resume, cancel or drop one."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from db_manager.delivery.broadcast.broadcast_sql import broadcast_statements
from db_manager.delivery.broadcast.broadcast_tables import BROADCAST_STATES, OUTCOMES, RUNNING
from db_manager.dialects.known import dialect_of
from lifecycle.errors import LifecycleError

BroadcastVerb = Literal["pause", "resume", "cancel", "drop"]

#: Those that are not over, and the last one that is.
BROADCASTS: Final = """
SELECT id, bot_id, state, total, sent, blocked, failed, unknown FROM delivery__broadcast
WHERE ended_at IS NULL
    OR id = (SELECT max(id) FROM delivery__broadcast WHERE ended_at IS NOT NULL)
ORDER BY id LIMIT :most
"""
_DROP: Final = (
    "DELETE FROM delivery__recipient WHERE broadcast_id = :id",
    "DELETE FROM delivery__broadcast WHERE id = :id",
)
_DONE: Final = {
    "pause": "paused; what is on its way is sent",
    "resume": "goes on",
    "cancel": "cancelled; what is on its way is sent",
    "drop": "dropped, with its chats",
}
#: Characters of a bar.
_BAR: Final = 20


async def change_broadcast(connection: AsyncConnection, verb: BroadcastVerb, number: int) -> str:
    """Do what *verb* says; return that it was done.

    Args:
        connection: A connection in a transaction.
        verb: What to do.
        number: The broadcast.

    Raises:
        LifecycleError: There is none, or it is over, or it is not and shall be dropped.
    """
    about, name = {"id": number}, f"b{number}"
    sql = broadcast_statements(dialect_of(connection.dialect))
    row = (await connection.execute(sql["state"], about)).one_or_none()
    if row is None:
        raise LifecycleError(f"{name}: there is no such broadcast")
    if verb == "drop":
        if not row.is_over:
            raise LifecycleError(f"{name} is not over: `db-manager delivery cancel {name}` first")
        for statement in _DROP:
            await connection.execute(text(statement), about)
    elif not (await connection.execute(sql[verb], about)).rowcount:
        state = "over" if row.is_over else BROADCAST_STATES[row.state]
        raise LifecycleError(f"{name} is {state} already: nothing to {verb}")
    return f"{name}: {_DONE[verb]}"


def broadcast_lines(rows: Sequence[Any], rate: float) -> Iterator[str]:
    """Yield a line about each broadcast.

    Args:
        rows: Those of `BROADCASTS`.
        rate: Messages in a second, which those of one bot share.
    """
    for row in rows:
        done = row.sent + row.blocked + row.failed + row.unknown
        counts = [f"{getattr(row, name):,} {name}" for name in OUTCOMES if getattr(row, name)]
        said = f"b{row.id}: {BROADCAST_STATES[row.state]}, {done:,} of {row.total:,}"
        if counts:
            said += f": {', '.join(counts)}"
        if row.state == RUNNING:
            sharing = sum(each.bot_id == row.bot_id and each.state == RUNNING for each in rows)
            filled = _BAR * done // row.total if row.total else 0
            bar = f"{'#' * filled}{'.' * (_BAR - filled)}"
            said += f"; [{bar}] {_left((row.total - done) * sharing / rate)} left"
        yield said


def _left(seconds: float) -> str:
    """Return a time that is only estimated: `40 s`, `5 min`, `2.1 h`."""
    if seconds < 90:  # noqa: PLR2004 -- more is told in minutes
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004 -- and in hours
