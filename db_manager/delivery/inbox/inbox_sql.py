"""The statements of the inbox: at most one open row of a lane has an owner.

As those of the outbox, they read indexes of open rows from end to end in looks only.
"""

from typing import Final

from sqlalchemy import TextClause, text

from db_manager.delivery.table.updates_table import DONE, IS_MINE, IS_OPEN
from db_manager.dialects.dialect import Dialect

#: Columns of what is stored.
STORED: Final = {
    "n": "integer",
    "bot_id": "bigint",
    "update_id": "bigint",
    "lane": "text",
    "payload": "text",
}

_STORE: Final = """
INSERT INTO delivery__inbox
    (bot_id, update_id, lane, payload, received_at, attempts, deaths, owner)
SELECT bot_id, update_id, lane, payload, {now}, 0, 0, {owner}
FROM {rows} WHERE TRUE ORDER BY {order}
ON CONFLICT DO NOTHING RETURNING id, owner, bot_id, update_id, lane
"""
#: The owner of the first of a lane: it is claimed, unless something of the lane is open.
_IF_FREE: Final = """CASE WHEN (
    SELECT earlier.id FROM delivery__inbox earlier WHERE earlier.lane = rows.lane
    AND earlier.done_at IS NULL AND earlier.parked_at IS NULL LIMIT 1
    ) IS NULL THEN CAST(:me AS bigint) END"""

_CLAIM: Final = """
UPDATE delivery__inbox SET owner = :me WHERE id IN (
    SELECT head.id FROM delivery__inbox head WHERE head.id IN (
        SELECT (
            SELECT first.id FROM delivery__inbox first WHERE first.lane = lanes.lane
            AND first.done_at IS NULL AND first.parked_at IS NULL ORDER BY first.id LIMIT 1
        ) FROM {lanes} WHERE (
            SELECT owned.id FROM delivery__inbox owned
            WHERE owned.lane = lanes.lane AND owned.owner IS NOT NULL LIMIT 1) IS NULL
    ) AND coalesce(head.done_at, head.parked_at) IS NULL AND head.owner IS NULL
    ORDER BY head.id {lock})
RETURNING {columns}
"""
_WAITING: Final = """(
    SELECT lane FROM delivery__inbox waiting WHERE done_at IS NULL AND parked_at IS NULL
    AND owner IS NULL AND bot_id IN (SELECT bot_id FROM {bots}) AND NOT EXISTS (
        SELECT 1 FROM delivery__inbox owned
        WHERE owned.lane = waiting.lane AND owned.owner IS NOT NULL)
    GROUP BY lane ORDER BY min(id) LIMIT :most) AS lanes"""
_COLUMNS: Final = "id, bot_id, update_id, lane, payload, deaths, {age} AS age"

_PARK: Final = """
UPDATE delivery__inbox SET parked_at = {now}, owner = NULL, attempts = :attempts, error = :error
WHERE {mine}
"""
#: A death is counted when the dead one's rows are released; of one that is handled alone, because
#: two died with it, before it is handled.
_RELEASE: Final = """
UPDATE delivery__inbox SET owner = NULL,
    deaths = deaths + CASE WHEN deaths < :suspect THEN 1 ELSE 0 END
WHERE owner IS NOT NULL AND {gone} RETURNING id
"""
_COUNT_DEATH: Final = "UPDATE delivery__inbox SET deaths = deaths + 1 WHERE {mine}"
_FORGIVE: Final = "UPDATE delivery__inbox SET deaths = :deaths WHERE {mine}"
_GIVE_BACK: Final = "UPDATE delivery__inbox SET owner = NULL WHERE owner = :me AND {is_open}"
_MINE: Final = "SELECT {columns} FROM delivery__inbox WHERE owner = :me AND {is_open}"
_IS_MINE: Final = "SELECT 1 FROM delivery__inbox WHERE {mine}"
_WAITS: Final = """
SELECT count(*) AS open, coalesce({oldest}, 0) AS oldest FROM (
    SELECT received_at FROM delivery__inbox WHERE {is_open} AND update_id > 0 LIMIT 10000
) AS waiting
"""
_IS_DONE: Final = "SELECT 1 FROM delivery__inbox WHERE id = :id AND done_at IS NOT NULL"
_FORGET: Final = "DELETE FROM delivery__inbox WHERE done_at IS NOT NULL AND {ago} > :keep"


def inbox_statements(dialect: Dialect, *, has_members: bool) -> dict[str, TextClause]:
    """Return the statements for a database.

    Args:
        dialect: Its dialect.
        has_members: Other processes handle updates too.
    """
    now = dialect.moment_now
    age = dialect.seconds_between.format(end=now, begin="received_at")
    ago = dialect.seconds_between.format(end=now, begin="done_at")
    oldest = dialect.seconds_between.format(end=now, begin="min(received_at)")
    columns = _COLUMNS.format(age=age)
    store = {"now": now, "rows": dialect.rows_of("rows", STORED)}
    claim = {"lock": dialect.lock_free_ones, "columns": columns}
    bots = dialect.rows_of("bots", {"bot_id": "bigint"})
    mine = {"now": now, "mine": IS_MINE}
    sql = {
        "store": _STORE.format(**store, owner="NULL", order="n"),
        "store_first": _STORE.format(**store, owner=_IF_FREE, order="lane"),
        "claim": _CLAIM.format(**claim, lanes=_WAITING.format(bots=bots)),
        "claim_in": _CLAIM.format(**claim, lanes=dialect.rows_of("lanes", {"lane": "text"})),
        "done": DONE.format(**mine),
        "park": _PARK.format(**mine),
        "release": _RELEASE.format(
            gone="owner NOT IN (SELECT id FROM delivery__member)" if has_members else "TRUE"
        ),
        "count_death": _COUNT_DEATH.format(**mine),
        "forgive": _FORGIVE.format(**mine),
        "give_back": _GIVE_BACK.format(is_open=IS_OPEN),
        "is_mine": _IS_MINE.format(**mine),
        "mine": _MINE.format(columns=columns, is_open=IS_OPEN),
        "waits": _WAITS.format(is_open=IS_OPEN, oldest=oldest),
        "is_done": _IS_DONE,
        "forget": _FORGET.format(ago=ago),
    }
    return {name: text(statement) for name, statement in sql.items()}
