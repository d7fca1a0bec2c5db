"""What events say of updates and of what waits, and what they cost while nobody listens."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from aiogram import Bot, Dispatcher
from aiogram.methods import SendMessage, TelegramMethod
from aiogram.types import Message
from sqlalchemy.engine import URL
from support.kept import Kept, application, polling

from db_manager import events as facts
from db_manager.database.open_unit import UnitState
from db_manager.delivery.inbox.handling import Handling
from db_manager.dialects.known import dialect_at
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork
from lifecycle.bot import attach
from lifecycle.testing import BotApiServer

#: A row of each table that has waited for so many seconds; no bot of the test takes it.
WAITS = {
    "delivery__outbox": """
    INSERT INTO delivery__outbox
        (bot_id, lane, method, once, begun, due_at, attempts, state, created_at)
    VALUES (9, '9:1', 'sendMessage', FALSE, FALSE, {now}, 0, 0, {now})
    """,
    "delivery__inbox": """
    INSERT INTO delivery__inbox (bot_id, update_id, lane, payload, received_at, attempts, deaths)
    VALUES (9, 1, '9:1', '', {now}, 0, 0)
    """,
}


@pytest.fixture(params=["sqlite", "asyncpg"])
def url(request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own: events have nothing to do with drivers."""
    kind = "sqlite" if request.param == "sqlite" else "postgres"
    found: URL = request.getfixturevalue(f"{kind}_database")
    return found


async def count(app: Kept, topic: str, number: int) -> list[Any]:
    """Wait for so many events of a topic, and return them."""

    async def are_there() -> bool:
        return len(app.of(topic)) >= number

    await app.until(are_there)
    return app.of(topic)


async def test_each_update_is_told_from_its_store_to_its_end(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """However its handler ends it: a unit, a returned method, nothing, an error after a unit."""
    dispatcher = Dispatcher()

    @dispatcher.message()
    async def handle(message: Message, uow_factory: UnitOfWorkFactory) -> Any:
        words = message.text or ""
        if words in {"unit", "late"}:
            async with uow_factory() as uow:
                uow.send(message.answer(words))
        if words == "late":
            raise ValueError
        return message.answer(words) if words == "returned" else None

    async with polling(url, dispatcher, bot) as app:
        for words in ("unit", "returned", "nothing", "late"):
            await server.user(7, "Ada").say(words)
        done = await count(app, "update.done", 7)  # three have said /start before
        told = [(event.bot_id, event.update_id, event.attempts) for event in done]
        assert sorted(told) == [(42, number, 1) for number in range(1, 8)]
        assert all(0 < event.wait < 20 for event in done)
        stored = app.of("update.stored")
        assert {event.bot_id for event in stored} == {42}
        assert sum(event.count for event in stored) == 7
        assert not app.of("update.taken")


async def test_a_commit_without_an_answer_is_told_as_what_it_was(
    url: URL, server: BotApiServer, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The update is done, when the table says so; it is not tried again."""
    dispatcher, tried = Dispatcher(), []

    @dispatcher.message()
    async def handle(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        if message.text == "a":
            tried.append(message.text)
            async with uow_factory() as uow:
                uow.send(message.answer("x"))
            raise ConnectionError

    def ended(self: Handling, unit: UnitOfWork) -> None:  # as if COMMIT had no answer
        if unit.number == self._unit:
            self._unit = 0
            self.may_be_done = unit.state is UnitState.COMMITTED

    monkeypatch.setattr(Handling, "ended", ended)
    async with polling(url, dispatcher, bot) as app:
        await server.user(7, "Ada").say("a")
        await app.events.wait_for("update.done", update_id=4, attempts=1)
        assert not app.of("update.taken")
    assert tried == ["a"]


async def test_what_has_waited_for_long_is_told_once_and_its_end_too(url: URL, bot: Bot) -> None:
    """Whether it is a message or an update; what is scheduled is in time."""
    now, is_file = dialect_at(url).moment_now, "sqlite" in url.drivername
    late = f"{now} - 11" if is_file else f"{now} - interval '11 seconds'"
    tomorrow = f"{now} + 86400" if is_file else f"{now} + interval '1 day'"
    async with polling(url, Dispatcher(), bot) as app:
        await count(app, "update.done", 3)  # what was said before
        await seen(app, "inbox", 0)
        for number, table in enumerate(WAITS):
            await app.sql(WAITS[table].format(now=late))
            told = (await count(app, "delivery.behind", number + 1))[-1]
            assert (told.messages, told.updates) == ((1, 0), (0, 1))[number]
            assert 11 <= told.oldest < 60
            await app.sql(f"DELETE FROM {table} WHERE bot_id = 9")
            caught_up = (await count(app, "delivery.caught_up", number + 1))[-1]
            assert 0 < caught_up.duration < 60
        await app.sql(WAITS["delivery__outbox"].format(now=tomorrow))
        for table, sql in WAITS.items():
            await app.sql(sql.format(now=now))
            await seen(app, table.removeprefix("delivery__"), 1)
        assert len(app.of("delivery.behind")) == 2


async def seen(app: Kept, part: str, number: int) -> None:
    """Wait until the probe of a part says that so many rows are open."""
    probe = app.app.probes[f"delivery:{part}"]

    async def is_seen() -> bool:
        levels = probe()
        assert isinstance(levels, Mapping)
        return levels["open"] == number

    await app.until(is_seen)


async def test_a_server_that_may_lose_commits_is_told(postgres_database: URL, bot: Bot) -> None:
    """By its settings, at the start; that of the tests runs without fsync."""
    url = postgres_database
    async with polling(url, Dispatcher(), bot) as app:
        await app.sql(f'ALTER DATABASE "{url.database}" SET synchronous_commit = off')
    async with polling(url, Dispatcher(), bot) as app:
        settings = ("fsync = off", "synchronous_commit = off")
        await app.events.wait_for("delivery.unsafe", settings=settings)


async def test_a_file_has_no_such_settings(sqlite_database: URL, bot: Bot) -> None:
    """Nothing is said of it."""
    async with polling(sqlite_database, Dispatcher(), bot) as app:
        await count(app, "update.done", 3)
        assert not app.of("delivery.unsafe")


async def test_an_event_is_made_only_when_somebody_listens(
    url: URL, server: BotApiServer, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that come with every update and message."""
    made: list[str] = []
    for name in ("UpdateStored", "UpdateDone", "MessageSent", "DeliveryUnsafe"):
        kind = getattr(facts, name)

        def make(_name: str = name, _kind: Any = kind, **fields: Any) -> Any:
            made.append(_name)
            return _kind(**fields)

        monkeypatch.setattr(facts, name, make)
        monkeypatch.setattr(make, "topic", kind.topic, raising=False)
    dispatcher, answered = Dispatcher(), asyncio.Event()

    @dispatcher.message()
    async def handle(message: Message) -> TelegramMethod[Any]:
        return SendMessage(chat_id=7, text=message.text or "")

    app = application(url, inbox=True)
    attach(app, dispatcher)

    async def note(make_request: Any, bot: Bot, method: Any) -> Any:
        answer = await make_request(bot, method)
        if isinstance(method, SendMessage) and method.text == "last":
            answered.set()
        return answer

    bot.session.middleware(note)
    run = asyncio.create_task(
        dispatcher.start_polling(bot, handle_signals=False, close_bot_session=False)
    )
    await server.user(7, "Ada").say("last")
    await answered.wait()
    await dispatcher.stop_polling()
    await run
    assert made == []
