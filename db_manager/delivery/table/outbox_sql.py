"""The statements of the outbox: at most one open row of a lane has an owner.

While somebody holds an old snapshot, as a dump does, the indexes of open and of owned rows keep all
that has ended since. So only looks read them from end to end: a lane is asked for in a subquery
that PostgreSQL cannot turn into a join (LIMIT), and a row that is known by its number in words that
fit no such index (`+ 0`). How many rows a JSON array has, PostgreSQL guesses, unless LIMIT says it.
"""

from typing import Final

from sqlalchemy import TextClause, text

from db_manager.delivery.table.updates_table import DONE, IS_MINE
from db_manager.dialects.dialect import Dialect

#: Columns of what is written, and of what has ended.
WRITTEN: Final = {
    "n": "integer",
    "bot_id": "bigint",
    "lane": "text",
    "method": "text",
    "payload": "text",
    "once": "boolean",
    "due": "float",
}
ENDED: Final = {
    "id": "bigint",
    "owner": "bigint",
    "state": "smallint",
    "message_id": "bigint",
    "error": "text",
    "attempts": "integer",
}

_WRITE: Final = """
INSERT INTO delivery__outbox
    (bot_id, lane, method, payload, once, begun, due_at, attempts, state, owner, created_at)
SELECT bot_id, lane, method, payload, once, FALSE,
    CASE WHEN due IS NULL THEN {now} ELSE {due} END, 0, 0, NULL, {now}
FROM {rows} ORDER BY n RETURNING id
"""
#: The first of each lane: claimed, unless something of the lane is open and due. In an order in
#: which two units never wait for each other.
_WRITE_FIRST: Final = """
INSERT INTO delivery__outbox
    (bot_id, lane, method, payload, once, begun, due_at, attempts, state, owner, created_at)
SELECT bot_id, lane, method, payload, once, once AND is_free, {now}, 0, 0,
    CASE WHEN is_free THEN CAST(:writer AS bigint) END, {now}
FROM (
    SELECT rows.*, {sees_commits} AND (
        SELECT earlier.id FROM delivery__outbox earlier WHERE earlier.lane = rows.lane
        AND earlier.state = 0 AND (earlier.owner IS NOT NULL OR earlier.due_at <= {now}) LIMIT 1
    ) IS NULL AS is_free FROM {rows}
) AS given WHERE TRUE ORDER BY lane
ON CONFLICT (lane) WHERE owner IS NOT NULL DO NOTHING RETURNING id, lane, owner
"""

#: The same, after the update of the unit is done; whether it was, stands in every row.
_DONE_AND_WRITE_FIRST: Final = """
WITH done_now AS ({done} RETURNING delivery__inbox.id), written AS ({write})
SELECT found.done, written.id, written.lane, written.owner
FROM (SELECT count(*) AS done FROM done_now) AS found LEFT JOIN written ON TRUE
"""

_CLAIM: Final = """
UPDATE delivery__outbox SET owner = :me, begun = once WHERE id IN (
    SELECT head.id FROM delivery__outbox head WHERE head.id IN (
        SELECT (
            SELECT first.id FROM delivery__outbox first WHERE first.lane = lanes.lane
            AND first.state = 0 AND first.due_at <= {now} {not_first}
            ORDER BY first.id LIMIT 1
        ) FROM {lanes} WHERE (
            SELECT owned.id FROM delivery__outbox owned
            WHERE owned.lane = lanes.lane AND owned.owner IS NOT NULL {not_owned} LIMIT 1) IS NULL
    ) AND head.state + 0 = 0 AND head.owner IS NULL
    AND head.method NOT IN (SELECT method FROM {strange}) ORDER BY head.id {lock})
RETURNING {columns}
"""
#: What a claim leaves out in a statement that ends rows: these, as they were before it; or nothing.
_ENDED: Final = {
    "not_first": "AND first.id NOT IN (SELECT id FROM ended_now)",
    "not_owned": "AND owned.id NOT IN (SELECT id FROM ended_now)",
}
_NOTHING: Final = dict.fromkeys(_ENDED, "")
#: The lanes of these bots that wait, those that wait longest first.
_WAITING: Final = """(
    SELECT lane FROM delivery__outbox waiting WHERE state = 0 AND owner IS NULL
    AND due_at <= {now} AND bot_id IN (SELECT bot_id FROM {bots}) AND NOT EXISTS (
        SELECT 1 FROM delivery__outbox owned
        WHERE owned.lane = waiting.lane AND owned.owner IS NOT NULL)
    GROUP BY lane ORDER BY min(id) LIMIT :most) AS lanes"""
_COLUMNS: Final = "id, bot_id, lane, method, payload, once, attempts, {age} AS age"

