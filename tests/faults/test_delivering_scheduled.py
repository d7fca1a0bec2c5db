"""Scheduled messages, an outage when they are due, and clocks that are wrong: O17."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from aiogram.methods import SendMessage
from sqlalchemy.engine import URL
from support.accounting import connected
from support.kept import client, kept
from support.proxy import PostgresProxy

from lifecycle.testing import BotApiServer

Row = Callable[..., None]
HOUR = 3600.0


@pytest.mark.parametrize("off", [-HOUR, 0.0, HOUR])
async def test_what_was_due_in_an_outage_is_sent_after_it(
    postgres_database: URL, row: Row, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    """O17: once, and not before its moment by the database's clock, whatever a replica's is."""
    url = postgres_database
    right = time.time
    async with (
        PostgresProxy(url.host or "", url.port or 0) as proxy,
        connected(url) as admin,
        BotApiServer() as server,
        client(server) as bot,
    ):
        await server.user(7, "Ada").say("/start")
        monkeypatch.setattr(time, "time", lambda: right() + off)
        async with kept(proxy.url(url), bot, lease=2) as app:
            await app.events.wait_for("member.joined")
            now: datetime = await admin.fetchval("SELECT now()")
            async with app.units() as uow:
                for words, after in (("now", None), ("later", 1), ("much later", 600)):
                    at = None if after is None else now + timedelta(seconds=after)
                    uow.send(SendMessage(chat_id=7, text=words), at=at)
            await server.call("sendMessage", timeout=20)
            proxy.refuse()
            proxy.cut()
            await admin.execute("SELECT pg_sleep_until($1)", now + timedelta(seconds=1.2))
            await proxy.resume()
            async with asyncio.timeout(30):
                while not await admin.fetchval(_IS_SENT):  # noqa: ASYNC110 -- of a database
                    await asyncio.sleep(0.02)
    rows = await _moments(url)
    assert [state for state, _ in rows] == [1, 1, 0]
    assert all(early <= 0 for _, early in rows[:2])
    assert [call.params["text"] for call in server.calls if call.method == "sendMessage"] == [
        "now",
        "later",
    ]
    row(
        "O17",
        load=f"due while the database is away, clock of the replica {off / HOUR:+g} h",
        result="sent once, after the outage; what is due later waits",
    )


_IS_SENT = "SELECT state = 1 FROM delivery__outbox ORDER BY id OFFSET 1 LIMIT 1"


async def _moments(url: URL) -> list[tuple[int, float]]:
    """Return the state of each message, and how long before its moment it was marked."""
    async with connected(url) as admin:
        rows = await admin.fetch("""
            SELECT state, coalesce(extract(epoch FROM due_at - ended_at), 0)::float8 AS early
            FROM delivery__outbox ORDER BY id
        """)
    return [(row["state"], row["early"]) for row in rows]
