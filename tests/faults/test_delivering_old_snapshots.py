"""Somebody holds an old snapshot, as a dump does, while many messages are sent: O21."""

import json
from collections.abc import Callable
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from support.accounting import connected
from support.kept import kept

from db_manager.delivery.table.claims import Claims

Row = Callable[..., None]
CHATS = 1000
_FILL = """
    INSERT INTO delivery__outbox
        (bot_id, lane, method, payload, once, begun, due_at, attempts, state, created_at)
    SELECT 42, '42:' || n % $2, 'sendMessage', '{}', false, false, now(), 0, 0, now()
    FROM generate_series(1, $1) AS n
"""
#: One message of each chat at a time, as they are sent.
_CLAIM = """
    UPDATE delivery__outbox SET owner = 7 WHERE id IN (
        SELECT min(id) FROM delivery__outbox WHERE state = 0 GROUP BY lane)
"""
_END = "UPDATE delivery__outbox SET state = 1, owner = NULL, payload = NULL WHERE owner = 7"


def message(lane: str) -> str:
    """Return a message as the statement takes it."""
    fields = {"bot_id": 42, "method": "sendMessage", "payload": "{}", "once": False, "due": None}
    return json.dumps([{"n": 0, "lane": lane, **fields}])


async def blocks(engine: AsyncEngine, statement: str, **given: Any) -> int:
    """Return how many blocks a statement of the outbox reads; it is rolled back."""
    claims: Any = Claims(engine, has_members=True)
    sql = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {claims._statements[statement].text}"
    async with engine.connect() as connection:
        [[found]] = await connection.execute(text(sql), {"me": 1, **given})
        await connection.rollback()
    plan = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


async def send(admin: Any, messages: int) -> None:
    """Write and send messages, as replicas do."""
    await admin.execute(_FILL, messages, CHATS)
    for _ in range(messages // CHATS):
        await admin.execute(_CLAIM)
        await admin.execute(_END)


async def costs(engine: AsyncEngine) -> dict[str, int]:
    """Return the blocks of a reply to a quiet chat, of the next of a chat, and of a look."""
    lanes, bots = json.dumps([{"lane": "42:1"}]), json.dumps([{"bot_id": 42}])
    end = {"id": 5, "owner": 1, "state": 1, "message_id": 3, "error": None, "attempts": 1}
    ended = {"ended": json.dumps([end]), "number": 1}
    return {
        "reply": await blocks(engine, "write_first", rows=message("42:-1"), writer=1),
        "reply to a busy chat": await blocks(engine, "write_first", rows=message("42:1"), writer=1),
        "next": await blocks(engine, "claim_in", lanes=lanes, strange="[]"),
        "mark": await blocks(engine, "end", **ended),
        "mark and next": await blocks(engine, "end_and_claim", **ended, lanes=lanes, strange="[]"),
        "look": await blocks(engine, "claim", bots=bots, strange="[]", most=500),
    }


async def test_an_old_snapshot_makes_looks_dear_and_replies_not(
    postgres_database: URL, row: Row, *, full: bool
) -> None:
    """O21: a reply reads what its own chat has ended since, and no other; after it all is cheap."""
    finished = 100_000 if full else 10_000
    async with (
        kept(postgres_database) as app,
        connected(postgres_database) as admin,
        connected(postgres_database) as dump,
    ):
        engine = app.app.services["db_manager:engine"]
        await admin.execute("ALTER TABLE delivery__outbox SET (autovacuum_enabled = false)")
        await send(admin, finished)
        await admin.execute("VACUUM ANALYZE delivery__outbox")
        before = await costs(engine)
        await dump.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await dump.execute("SELECT 1")
        await send(admin, finished)
        held = await costs(engine)
        await dump.execute("ROLLBACK")
        await costs(engine)  # who reads them now says that they are dead
        after = await costs(engine)
    ended = finished // CHATS  # in one chat
    assert held["reply"] <= before["reply"] + 10
    assert held["reply to a busy chat"] <= before["reply to a busy chat"] + 10 * ended + 20
    assert held["next"] <= before["next"] + 10 * ended + 20
    assert held["mark and next"] <= before["mark and next"] + 10 * ended + 40
    assert max(before["mark"], held["mark"]) <= 20
    assert held["look"] > 10 * before["look"]  # else this would show nothing
    assert after["look"] <= 2 * before["look"] + finished / 100
    row(
        "O21",
        load=f"a snapshot is held while {finished} messages to {CHATS} chats are sent",
        result="blocks read before, meanwhile, after: "
        + "; ".join(f"{what} {before[what]}, {held[what]}, {after[what]}" for what in before),
    )