_END: Final = """
UPDATE delivery__outbox SET state = ended.state, owner = NULL, message_id = ended.message_id,
    error = ended.error, attempts = ended.attempts, ended_at = {now},
    payload = CASE WHEN ended.state = 1 THEN NULL ELSE payload END
FROM (SELECT * FROM {ended} LIMIT :number) AS ended
WHERE delivery__outbox.id = ended.id AND delivery__outbox.state + 0 = 0
AND (delivery__outbox.owner = ended.owner OR delivery__outbox.owner IS NULL)
"""
#: The same, and in the same statement the next of these lanes is claimed: what has ended is open
#: still for who looks there meanwhile.
_END_AND_CLAIM: Final = """
WITH ended_now AS ({end} RETURNING delivery__outbox.id)
{claim}
"""
#: What somebody had who is gone: open again; or unknown, if it must not come twice.
_RELEASE: Final = """
UPDATE delivery__outbox SET owner = NULL, state = CASE WHEN once AND begun THEN 3 ELSE 0 END,
    ended_at = CASE WHEN once AND begun THEN {now} END
WHERE owner IS NOT NULL AND {gone} RETURNING id, bot_id, method, state
"""
_GIVE_BACK: Final = """
UPDATE delivery__outbox SET owner = NULL, begun = FALSE WHERE owner = :me AND state = 0
"""
_LEAVE_TO_OTHERS: Final = """
UPDATE delivery__outbox SET owner = NULL, begun = FALSE
WHERE id = :id AND owner + 0 = :me AND state + 0 = 0
"""
_MINE: Final = "SELECT {columns} FROM delivery__outbox WHERE owner = :me AND state = 0"
_LOOK: Final = """
SELECT id, state, error FROM delivery__outbox WHERE id IN (SELECT id FROM {wanted})
"""
_OPEN: Final = """
SELECT count(*) AS open, coalesce({oldest}, 0) AS oldest FROM (
    SELECT due_at FROM delivery__outbox WHERE state = 0 AND due_at <= {now} LIMIT 10000) AS due
"""
_FORGET: Final = """
DELETE FROM delivery__outbox WHERE id IN (
    SELECT id FROM delivery__outbox WHERE id > :after ORDER BY id LIMIT :most
) AND state = 1 AND {ago} > :keep AND NOT EXISTS (
    SELECT 1 FROM delivery__recipient WHERE message = delivery__outbox.id AND state = 1)
"""
_NEXT: Final = """
SELECT max(id) FROM (
    SELECT id FROM delivery__outbox WHERE id > :after ORDER BY id LIMIT :most) AS batch
"""


def statements(dialect: Dialect, *, has_members: bool) -> dict[str, TextClause]:
    """Return the statements for a database.

    Args:
        dialect: Its dialect.
        has_members: Other processes empty the table too.
    """
    now, written = dialect.moment_now, dialect.rows_of("rows", WRITTEN)
    age = dialect.seconds_between.format(end=now, begin="due_at")
    columns = _COLUMNS.format(age=age)
    due = dialect.moment_at.format(seconds="due")
    strange = dialect.rows_of("strange", {"method": "text"})
    claim = {"now": now, "lock": dialect.lock_free_ones, "columns": columns, "strange": strange}
    lanes = dialect.rows_of("lanes", {"lane": "text"})
    gone = "owner NOT IN (SELECT id FROM delivery__member)" if has_members else "TRUE"
    oldest = dialect.seconds_between.format(end=now, begin="min(due_at)")
    ago = dialect.seconds_between.format(end=now, begin="ended_at")
    write = {"now": now, "due": due, "rows": written}
    end = _END.format(now=now, ended=dialect.rows_of("ended", ENDED))
    first = _WRITE_FIRST.format(**write, sees_commits=dialect.sees_commits)
    done = DONE.format(now=now, mine=IS_MINE)
    sql = {
        "write": _WRITE.format(**write),
        "write_first": first,
        "done_and_write_first": _DONE_AND_WRITE_FIRST.format(done=done, write=first),
        "claim": _CLAIM.format(
            **claim,
            **_NOTHING,
            lanes=_WAITING.format(now=now, bots=dialect.rows_of("bots", {"bot_id": "bigint"})),
        ),
        "claim_in": _CLAIM.format(**claim, **_NOTHING, lanes=lanes),
        "end": end,
        "end_and_claim": _END_AND_CLAIM.format(
            end=end, claim=_CLAIM.format(**claim, **_ENDED, lanes=lanes)
        ),
        "release": _RELEASE.format(now=now, gone=gone),
        "give_back": _GIVE_BACK,
        "leave_to_others": _LEAVE_TO_OTHERS,
        "mine": _MINE.format(columns=columns),
        "look": _LOOK.format(wanted=dialect.rows_of("wanted", {"id": "bigint"})),
        "open": _OPEN.format(now=now, oldest=oldest),
        "next": _NEXT,
        "forget": _FORGET.format(ago=ago),
    }
    return {name: text(statement) for name, statement in sql.items()}
