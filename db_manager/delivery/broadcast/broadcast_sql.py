"""The statements of broadcasts; who changes one has locked its row."""

from typing import Final

from sqlalchemy import TextClause, text

from db_manager.dialects.dialect import Dialect

_COUNTS: Final = "total, sent, blocked, failed, unknown"

_BEGIN: Final = """
INSERT INTO delivery__broadcast (bot_id, method, payload, once, state, total, sent, blocked, failed,
    unknown, next_at, created_at)
VALUES (:bot_id, :method, :payload, :once, 0, 0, 0, 0, 0, 0, {now}, {now}) RETURNING id
"""
_COUNT: Final = """
UPDATE delivery__broadcast SET total = (
    SELECT count(*) FROM delivery__recipient WHERE broadcast_id = :id) WHERE id = :id
"""

#: Seconds until there is something to do.
_SOON: Final = """
SELECT {wait} AS wait FROM delivery__broadcast
WHERE next_at IS NOT NULL AND bot_id IN (SELECT bot_id FROM {bots})
"""
#: The one that waits longest, and how many of its bot share the rate. It writes, so that SQLite
#: does not refuse what comes after it when somebody else has written meanwhile.
_DUE: Final = """
UPDATE delivery__broadcast SET next_at = next_at WHERE id = (
    SELECT id FROM delivery__broadcast
    WHERE next_at <= {now} AND bot_id IN (SELECT bot_id FROM {bots})
    ORDER BY next_at LIMIT 1 {lock})
RETURNING id, bot_id, method, payload, once, state, reached, {counts}, (
    SELECT count(*) FROM delivery__broadcast beside
    WHERE beside.bot_id = delivery__broadcast.bot_id AND beside.state = 0) AS sharing
"""
#: What is on its way; a message that is not there any more was dropped by hand. `+ 0`: not by the
#: key of all chats of the broadcast, but by the index that has these only.
_ON_ITS_WAY: Final = """
SELECT recipient.chat_id, recipient.message, outbox.state, outbox.message_id, outbox.error
FROM delivery__recipient recipient
LEFT JOIN delivery__outbox outbox ON outbox.id = recipient.message
WHERE recipient.broadcast_id + 0 = :id AND recipient.state = 1
"""
ENDED_COLUMNS: Final = {
    "chat_id": "bigint",
    "message": "bigint",
    "state": "smallint",
    "message_id": "bigint",
    "error": "text",
}
_SETTLE: Final = """
UPDATE delivery__recipient SET state = ended.state, message = NULL, message_id = ended.message_id,
    error = ended.error
FROM {ended}
WHERE broadcast_id = :id AND delivery__recipient.chat_id = ended.chat_id
"""
#: What became of it stands with its chat from now on.
_ERASE: Final = "DELETE FROM delivery__outbox WHERE id IN (SELECT message FROM {ended})"
_NEXT: Final = """
SELECT chat_id, fields FROM delivery__recipient
WHERE broadcast_id = :id AND chat_id > :reached ORDER BY chat_id LIMIT :most
"""
MOVED_COLUMNS: Final = {"chat_id": "bigint", "message": "bigint"}
_MOVE: Final = """
UPDATE delivery__recipient SET state = 1, fields = NULL, message = moved.message
FROM {moved}
WHERE broadcast_id = :id AND delivery__recipient.chat_id = moved.chat_id
"""
_GO_ON: Final = """
UPDATE delivery__broadcast SET reached = :reached, sent = sent + :sent,
    blocked = blocked + :blocked, failed = failed + :failed, unknown = unknown + :unknown,
    next_at = {later} WHERE id = :id
"""
_END: Final = """
UPDATE delivery__broadcast SET state = CASE WHEN state = 0 THEN 3 ELSE state END, payload = NULL,
    next_at = NULL, ended_at = {now} WHERE id = :id
"""
_REST: Final = "UPDATE delivery__broadcast SET next_at = NULL WHERE id = :id"

_PROGRESS: Final = "SELECT id, state, {counts} FROM delivery__broadcast WHERE id = :id"
_STATE: Final = """
SELECT state, state = 3 OR ended_at IS NOT NULL AS is_over FROM delivery__broadcast WHERE id = :id
"""
_PAUSE: Final = "UPDATE delivery__broadcast SET state = 1 WHERE id = :id AND state = 0"
_RESUME: Final = """
UPDATE delivery__broadcast SET state = 0, next_at = {now} WHERE id = :id AND state = 1
"""
_CANCEL: Final = """
UPDATE delivery__broadcast SET state = 2, next_at = {now} WHERE id = :id AND state IN (0, 1)
"""
_CHATS: Final = """
SELECT chat_id FROM delivery__recipient WHERE broadcast_id = :id AND state = :state ORDER BY chat_id
"""
#: Chats that a broadcast has reached, or never will, a while after its end: as messages, those that
#: were given up stay.
_FORGET: Final = """
DELETE FROM delivery__recipient WHERE (broadcast_id, chat_id) IN (
    SELECT recipient.broadcast_id, recipient.chat_id
    FROM delivery__recipient recipient JOIN delivery__broadcast ON id = recipient.broadcast_id
    WHERE ended_at IS NOT NULL AND {ago} > :keep AND recipient.state IN (0, 2) LIMIT :most)
"""


def broadcast_statements(dialect: Dialect) -> dict[str, TextClause]:
    """Return the statements for a database.

    Args:
        dialect: Its dialect.
    """
    now = dialect.moment_now
    bots = dialect.rows_of("bots", {"bot_id": "bigint"})
    ended = dialect.rows_of("ended", ENDED_COLUMNS)
    sql = {
        "begin": _BEGIN.format(now=now),
        "count": _COUNT,
        "soon": _SOON.format(
            wait=dialect.seconds_between.format(end="min(next_at)", begin=now), bots=bots
        ),
        "due": _DUE.format(counts=_COUNTS, now=now, bots=bots, lock=dialect.lock_free_ones),
        "on_its_way": _ON_ITS_WAY,
        "settle": _SETTLE.format(ended=ended),
        "erase": _ERASE.format(ended=ended),
        "next": _NEXT,
        "move": _MOVE.format(moved=dialect.rows_of("moved", MOVED_COLUMNS)),
        "go_on": _GO_ON.format(later=dialect.moment_in.format(seconds=":pause")),
        "end": _END.format(now=now),
        "rest": _REST,
        "progress": _PROGRESS.format(counts=_COUNTS),
        "state": _STATE,
        "pause": _PAUSE,
        "resume": _RESUME.format(now=now),
        "cancel": _CANCEL.format(now=now),
        "chats": _CHATS,
        "forget": _FORGET.format(ago=dialect.seconds_between.format(end=now, begin="ended_at")),
    }
    return {name: text(statement) for name, statement in sql.items()}
