"""The inbox: an update is done with the commit of its handler, once, in the order of its chat."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiogram import Bot, Dispatcher
from aiogram.dispatcher.event.bases import SkipHandler
from aiogram.filters import Command, StateFilter
from aiogram.fsm.context import FSMContext
from aiogram.methods import SendMessage, TelegramMethod
from aiogram.types import ErrorEvent, Message, Update
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.kept import Kept, application, client, polling

from db_manager.delivery import UpdateCompletedError, webhook
from db_manager.delivery.inbox.updates import Updates
from db_manager.errors import DatabaseUnavailableError
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.errors import ConfigError
from lifecycle.testing import BotApiServer

WRITE = text("INSERT INTO effect VALUES (:chat, :said)")


@asynccontextmanager
async def running(url: URL, dispatcher: Dispatcher, bot: Bot, **keys: Any) -> AsyncIterator[Kept]:
    """Run a bot, with a table for effects."""
    async with polling(url, dispatcher, bot, **keys) as app:
        await app.sql("CREATE TABLE IF NOT EXISTS effect (chat bigint, said text)")
        yield app


async def effects(app: Kept) -> list[Any]:
    """Return what handlers wrote."""
    return [said for (said,) in await app.sql("SELECT said FROM effect")]


async def updates(app: Kept, what: str) -> list[tuple[Any, ...]]:
    """Return columns of the inbox, in the order in which it was filled."""
    return await app.sql(f"SELECT {what} FROM delivery__inbox WHERE update_id > 0 ORDER BY id")


async def handled(app: Kept, number: int) -> None:
    """Wait until so many updates are done or parked."""

    async def is_handled() -> bool:
        rows = await updates(app, "done_at, parked_at")
        return len(rows) >= number and all(done or parked for done, parked in rows)

    await app.until(is_handled)
    await app.settled()


def said(server: BotApiServer, chat: int = 7) -> list[str]:
    """Return what a chat got."""
    calls = [call for call in server.calls if call.method == "sendMessage" and call.answer]
    mine = [call for call in calls if int(call.params["chat_id"]) == chat and call.answer["ok"]]  # type: ignore[index]  # asked above
    return [call.params["text"] for call in mine]


@pytest.fixture
async def server() -> AsyncIterator[BotApiServer]:
    """A Bot API server to which nobody has written yet."""
    async with BotApiServer() as server:
        yield server


async def write(message: Message, uow_factory: UnitOfWorkFactory) -> None:
    """Write what was said, and answer, in one unit."""
    async with uow_factory() as uow:
        await uow.session.execute(WRITE, {"chat": message.chat.id, "said": message.text})
        uow.send(message.answer(f"Noted: {message.text}"))


async def test_an_update_is_done_with_the_commit_of_its_handler(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """Its row says so and keeps no text; a redelivery is known and does nothing."""
    dispatcher = Dispatcher()
    dispatcher.message.register(write)
    async with running(url, dispatcher, bot) as app:
        ada = server.user(7, "Ada")
        for n in range(5):
            await ada.say(f"{n}")
        await handled(app, 5)
        assert await effects(app) == [str(n) for n in range(5)]
        assert await updates(app, "update_id, lane, payload, owner, attempts") == [
            (n, "42:7", None, None, 1) for n in range(1, 6)
        ]
        again = {**(await _message(ada)), "update_id": 3}
        await _post(bot, again, 200)
        await app.events.wait_for("update.repeated", update_id=3)
        assert len(await effects(app)) == 5
    assert said(server) == [f"Noted: {n}" for n in range(5)]
    assert server.updates == []


async def _message(user: Any) -> dict[str, Any]:
    chat = {"id": 7, "type": "private", "first_name": "Ada"}
    return {
        "update_id": 0,
        "message": {"message_id": 99, "date": 0, "chat": chat, "from": user.sender, "text": "x"},
    }


async def _post(bot: Bot, update: dict[str, Any], status: int, *, known: bool = True) -> None:
    site = web.Application()
    site.router.add_post("/hook", webhook(bot, secret_token="s"))
    headers = {"X-Telegram-Bot-Api-Secret-Token": "s" if known else "wrong"}
    async with TestServer(site) as there, ClientSession() as client:
        answer = await client.post(there.make_url("/hook"), json=update, headers=headers)
        assert answer.status == status


async def test_a_webhook_stores_and_then_answers(url: URL, server: BotApiServer, bot: Bot) -> None:
    """A wrong token and a broken body are refused; without a running bot Telegram repeats."""
    dispatcher = Dispatcher()
    dispatcher.message.register(write)
    message = {**(await _message(server.user(7, "Ada"))), "update_id": 5}
    await _post(bot, message, 503)
    async with running(url, dispatcher, bot) as app:
        await _post(bot, message, 401, known=False)
        await _post(bot, {"update_id": "?"}, 400)
        await _post(bot, message, 200)
        await handled(app, 1)
        assert await effects(app) == ["x"]


async def test_a_returned_method_is_kept_with_the_update(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """Whether a unit has said before that the update is done, or not; others are just done."""
    dispatcher = Dispatcher()

    @dispatcher.message(Command("ping"))
    async def ping(message: Message) -> TelegramMethod[Any]:
        return message.answer("pong")

    @dispatcher.message(Command("both"))
    async def both(message: Message, uow_factory: UnitOfWorkFactory) -> TelegramMethod[Any]:
        await write(message, uow_factory)
        return message.answer("both")

    async with running(url, dispatcher, bot) as app:
        ada = server.user(7, "Ada")
        for words in ("/ping", "/both", "nobody handles this"):
            await ada.say(words)
        await handled(app, 3)
        assert await app.rows("method, state") == [("sendMessage", 1)] * 3
    assert said(server) == ["pong", "Noted: /both", "both"]


async def test_chats_are_handled_in_order_and_beside_each_other(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """A slow update holds up its chat and no other."""
    dispatcher, go_on = Dispatcher(), asyncio.Event()
    order: list[tuple[int, str | None]] = []

    @dispatcher.message()
    async def handle(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        if message.text == "slow":
            await go_on.wait()
        order.append((message.chat.id, message.text))
        await write(message, uow_factory)

    async with running(url, dispatcher, bot) as app:
        ada, bob = server.user(7, "Ada"), server.user(8, "Bob")
        await ada.say("slow")
        for n in range(3):
            await ada.say(f"{n}")
            await bob.say(f"{n}")

        async def bob_is_done() -> bool:
            return len(order) == 3

        await app.until(bob_is_done)
        go_on.set()
        await handled(app, 7)
    assert [words for chat, words in order if chat == 7] == ["slow", "0", "1", "2"]
    assert order[:3] == [(8, "0"), (8, "1"), (8, "2")]


async def test_what_fails_always_is_parked(url: URL, server: BotApiServer, bot: Bot) -> None:
    """After `attempts`; error handlers see the last one only, and the chat goes on."""
    dispatcher = Dispatcher()
    tried: list[str] = []
    seen: list[BaseException] = []

    @dispatcher.errors()
    async def sorry(event: ErrorEvent) -> TelegramMethod[Any]:
        seen.append(event.exception)
        return SendMessage(chat_id=7, text="sorry")

    @dispatcher.message()
    async def handle(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        tried.append(message.text or "")
        async with uow_factory() as uow:
            uow.send(message.answer("never"))
            if message.text == "poison":
                raise ZeroDivisionError
            await uow.session.execute(WRITE, {"chat": 7, "said": message.text})

    async with running(url, dispatcher, bot, attempts=3) as app:
        ada = server.user(7, "Ada")
        await ada.say("poison")
        await ada.say("fine")
        await handled(app, 2)
        assert tried == ["poison"] * 3 + ["fine"]
        assert [type(error) for error in seen] == [ZeroDivisionError]
        [(parked, error, payload), (other, _, _)] = await updates(app, "parked_at, error, payload")
        assert parked
        assert "ZeroDivisionError" in error
        assert "poison" in payload
        assert other is None
        assert len(app.of("update.parked")) == 1
        assert len(app.of("update.retried")) == 2
    assert said(server) == ["sorry", "never"]


async def test_what_passes_is_tried_until_it_does(url: URL, server: BotApiServer, bot: Bot) -> None:
    """An error of the database or of Telegram counts no attempt."""
    dispatcher = Dispatcher()
    tried: list[str] = []

    @dispatcher.message()
    async def handle(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        tried.append(message.text or "")
        if len(tried) < 4:
            raise DatabaseUnavailableError("for a moment")
        await write(message, uow_factory)

    async with running(url, dispatcher, bot, attempts=1) as app:
        await server.user(7, "Ada").say("a")
        await handled(app, 1)
        assert await effects(app) == ["a"]
    assert len(tried) == 4
    assert said(server) == ["Noted: a"]


async def test_a_second_unit_that_writes_is_refused(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """The first one was the update's; what has nothing to do with it is detached, as FSM is."""
    dispatcher = Dispatcher()
    seen: list[BaseException] = []

    @dispatcher.errors()
    async def note(event: ErrorEvent) -> None:
        seen.append(event.exception)

    @dispatcher.message()
    async def handle(message: Message, state: FSMContext, uow_factory: UnitOfWorkFactory) -> None:
        async with uow_factory(detached=True) as uow:
            await uow.session.execute(WRITE, {"chat": 7, "said": "detached"})
        await state.set_state("one")
        async with uow_factory(read_only=True) as uow:
            await uow.session.execute(text("SELECT 1"))
        async with uow_factory():
            pass
        await write(message, uow_factory)
        await state.set_state("two")
        await write(message, uow_factory)

    async with running(url, dispatcher, bot) as app:
        await server.user(7, "Ada").say("a")
        await handled(app, 1)
        assert await effects(app) == ["detached", "a"]
        assert await app.sql("SELECT state FROM delivery__fsm") == [("two",)]
    assert [type(error) for error in seen] == [UpdateCompletedError]
    assert said(server) == ["Noted: a"]


