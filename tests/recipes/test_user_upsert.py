"""The recipe of an outer middleware that keeps everybody who writes."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from sqlalchemy import select
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError

from db_manager.testing import Faults, Sandbox
from examples.recipes import user_upsert
from examples.recipes.user_upsert import User, make_dispatcher
from lifecycle.testing import BotApiServer, LocalTelegram
from observability.testing import EventRecorder

Poll = Callable[..., AbstractAsyncContextManager[BotApiServer]]

MANY = 8


async def rows(sandbox: Sandbox) -> list[tuple[int, str, int]]:
    """Return id, name and number of updates of everybody who is kept."""
    async with sandbox.uow_factory() as uow:
        users = await uow.session.scalars(select(User).order_by(User.id))
        return [(user.id, user.name, user.updates) for user in users]


async def test_handlers_have_the_row_of_who_writes(
    sandbox: Sandbox, telegram: LocalTelegram
) -> None:
    """The first update inserts a row, later ones change it, and what handlers wrote stays."""
    await telegram.run(sandbox.application(), make_dispatcher())
    ada = telegram.user(7, "Ada")
    await ada.say("/start")
    assert (await ada.reply()).text == "Ada, somewhere: update 1."
    await ada.say("/city Paris")
    assert (await ada.reply()).text == "Noted."
    await ada.say("/start")
    assert (await ada.reply()).text == "Ada, Paris: update 3."
    assert await rows(sandbox) == [(7, "Ada", 3)]


async def test_first_messages_at_once_make_one_row(
    sandbox: Sandbox, telegram: LocalTelegram
) -> None:
    """Updates of somebody new that are handled side by side are counted in one row."""
    await telegram.run(sandbox.application(), make_dispatcher())
    ada = telegram.user(7, "Ada")
    await asyncio.gather(*(ada.say("/start") for _ in range(MANY)))
    assert await rows(sandbox) == [(7, "Ada", MANY)]


async def test_without_the_row_no_handler_is_called(
    sandbox: Sandbox, telegram: LocalTelegram, faults: Faults, events: EventRecorder
) -> None:
    """When the unit of the middleware is refused it is rolled back, and its error goes up."""
    await telegram.run(sandbox.application(), make_dispatcher())
    ada = telegram.user(7, "Ada")
    faults.refuse_commit()
    with pytest.raises(IntegrityError):
        await ada.say("/start")
    events.assert_sequence("uow.begin", "uow.rollback", "uow.close")
    events.assert_none("uow.commit")
    assert not ada.unread
    assert await rows(sandbox) == []
    await ada.say("/start")
    assert (await ada.reply()).text == "Ada, somewhere: update 1."


async def test_the_row_stays_when_the_handler_fails(
    sandbox: Sandbox, telegram: LocalTelegram, faults: Faults
) -> None:
    """The middleware has committed before the handler begins, which is undone alone."""
    await telegram.run(sandbox.application(), make_dispatcher())
    ada = telegram.user(7, "Ada")
    faults.refuse_commit(handler="move")
    with pytest.raises(IntegrityError):
        await ada.say("/city Paris")
    assert await rows(sandbox) == [(7, "Ada", 1)]
    await ada.say("/start")
    assert (await ada.reply()).text == "Ada, somewhere: update 2."


async def test_an_update_of_nobody_is_handled(sandbox: Sandbox, telegram: LocalTelegram) -> None:
    """A post of a channel has no sender: its handler gets None, and nothing is kept."""
    dispatcher = make_dispatcher()
    found: list[object] = []
    dispatcher.channel_post.register(lambda _, user: found.append(user))
    await telegram.run(sandbox.application(), dispatcher)
    channel = {"id": -100, "type": "channel", "title": "News"}
    await telegram.deliver(
        channel_post={"message_id": 1, "date": 0, "chat": channel, "text": "hear, hear"}
    )
    assert found == [None]
    assert await rows(sandbox) == []


async def test_its_main_polls(poll: Poll, database_url: URL) -> None:
    """The program answers somebody, and ends when it is told to."""
    async with poll(user_upsert, database_url) as telegram:
        ada = telegram.user(7, "Ada")
        await ada.say("/start")
        assert (await ada.reply(timeout=60)).text == "Ada, somewhere: update 1."
