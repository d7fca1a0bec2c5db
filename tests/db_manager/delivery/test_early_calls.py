"""`[delivery] direct_calls`: a call that is awaited before its unit is committed is noticed."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiogram import Bot, Dispatcher
from aiogram.exceptions import TelegramUnauthorizedError
from aiogram.filters import Command
from aiogram.methods import SendMessage
from aiogram.types import Message
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.orm import Mapped, mapped_column
from support.kept import Kept, application, client, kept

from db_manager import events as facts
from db_manager.base import Base
from db_manager.delivery.calls.early import told_by
from db_manager.sending import EarlyCallError
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork
from lifecycle.bot import attach, run_polling
from lifecycle.testing import BotApiServer
from observability.testing import EventRecorder


class Spoken(Base):
    """What was said."""

    __tablename__ = "early_test__spoken"

    id: Mapped[int] = mapped_column(primary_key=True)


def told(app: Kept) -> list[tuple[str, str]]:
    """Return method and function of each early call that was told."""
    return [(each.method, each.place.rpartition(" ")[2]) for each in app.of("delivery.early_call")]


async def test_a_call_in_a_unit_that_has_written_is_told(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """The event names method and place, once for each place; the call is made all the same."""

    async def save(uow: UnitOfWork) -> None:
        uow.session.add(Spoken())
        await bot.send_message(7, "Noted.")

    async with kept(url, bot) as app:
        for _ in range(3):
            async with app.units() as uow:
                await save(uow)
        [event] = app.of("delivery.early_call")
        assert isinstance(event, facts.EarlyCall)
        assert (event.bot_id, event.method, event.level) == (bot.id, "sendMessage", "warning")
        assert "delivery/test_early_calls.py:" in event.place
        assert event.place.endswith(".save")
        assert event.correlation.unit is not None
    assert len(server.calls) == 3


async def _add(uow: UnitOfWork, _: Bot) -> None:
    uow.session.add(Spoken())


async def _flush(uow: UnitOfWork, _: Bot) -> None:
    uow.session.add(Spoken())
    await uow.session.flush()


async def _core(uow: UnitOfWork, _: Bot) -> None:
    await uow.connection.execute(text("INSERT INTO early_test__spoken DEFAULT VALUES"))
    await uow.session.execute(text("SELECT 1"))


async def _driver(uow: UnitOfWork, _: Bot) -> None:
    await uow.driver()


async def _sent(uow: UnitOfWork, bot: Bot) -> None:
    uow.send(SendMessage(chat_id=7, text="first").as_(bot))


async def _legacy(uow: UnitOfWork, _: Bot) -> None:
    async with uow.legacy_session() as session:
        session.add(Spoken())
        await session.commit()


async def _kept_part(uow: UnitOfWork, _: Bot) -> None:
    async with uow.savepoint():
        await _core(uow, _)


async def _before_a_part(uow: UnitOfWork, _: Bot) -> None:
    await _core(uow, _)
    with pytest.raises(ZeroDivisionError):
        async with uow.savepoint():
            await _core(uow, _)
            raise ZeroDivisionError


@pytest.mark.parametrize(
    "write", [_add, _flush, _core, _driver, _sent, _legacy, _kept_part, _before_a_part]
)
@pytest.mark.filterwarnings("ignore::db_manager.LegacySessionWarning")
async def test_it_is_refused(
    url: URL, server: BotApiServer, bot: Bot, write: Callable[[UnitOfWork, Bot], Awaitable[None]]
) -> None:
    """However the unit has written, the error names method, place and fix; it is rolled back."""
    async with kept(url, bot, direct_calls="refuse") as app:
        with pytest.raises(EarlyCallError) as refused:
            async with app.units() as uow:
                await write(uow, bot)
                await bot.send_message(7, "no")
        assert uow.state == "rolled_back"
        assert refused.value.method == "sendMessage"
        assert "test_early_calls.py:" in refused.value.place
        assert refused.value.place.endswith("in test_it_is_refused")
        assert "write uow.send(...)" in str(refused.value)
        assert app.of("delivery.early_call") == []
    assert server.calls == []


async def _nothing(_: UnitOfWork, __: Bot) -> None:
    pass


async def _read(uow: UnitOfWork, _: Bot) -> None:
    await uow.session.execute(text("SELECT 1"))
    await uow.session.execute(
        text("WITH a AS (SELECT id FROM early_test__spoken) SELECT id FROM a")
    )


async def _undone_part(uow: UnitOfWork, bot: Bot) -> None:
    with pytest.raises(ZeroDivisionError):
        async with uow.savepoint():
            await _flush(uow, bot)
            raise ZeroDivisionError


async def _undone_message(uow: UnitOfWork, bot: Bot) -> None:
    with pytest.raises(ZeroDivisionError):
        async with uow.savepoint():
            uow.send(SendMessage(chat_id=7, text="dropped").as_(bot))
            raise ZeroDivisionError


async def _failed(uow: UnitOfWork, bot: Bot) -> None:
    await _core(uow, bot)
    with pytest.raises(Exception, match="nowhere"):
        await uow.connection.execute(text("SELECT * FROM nowhere"))


async def _ended(uow: UnitOfWork, bot: Bot) -> None:
    await _core(uow, bot)
    await uow.rollback()


@pytest.mark.parametrize("do", [_nothing, _read, _undone_part, _undone_message, _failed, _ended])
async def test_a_unit_that_has_nothing_to_commit_says_nothing(
    url: URL, server: BotApiServer, bot: Bot, do: Callable[[UnitOfWork, Bot], Awaitable[None]]
) -> None:
    """One that wrote nothing, or has undone what it wrote, or will be rolled back."""
    async with kept(url, bot, direct_calls="refuse") as app:
        try:
            async with app.units() as uow:
                await do(uow, bot)
                await bot.send_message(7, "yes")
        except Exception:  # noqa: BLE001 -- of the statement that failed
            assert do is _failed
    assert [call.params["text"] for call in server.calls] == ["yes"]


@pytest.mark.parametrize("read_only", [True, "snapshot"])
async def test_a_unit_that_reads_says_nothing(
    url: URL, server: BotApiServer, bot: Bot, read_only: Any
) -> None:
    """Not even when its driver was given out: nothing of it is committed."""
    async with (
        kept(url, bot, direct_calls="refuse") as app,
        app.units(read_only=read_only) as uow,
    ):
        await uow.session.execute(text("SELECT 1"))
        await uow.driver()
        await bot.send_message(7, "yes")
    assert len(server.calls) == 1


async def test_outside_of_the_block_everything_goes(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """Before it, after it, in its callbacks after the end, and in tasks that outlive it."""
    async with kept(url, bot, direct_calls="refuse") as app:
        over = asyncio.Event()

        async def later() -> None:
            await over.wait()
            await bot.send_message(7, "later")

        await bot.send_message(7, "before")
        async with app.units() as uow:
            await _core(uow, bot)
            uow.after_commit(lambda: bot.send_message(7, "callback"))
            task = asyncio.create_task(later())
        await bot.send_message(7, "after")
        over.set()
        await task
    said = [call.params["text"] for call in server.calls]
    assert said == ["before", "callback", "after", "later"]


async def test_a_unit_inside_and_a_detached_one_count(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """What an inner unit wrote is the outer one's; a detached one may be rolled back as well."""
    async with kept(url, bot, direct_calls="refuse") as app:
        for nested in ("join", "savepoint"):
            with pytest.raises(EarlyCallError):
                async with app.units():
                    async with app.units(nested=nested) as inner:
                        await _core(inner, bot)
                    await bot.send_message(7, "no")
            with pytest.raises(EarlyCallError):
                async with app.units() as outer:
                    await _core(outer, bot)
                    async with app.units(nested=nested):
                        await bot.send_message(7, "no")
        with pytest.raises(EarlyCallError):
            async with app.units(detached=True) as uow:
                await _core(uow, bot)
                await bot.send_message(7, "no")
    assert server.calls == []


