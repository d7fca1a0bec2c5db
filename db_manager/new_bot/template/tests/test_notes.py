"""Conversations with the bot: its own code and a real database, a local Telegram."""

from pathlib import Path

import pytest
from db_manager.testing import Faults, Sandbox
from lifecycle.testing import LocalTelegram
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from bot.notes import Note

CONFIG = Path(__file__).parents[1] / "config.toml"


async def test_a_note_is_kept(sandbox: Sandbox, telegram: LocalTelegram) -> None:
    await telegram.run(sandbox.application(config=CONFIG))
    ada = telegram.user(7, "Ada")
    await ada.say("/note milk")
    assert (await ada.reply()).text == "Noted."
    async with sandbox.uow_factory(read_only=True) as uow:
        notes = await uow.session.scalars(select(Note.text))
        assert notes.all() == ["milk"]


async def test_everybody_sees_their_own_notes(
    sandbox: Sandbox, telegram: LocalTelegram
) -> None:
    await telegram.run(sandbox.application(config=CONFIG))
    ada, bob = telegram.user(7, "Ada"), telegram.user(8, "Bob")
    await ada.say("/note milk")
    assert (await ada.reply()).text == "Noted."
    await ada.say("/list")
    assert (await ada.reply()).text == "- milk"
    await bob.say("/list")
    assert (await bob.reply()).text == "No notes yet."


async def test_a_note_that_is_not_kept_is_not_confirmed(
    sandbox: Sandbox, telegram: LocalTelegram, faults: Faults
) -> None:
    await telegram.run(sandbox.application(config=CONFIG))
    faults.refuse_commit()
    ada = telegram.user(7, "Ada")
    with pytest.raises(IntegrityError):
        await ada.say("/note milk")
    assert not ada.unread
