"""Does what was said to all that was named, or nothing: opens again what was given up, drops it."""

from collections.abc import Sequence
from typing import Any, Final, Literal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from db_manager.delivery.inbox.updates import SUSPECT
from db_manager.delivery.table.claims import DEAD, EXPIRED, OPEN, UNKNOWN
from db_manager.dialects.known import dialect_of
from db_manager.undelivered.named import PARKED, STATES, Kind, Named, named
from db_manager.undelivered.sent_to_many import change_broadcast
from lifecycle.errors import LifecycleError, counted

Verb = Literal["retry", "drop", "pause", "resume", "cancel"]

_GIVEN_UP: Final = (DEAD, UNKNOWN, EXPIRED)
_IS_PARKED: Final = "parked_at IS NOT NULL AND done_at IS NULL"
#: As if it was due only now: it may be tried for as long as any other.
_RETRY_MESSAGES: Final = """
UPDATE delivery__outbox SET state = 0, owner = NULL, begun = FALSE, attempts = 0, error = NULL,
    ended_at = NULL, due_at = {now} WHERE {which}
"""
_DROP_MESSAGES: Final = "DELETE FROM delivery__outbox WHERE {which}"
#: The one that has killed its process stays a suspect: it is handled while nothing else is.
_RETRY_UPDATES: Final = """
UPDATE delivery__inbox SET parked_at = NULL, owner = NULL, attempts = 0, error = NULL,
    deaths = CASE WHEN deaths > {suspect} THEN {suspect} ELSE deaths END, received_at = {now}
WHERE {which}
"""
#: Its row stays for as long as that of any update that is done, to know a redelivery.
_DROP_UPDATES: Final = """
UPDATE delivery__inbox SET done_at = {now}, payload = NULL, error = NULL WHERE {which}
"""
_SQL: Final = {
    ("retry", "message"): _RETRY_MESSAGES,
    ("retry", "update"): _RETRY_UPDATES,
    ("drop", "message"): _DROP_MESSAGES,
    ("drop", "update"): _DROP_UPDATES,
}
_DONE: Final = {"retry": "open again", "drop": "dropped"}
_TWICE: Final = "it may have been sent before, and comes twice then"


async def change(connection: AsyncConnection, verb: Verb, names: Sequence[str]) -> list[str]:
    """Open again, or drop, what was given up; or change broadcasts.

    Args:
        connection: A connection in a transaction, which is to be rolled back if this raises.
        verb: What to do.
        names: What, as `named` reads it.

    Returns:
        What was done, in lines.

    Raises:
        LifecycleError: One of them cannot be; the text names all of these, with the reason.
    """
    said, wrong = [], []
    for name in dict.fromkeys(names):
        try:
            which = named(name)
            if isinstance(which, str):
                said.append(await _all(connection, verb, which))
            elif which.kind == "broadcast" and verb != "retry":
                said.append(await change_broadcast(connection, verb, which.number))
            else:
                said.append(await _one(connection, verb, which))
        except LifecycleError as error:
            wrong.append(str(error))
    if wrong:
        raise LifecycleError("\n".join([*wrong, "nothing was changed"]))
    return said


async def _all(connection: AsyncConnection, verb: Verb, word: str) -> str:
    _check(verb, word, "update" if word == PARKED else "message")
    if word == PARKED:
        count = await _run(connection, verb, "update", _IS_PARKED)
        return f"{word}: {counted(count, 'update')} {_DONE[verb]}"
    count = await _run(connection, verb, "message", f"state = {STATES[word]}")
    return f"{word}: {counted(count, 'message')} {_DONE[verb]}"


async def _one(connection: AsyncConnection, verb: Verb, which: Named) -> str:
    _check(verb, which.said, which.kind)
    row = await (_message if which.kind == "message" else _update)(connection, which)
    still = f"state = {row.state}" if which.kind == "message" else _IS_PARKED
    if not await _run(connection, verb, which.kind, f"id = {row.id} AND {still}"):
        raise LifecycleError(f"{which.said}: somebody else has changed it; look again")
    twice = which.kind == "message" and row.state == UNKNOWN and verb == "retry"
    return f"{which.said}: {_DONE[verb]}{f'; {_TWICE}' if twice else ''}"


def _check(verb: Verb, said: str, kind: Kind) -> None:
    """Refuse a verb that is not for a kind.

    Raises:
        LifecycleError: It is not.
    """
    if kind == "broadcast":
        raise LifecycleError(
            f"{said}: a broadcast is not opened again; select the chats that it did not reach for "
            f"another one (`await broadcasts.chats({said[1:]}, 'failed')`)"
        )
    if verb not in _DONE:
        raise LifecycleError(f"{said}: {verb} is for broadcasts, as b3; retry or drop this")


async def _message(connection: AsyncConnection, which: Named) -> Any:
    """Return the row of a message that was given up.

    Raises:
        LifecycleError: There is none.
    """
    sql = text("SELECT id, state FROM delivery__outbox WHERE id = :number")
    row = (await connection.execute(sql, {"number": which.number})).one_or_none()
    if row is None:
        raise LifecycleError(
            f"{which.said}: there is no such message; it was sent longer than `keep_sent` ago, or "
            f"dropped, or u{which.number} is meant, an update"
        )
    if row.state == OPEN:
        raise LifecycleError(f"{which.said} is open: a running bot sends it at its turn")
    if row.state not in _GIVEN_UP:
        raise LifecycleError(f"{which.said} was sent")
    return row


async def _update(connection: AsyncConnection, which: Named) -> Any:
    """Return the row of a parked update.

    Raises:
        LifecycleError: There is none, or several bots have one of that number.
    """
    sql = text(
        "SELECT id, bot_id, parked_at, done_at FROM delivery__inbox WHERE update_id = :number"
    )
    rows = (await connection.execute(sql, {"number": which.number})).all()
    rows = [row for row in rows if which.bot in {None, row.bot_id}]
    parked = [row for row in rows if row.parked_at is not None and row.done_at is None]
    if len(parked) == 1:
        return parked[0]
    if parked:
        names = " or ".join(f"u{which.number}@{row.bot_id}" for row in parked)
        raise LifecycleError(f"{which.said}: several bots have one; write {names}")
    if not rows or not which.number:
        raise LifecycleError(
            f"{which.said}: there is no such update; it was handled longer than `keep` ago, or "
            f"m{which.number} is meant, a message"
        )
    if all(row.done_at is not None for row in rows):
        raise LifecycleError(f"{which.said} is done")
    raise LifecycleError(f"{which.said} is open: a running bot handles it at its turn")


async def _run(connection: AsyncConnection, verb: Verb, kind: str, which: str) -> int:
    now = dialect_of(connection.dialect).moment_now
    sql = _SQL[verb, kind].format(now=now, which=which, suspect=SUSPECT)
    return (await connection.execute(text(sql))).rowcount