async def test_a_unit_that_is_rolled_back_ends_no_update(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """SkipHandler lets the next handler do it, and only that one's unit counts."""
    dispatcher = Dispatcher()

    @dispatcher.message()
    async def skip(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        async with uow_factory() as uow:
            uow.send(message.answer("no"))
            raise SkipHandler

    dispatcher.message.register(write)
    async with running(url, dispatcher, bot) as app:
        await server.user(7, "Ada").say("a")
        await handled(app, 1)
        assert await effects(app) == ["a"]
    assert said(server) == ["Noted: a"]


@pytest.mark.parametrize("deaths", [0, 2, 4])
async def test_what_a_dead_process_had_is_handled_by_another(
    url: URL, server: BotApiServer, bot: Bot, deaths: int
) -> None:
    """Deaths are counted; after too many the update is parked, and nobody else."""
    dispatcher = Dispatcher()
    dispatcher.message.register(write)
    async with running(url, dispatcher, bot) as app:
        await server.user(7, "Ada").say("first")
        await handled(app, 1)
        row = (
            "UPDATE delivery__inbox SET done_at = NULL, owner = 999, deaths = :deaths, "
            "payload = :payload WHERE update_id > 0"
        )
        message = await _message(server.user(7, "Ada"))
        payload = Update.model_validate({**message, "update_id": 1}).model_dump_json(
            exclude_unset=True, by_alias=True
        )
        await app.sql(row, deaths=deaths, payload=payload)
    dispatcher = Dispatcher()
    dispatcher.message.register(write)
    async with running(url, dispatcher, bot, lease=0.5) as app:
        await server.user(8, "Bob").say("beside")
        await handled(app, 2)
        assert sorted(await effects(app)) == sorted(
            ["first", "beside"] + ([] if deaths == 4 else ["x"])
        )
        [(parked, counted), (other, innocent)] = await updates(app, "parked_at, deaths")
        assert (parked is not None, counted) == {0: (False, 1), 2: (False, 3), 4: (True, 4)}[deaths]
        assert (other, innocent) == (None, 0)


async def test_an_update_has_its_last_chance_in_a_process_that_lives(
    sqlite_database: URL, server: BotApiServer, bot: Bot
) -> None:
    """While something else may kill its process every second, no innocent one is parked."""

    def make() -> Dispatcher:
        dispatcher = Dispatcher()
        dispatcher.message.register(write)
        return dispatcher

    async def is_left() -> bool:
        return await updates(app, "done_at IS NOT NULL, deaths") == [(0, 3), (1, 0)]

    async with running(sqlite_database, make(), bot) as app:
        message = await _message(server.user(7, "Ada"))
        update = Update.model_validate({**message, "update_id": 999})
        row = (
            "INSERT INTO delivery__inbox "
            "(bot_id, update_id, lane, payload, received_at, attempts, deaths, owner) "
            "VALUES (42, 999, '42:7', :payload, 0, 0, 3, 999)"
        )
        await app.sql(row, payload=update.model_dump_json(exclude_unset=True, by_alias=True))
    async with running(sqlite_database, make(), bot, lease=600) as app:
        await server.user(8, "Bob").say("beside")
        await app.until(is_left)
        assert await effects(app) == ["beside"]
    async with running(sqlite_database, make(), bot, lease=0.5) as app:
        await handled(app, 2)
        assert await effects(app) == ["beside", "x"]


async def test_an_update_that_cannot_be_stored_comes_again(
    url: URL, server: BotApiServer, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Telegram is not told that it arrived, and repeats it; a lost answer is found in the table."""
    method = Updates.store
    lost: set[tuple[str, bool]] = set()

    async def lose(self: Updates, rows: Any, me: int) -> Any:
        kind = rows[0]["update_id"] > 0  # the row of who polls has none
        if ("request", kind) not in lost:
            lost.add(("request", kind))
            raise ConnectionResetError
        answer = await method(self, rows, me)
        if ("answer", kind) not in lost:
            lost.add(("answer", kind))
            raise ConnectionResetError
        return answer

    monkeypatch.setattr(Updates, "store", lose)
    dispatcher = Dispatcher()
    dispatcher.message.register(write)
    async with running(url, dispatcher, bot) as app:
        ada = server.user(7, "Ada")
        await ada.say("a")
        await ada.say("b")
        await handled(app, 2)
        assert await effects(app) == ["a", "b"]
    assert said(server) == ["Noted: a", "Noted: b"]


async def test_what_is_not_handled_at_a_stop_is_handled_after_the_next_start(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """A handler that is cancelled has done nothing; its update is given back."""
    hanging, dispatcher = asyncio.Event(), Dispatcher()

    @dispatcher.message()
    async def hang(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        async with uow_factory() as uow:
            await uow.session.execute(WRITE, {"chat": 7, "said": message.text})
            hanging.set()
            await asyncio.Event().wait()

    async with running(url, dispatcher, bot, app={"drain": 0.1}) as app:
        ada = server.user(7, "Ada")
        await ada.say("a")
        await ada.say("b")
        await hanging.wait()
    dispatcher = Dispatcher()
    dispatcher.message.register(write)
    async with running(url, dispatcher, bot, lease=600) as app:
        await handled(app, 2)
        assert await effects(app) == ["a", "b"]
        assert await updates(app, "deaths") == [(0,), (0,)]
    assert said(server) == ["Noted: a", "Noted: b"]


def test_it_needs_the_outbox(url: URL) -> None:
    """What a handler returns is sent by that."""
    with pytest.raises(ConfigError, match="inbox = true needs outbox = true"):
        application(url, inbox=True, outbox=False)


async def test_one_of_several_processes_polls(postgres_database: URL, server: BotApiServer) -> None:
    """Telegram never hears two at once, and when one stops the next one goes on."""
    handled_by: list[int] = []

    def make(number: int) -> Dispatcher:
        dispatcher = Dispatcher()

        @dispatcher.message()
        async def handle(message: Message, uow_factory: UnitOfWorkFactory) -> None:
            handled_by.append(number)
            await write(message, uow_factory)

        return dispatcher

    ada = server.user(7, "Ada")
    async with (
        client(server) as one,
        client(server) as two,
        running(postgres_database, make(2), two) as second,
    ):
        await ada.say("a")
        await handled(second, 1)
        async with running(postgres_database, make(1), one) as first:
            await ada.say("b")
            await handled(first, 2)
        await ada.say("c")
        await handled(second, 3)
        assert await effects(second) == ["a", "b", "c"]
    answers = [call.answer or {} for call in server.calls if call.method == "getUpdates"]
    assert not [answer for answer in answers if answer.get("error_code") == 409]
    assert said(server) == ["Noted: a", "Noted: b", "Noted: c"]


async def test_another_process_polls_when_the_first_has_stopped(
    postgres_database: URL, server: BotApiServer
) -> None:
    """It is given back with the rest, so nobody waits for a lease."""
    ada = server.user(7, "Ada")
    first, second = Dispatcher(), Dispatcher()
    for dispatcher in (first, second):
        dispatcher.message.register(write, StateFilter(None))
    async with client(server) as one, client(server) as two, AsyncExitStack() as stack:
        await stack.enter_async_context(running(postgres_database, first, one, lease=600))
        await ada.say("a")
        async with polling(postgres_database, second, two, lease=600) as app:
            await handled(app, 1)
            await stack.aclose()
            await ada.say("b")
            await handled(app, 2)
            assert await effects(app) == ["a", "b"]


async def test_who_was_thought_dead_writes_nothing(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """A unit whose update was taken meanwhile is rolled back, and others do it once."""
    dispatcher, begun, go_on = Dispatcher(), asyncio.Event(), asyncio.Event()
    tried: list[str] = []

    @dispatcher.message()
    async def handle(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        tried.append(message.text or "")
        begun.set()
        await go_on.wait()
        await write(message, uow_factory)

    async with running(url, dispatcher, bot) as app:
        await server.user(7, "Ada").say("a")
        await begun.wait()
        taken = "UPDATE delivery__inbox SET owner = 999 WHERE update_id > 0"
        await app.sql(taken)
        go_on.set()
        await app.events.wait_for("update.taken", update_id=1, attempts=1)
        assert await effects(app) == []
        await app.sql(taken.replace("999", "NULL"))
        await handled(app, 1)
        assert await effects(app) == ["a"]
    assert len(tried) == 2
    assert said(server) == ["Noted: a"]


async def test_what_comes_back_while_it_is_given_up_is_not_forgotten(
    postgres_database: URL, server: BotApiServer, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look may claim an update again before its handling has seen that it was taken."""
    dispatcher, is_mine = Dispatcher(), Updates.is_mine
    tried: list[str] = []

    @dispatcher.message()
    async def handle(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        if not tried:
            async with uow_factory(detached=True) as uow:
                await uow.connection.execute(
                    text("UPDATE delivery__inbox SET owner = 999 WHERE update_id > 0")
                )
        tried.append(message.text or "")
        await write(message, uow_factory)

    async def is_back() -> bool:
        return await updates(app, "owner IS NOT NULL") == [(True,)]

    async def come_back(self: Updates, row: Any) -> bool:
        found = await is_mine(self, row)
        await app.sql("UPDATE delivery__inbox SET owner = NULL WHERE update_id > 0")
        await app.until(is_back)
        return found

    monkeypatch.setattr(Updates, "is_mine", come_back)
    async with running(postgres_database, dispatcher, bot) as app:
        await server.user(7, "Ada").say("a")
        await handled(app, 1)
        assert await effects(app) == ["a"]


async def test_what_outlives_a_handler_is_on_its_own(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """A task that it leaves behind writes later, and so does a middleware around the sending."""
    dispatcher, go_on = Dispatcher(), asyncio.Event()
    left: list[asyncio.Task[None]] = []

    @dispatcher.message()
    async def handle(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        async def later() -> None:
            await go_on.wait()
            async with uow_factory() as uow:
                await uow.session.execute(WRITE, {"chat": 7, "said": "later"})

        left.append(asyncio.create_task(later()))
        await write(message, uow_factory)

    async with running(url, dispatcher, bot) as app:

        async def note(make_request: Any, bot: Bot, method: Any) -> Any:
            if isinstance(method, SendMessage):
                async with app.units() as uow:
                    await uow.session.execute(WRITE, {"chat": 7, "said": "sending"})
            return await make_request(bot, method)

        bot.session.middleware(note)
        await server.user(7, "Ada").say("a")
        await handled(app, 1)
        go_on.set()
        await asyncio.gather(*left)
        assert await effects(app) == ["a", "sending", "later"]
    assert said(server) == ["Noted: a"]
