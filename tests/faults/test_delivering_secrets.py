"""What users and bots say in secret is nowhere but where it has to be: O26."""

import gc
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiogram import Dispatcher
from aiogram.methods import SendMessage
from aiogram.types import Message
from sqlalchemy.engine import URL
from support.kept import client, polling

from db_manager.delivery.calls.courier import Delivered, Letter
from db_manager.delivery.inbox.handling import Handling
from db_manager.delivery.inbox.updates import Stored
from db_manager.delivery.relay import Relay
from db_manager.delivery.table.claims import Claimed
from db_manager.sending import Sending
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.testing import BotApiServer

Row = Callable[..., None]
HEARD, SAID = "canary-heard", "canary-said"
KINDS = (Claimed, Delivered, Handling, Letter, Relay, Sending, Stored)
_TABLES = ("delivery__inbox", "delivery__outbox", "delivery__member", "delivery__fsm")


async def test_texts_and_tokens_are_told_nowhere(
    database_url: URL, row: Row, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O26: events, log lines, what objects say of themselves, and rows of what is over."""
    caplog.set_level(logging.DEBUG)
    for name in ("aiogram", "aiosqlite"):  # on DEBUG they log what they are given
        monkeypatch.setattr(logging.getLogger(name), "level", logging.INFO)
    dispatcher = Dispatcher()
    shown: list[str] = []

    @dispatcher.message()
    async def answer(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        async with uow_factory() as uow:
            uow.send(message.answer(SAID))
            uow.send(SendMessage(chat_id=8, text=SAID))
            shown.extend(repr(each) for each in gc.get_objects() if isinstance(each, KINDS))
        if len(message.text or "") > len(HEARD):
            raise ValueError(SAID)

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(BotApiServer())
        bot = await stack.enter_async_context(client(server))
        app = await stack.enter_async_context(polling(database_url, dispatcher, bot))
        server.fail_next("sendMessage", error_code=429, retry_after=1)
        server.lose_next("sendMessage", "answer")
        for words in (HEARD, f"{HEARD} and fail"):
            await server.user(7, "Ada").say(words)
            await server.user(8, "Bob").say(words)

        seen = 0

        async def is_over() -> bool:
            nonlocal seen
            done = await app.sql("SELECT done_at FROM delivery__inbox WHERE update_id > 0")
            if seen != len(server.calls):  # a look at all objects takes long: one for each call
                seen = len(server.calls)
                shown.extend(repr(each) for each in gc.get_objects() if isinstance(each, KINDS))
            return len(done) == 4 and all(moment for (moment,) in done)

        await app.until(is_over)
        await app.settled()
        rows: list[Any] = [await app.sql(f"SELECT * FROM {table} WHERE true") for table in _TABLES]
        events = [repr(event) for event in app.events.events]
        levels = [repr(probe()) for probe in app.app.probes.values()]
    found = {
        place: [line for line in lines if any(each in line for each in (HEARD, SAID, server.token))]
        for place, lines in {
            "events": events,
            "logs": [record.getMessage() + (record.exc_text or "") for record in caplog.records],
            "objects": shown,
            "tables": [repr(each) for each in rows],
            "probes": levels,
        }.items()
    }
    assert shown
    assert found == {place: [] for place in found}
    row(
        "O26",
        load=f"{database_url.get_backend_name()}: canaries in updates, messages, errors, the token",
        result=f"0 hits in {len(events)} events, {len(caplog.records)} log lines, "
        f"{len(shown)} objects, {sum(map(len, rows))} rows",
    )