async def test_tasks_of_the_unit_count(url: URL, server: BotApiServer, bot: Bot) -> None:
    """`gather` makes a task of each call: the place is then that of the unit."""
    async with kept(url, bot) as app:
        async with app.units() as uow:
            await _core(uow, bot)
            await asyncio.gather(*(bot.send_message(chat, "a") for chat in (7, 8)))
        assert told(app) == [("sendMessage", "test_tasks_of_the_unit_count")]
    assert len(server.calls) == 2


async def test_calls_that_only_ask_are_let_through(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """Nobody hears of them, so nothing wrong is said."""
    async with kept(url, bot, direct_calls="refuse") as app, app.units() as uow:
        await _core(uow, bot)
        await bot.get_me()
        await bot.send_chat_action(7, "typing")
    assert [call.method for call in server.calls] == ["getMe", "sendChatAction"]


async def test_what_was_committed_is_sent_whatever_is_open(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """The relay's call is none of a unit around it, nor of a middleware that keeps a record."""
    async with kept(url, bot, direct_calls="refuse") as app:

        async def record(make_request: Any, bot: Bot, method: Any) -> Any:
            async with app.units(detached=True) as uow:
                await _core(uow, bot)
                return await make_request(bot, method)

        async def inside() -> None:
            async with app.units() as uow:
                sending = uow.send(SendMessage(chat_id=7, text="kept").as_(bot))
            await sending

        bot.session.middleware._middlewares.insert(0, record)  # as one that was there before
        async with app.units() as outer:
            # On SQLite one unit writes at a time: the outer one has only messages.
            outer.send(SendMessage(chat_id=8, text="outer").as_(bot))
            await asyncio.create_task(inside())
        await app.settled()
    assert sorted(call.params["text"] for call in server.calls) == ["kept", "outer"]


async def test_a_middleware_of_the_client_is_not_the_place(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """The place is where the call is awaited, whatever stands between that and the network."""

    async def log(make_request: Any, bot: Bot, method: Any) -> Any:
        return await make_request(bot, method)

    async def sold() -> None:
        await bot.send_message(7, "Sold.")

    bot.session.middleware(log)
    async with kept(url, bot) as app:
        async with app.units() as uow:
            await _core(uow, bot)
            await sold()
        assert told(app) == [
            ("sendMessage", "test_a_middleware_of_the_client_is_not_the_place.<locals>.sold")
        ]
    assert len(server.calls) == 1


async def test_each_bot_of_the_application_is_looked_at(url: URL, server: BotApiServer) -> None:
    """Bots of one session, and of their own; a bot of somebody else is not."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(client(server))
        second = Bot("43:second", session=first.session)
        third = await stack.enter_async_context(client(server, "44:third"))
        foreign = Bot("45:foreign", session=first.session)
        app = await stack.enter_async_context(
            kept(url, first, second, third, direct_calls="refuse")
        )
        assert [len(bot.session.middleware) for bot in (first, third)] == [1, 1]
        async with app.units() as uow:
            await _core(uow, first)
            for bot in (first, second, third):
                with pytest.raises(EarlyCallError):
                    await bot.send_message(7, "no")
            with pytest.raises(TelegramUnauthorizedError):  # Telegram was asked
                await foreign.send_message(7, "yes")
    assert server.calls == []


async def test_nothing_is_left_after_a_stop(url: URL, bot: Bot) -> None:
    """Neither at the client nor at the engine; a second start begins anew."""
    app = application(url, direct_calls="refuse")
    app.services.provide("aiogram:bots", (bot,))
    await app.load()
    engine = app.services["db_manager:engine"].sync_engine
    before = len(engine.dialect.dispatch.do_execute)
    for _ in range(2):
        await app.start()
        assert len(bot.session.middleware) == 1
        assert len(engine.dialect.dispatch.do_execute) == before + 1
        await app.stop()
        assert len(bot.session.middleware) == 0
        assert len(engine.dialect.dispatch.do_execute) == before
    await app.unload()


@pytest.mark.parametrize("keys", [{"direct_calls": "allow"}, {"outbox": False}])
async def test_nobody_looks_when_it_is_off(
    url: URL, server: BotApiServer, bot: Bot, keys: dict[str, Any]
) -> None:
    """With `allow` and without an outbox, which the advice would be about, nothing is installed."""
    async with kept(url, bot, **keys) as app:
        engine = app.app.services["db_manager:engine"].sync_engine
        assert len(bot.session.middleware) == len(engine.dialect.dispatch.do_execute) == 0
        async with app.units() as uow:
            await _core(uow, bot)
            await bot.send_message(7, "yes")
        assert app.of("delivery.early_call") == []
    assert len(server.calls) == 1


@pytest.mark.parametrize("how", ["run_polling", "attach"])
async def test_a_handler_is_named(url: URL, server: BotApiServer, how: str) -> None:
    """Of a bot that polls, however it is run: the event belongs to its handler and update."""
    dispatcher = Dispatcher()
    app = application(url)

    @dispatcher.message(Command("buy"))
    async def buy(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        async with uow_factory() as uow:
            uow.session.add(Spoken())
            await message.answer("Sold.")

    async with client(server) as bot:
        with EventRecorder(app.bus) as events:
            if how == "attach":
                attach(app, dispatcher)
                run = dispatcher.start_polling(bot, handle_signals=False, close_bot_session=False)
            else:
                run = run_polling(app, dispatcher, bot)
            polls = asyncio.create_task(run)
            ada = server.user(7, "Ada")
            update = await ada.say("/buy")
            await ada.reply()
            await dispatcher.stop_polling()
            await polls
            [event] = events.topic("delivery.early_call").events
    assert str(event.correlation.handler).endswith(".buy")
    assert event.correlation.update_id == update
    assert str(event.as_dict()["place"]).endswith(".buy")


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("INSERT INTO a VALUES (1)", ("writes", "")),
        ("  /* of the bot */ update a set b = 1", ("writes", "")),
        ("-- of the bot\ndelete from a", ("writes", "")),
        ("WITH b AS (DELETE FROM a RETURNING id) SELECT id FROM b", ("writes", "")),
        ("WITH b AS (SELECT 1) UPDATE a SET c = 2", ("writes", "")),
        ("CREATE TABLE a (b int)", ("writes", "")),
        ("SELECT a FROM b FOR UPDATE", ("", "")),
        ("WITH b AS (SELECT id FROM a FOR UPDATE) SELECT id FROM b", ("", "")),
        ("SELECT 'INSERT INTO a'", ("", "")),
        ("UPDATED", ("", "")),
        ("SAVEPOINT a", ("begins", "a")),
        ("ROLLBACK TO SAVEPOINT a;", ("undoes", "a")),
        ("ROLLBACK TO a", ("undoes", "a")),
        ("RELEASE SAVEPOINT a", ("keeps", "a")),
        ("ROLLBACK", ("", "")),
    ],
)
def test_what_writes_is_known_by_its_words(sql: str, kind: tuple[str, str]) -> None:
    """A statement that locks or reads is no reason to say something."""
    found, name = told_by(sql)
    assert (found, name if found != "writes" else "") == kind
