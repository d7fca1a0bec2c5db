"""A process looks for messages that are its own and unknown to it, amid units and marks."""

import asyncio
from typing import Any

import pytest
from aiogram import Bot
from aiogram.methods import SendMessage
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.kept import kept
from support.searching import Searching

from db_manager.delivery.outbox import Outbox
from db_manager.delivery.table.claims import Claimed, Claims
from lifecycle.testing import BotApiServer


def texts(server: BotApiServer) -> list[str]:
    """Return what was sent."""
    return [call.params["text"] for call in server.calls if call.method == "sendMessage"]


def slow(bot: Bot) -> tuple[asyncio.Event, asyncio.Event]:
    """Let the bot wait; return what is set when it does, and what lets it go on."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def wait(make_request: Any, bot: Bot, method: SendMessage) -> Any:
        asked.set()
        await go_on.wait()
        return await make_request(bot, method)

    bot.session.middleware(wait)  # type: ignore[arg-type]  # of one method
    return asked, go_on


async def test_a_search_keeps_no_unit_out_for_which_a_mark_waits(
    sqlite_database: URL, bot: Bot
) -> None:
    """The one writer of a file ends its unit while a mark waits for it, and a search for that."""
    _, go_on = slow(bot)
    async with kept(sqlite_database, bot, poll=60, database={"pool_timeout": 600}) as app:
        searching = Searching(app)
        await searching.begins()
        async with app.units() as uow:
            uow.send(SendMessage(chat_id=7, text="a"))
        async with app.units() as uow:
            await uow.session.execute(text("CREATE TABLE written (id INTEGER)"))
            last = uow.send(SendMessage(chat_id=8, text="b"))
            go_on.set()
            while not searching.relay.marking.locked():  # noqa: ASYNC110 -- by the mark
                await asyncio.sleep(0.01)
            search = asyncio.create_task(searching.search())
            await asyncio.sleep(0)
        await last
        await search


async def test_a_search_leaves_to_a_unit_what_it_has_committed_and_not_heard_of(
    url: URL, server: BotApiServer, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its COMMIT is done, and the answer on its way: the message is the unit's until it comes."""
    answers: list[tuple[Any, ...]] = []
    async with kept(url, bot, poll=60) as app:
        searching = Searching(app)
        await searching.begins()
        with monkeypatch.context() as late:
            late.setattr(Outbox, "ended", lambda *answer: answers.append(answer))
            async with app.units() as uow:
                uow.send(SendMessage(chat_id=7, text="a"))
        await searching.search()
        assert searching.relay.levels()["held"] == 0
        [answer] = answers
        Outbox.ended(*answer)
        await app.settled()
        await searching.search()
        assert searching.relay.levels()["held"] == 0
    assert texts(server) == ["a"]


async def test_what_is_sent_while_a_search_is_on_its_way_is_not_sent_again(
    url: URL, server: BotApiServer, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is marked after the search, which has seen it as open and finds that it is here."""
    asked, go_on = slow(bot)
    mine, end, marks = Claims.mine, Claims.end, asyncio.Event()

    async def end_and_say(self: Claims, *given: Any) -> list[Claimed]:
        marks.set()
        return await end(self, *given)

    async def mine_and_wait(self: Claims, me: int) -> list[Claimed]:
        found = await mine(self, me)
        assert [row.lane for row in found] == [f"{bot.id}:7"]
        go_on.set()
        await sending
        for _ in range(20):  # more than a mark needs to begin
            await asyncio.sleep(0)
        assert not marks.is_set()
        return found

    async with kept(url, bot, poll=60) as app:
        searching = Searching(app)
        await searching.begins()
        async with app.units() as uow:
            sending = uow.send(SendMessage(chat_id=7, text="a"))
        await asked.wait()
        with monkeypatch.context() as watched:
            watched.setattr(Claims, "mine", mine_and_wait)
            watched.setattr(Claims, "end", end_and_say)
            await searching.search()
        await app.settled()
    assert texts(server) == ["a"]
