"""Replicas of an old release leave to a new one what they do not know: O27."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiogram.methods import SendMessage
from sqlalchemy.engine import URL
from support.kept import Kept, client, kept

from db_manager.delivery.calls import courier
from db_manager.delivery.calls.stored import loaded
from lifecycle.testing import BotApiServer

Row = Callable[..., None]
#: What a new release writes with a method that only it knows.
_WRITE = """
    INSERT INTO delivery__outbox
        (bot_id, lane, method, payload, once, begun, due_at, attempts, state, created_at)
    VALUES (42, '42:7', 'sendHologram', :payload, :once, false, {now}, 0, 0, {now})
"""
_NOW = {"postgresql": "now()", "sqlite": "(julianday('now') - 2440587.5) * 86400.0"}


@pytest.fixture
async def server() -> AsyncIterator[BotApiServer]:
    """A Bot API server that two people have written to."""
    async with BotApiServer() as server:
        for number, name in ((7, "Ada"), (8, "Bob")):
            await server.user(number, name).say("/start")
        yield server


def texts(server: BotApiServer) -> list[tuple[int, str]]:
    """Return what arrived, in order."""
    sent = [call for call in server.calls if call.method == "sendMessage"]
    return [(int(call.params["chat_id"]), call.params["text"]) for call in sent]


async def say(app: Kept, chat: int, words: str) -> None:
    """Send a message."""
    async with app.units() as uow:
        uow.send(SendMessage(chat_id=chat, text=words))


@pytest.mark.parametrize("once", [False, True])
async def test_what_an_old_release_does_not_know_waits_for_a_new_one(
    database_url: URL,
    server: BotApiServer,
    row: Row,
    monkeypatch: pytest.MonkeyPatch,
    *,
    once: bool,
) -> None:
    """O27: its chat waits with it, other chats do not, and who knows the method sends it."""
    kind = database_url.get_backend_name()

    def newer(name: str, *given: Any) -> Any:
        return loaded("sendMessage" if name == "sendHologram" else name, *given)

    async with AsyncExitStack() as new, client(server) as bot:
        async with kept(database_url, bot) as old:
            payload = json.dumps({"chat_id": 7, "text": "hologram"})
            await old.sql(_WRITE.format(now=_NOW[kind]), payload=payload, once=once)
            await old.events.wait_for("message.retried")
            await say(old, 7, "after it")
            await say(old, 8, "beside it")

            async def is_left() -> bool:
                rows = await old.rows("state, owner, begun")
                return rows == [(0, None, False), (0, None, False), (1, None, False)]

            await old.until(is_left)
            told = old.of("message.retried")
            assert [(event.method, event.attempts) for event in told] == [("sendHologram", 1)]
            if kind == "postgresql":  # side by side; a file belongs to one process
                monkeypatch.setattr(courier, "loaded", newer)
                app = await new.enter_async_context(kept(database_url, bot))
                await app.settled()
        if kind == "sqlite":
            monkeypatch.setattr(courier, "loaded", newer)
            app = await new.enter_async_context(kept(database_url, bot))
            await app.settled()
    assert texts(server) == [(8, "beside it"), (7, "hologram"), (7, "after it")]
    row(
        "O27",
        load=f"{kind}: a method that an old release does not know{', once=True' * once}",
        result="it waited with its chat, others did not; a new release sent both, in order",
    )
