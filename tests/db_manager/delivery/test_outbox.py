"""`uow.send`: what was committed is sent, and nothing else is."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from aiogram.methods import SendMessage
from support.kept import Start

from lifecycle.testing import LocalTelegram


async def test_a_message_of_a_committed_unit_is_sent(start: Start, telegram: LocalTelegram) -> None:
    """It arrives once the unit is committed, its row says so, and its text is erased."""
    kept = await start()
    ada = telegram.user(7, "Ada")
    await ada.say("hello")
    async with kept.units() as uow:
        sending = uow.send(SendMessage(chat_id=7, text="Noted."))
        assert sending.state == "new"
    message = await sending
    assert message.text == "Noted."
    assert (await ada.reply()).text == "Noted."
    await kept.settled()
    assert await kept.rows("lane, method, payload, state, message_id") == [
        ("42:7", "sendMessage", None, 1, message.message_id)
    ]
