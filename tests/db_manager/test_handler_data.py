"""Whoever handles an update finds the factory in its data, whatever was registered first."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiogram import BaseMiddleware, Bot, Dispatcher, Router
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.filters import Command
from aiogram.fsm.state import State, StatesGroup
from aiogram.types import CallbackQuery, ErrorEvent, Message, Update
from aiogram.webhook.aiohttp_server import SimpleRequestHandler, setup_application
from aiogram_dialog import Dialog, DialogManager, StartMode, Window, setup_dialogs
from aiogram_dialog.widgets.kbd import Button
from aiogram_dialog.widgets.text import Const, Format
from aiohttp import web
from aiohttp.test_utils import TestServer
from sqlalchemy import text
from sqlalchemy.engine import URL

from db_manager.plugin import DatabasePlugin
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.application import Application
from lifecycle.bot import attach, include_data, run_polling
from lifecycle.errors import LifecycleError, PluginFailedError
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.plugin import Plugin
from lifecycle.testing import BotApiServer, LocalTelegram

#: Everybody whom one failing update passes, once for each time of registration.
PLACES = (
    *("update outer", "update inner", "message outer", "message inner"),
    *("router outer", "router inner", "filter", "handler"),
    *("error outer", "error inner", "router error outer", "router error inner"),
    *("error filter", "error handler"),
)


def make_app(database: URL, *plugins: Plugin) -> Application:
    """Return an application with a database."""
    url = database.render_as_string(hide_password=False)
    return Application(
        [DatabasePlugin(), *plugins],
        config={"app": {"journal": "memory"}, "database": {"url": url}},
    )


def make_bot(server: BotApiServer) -> Bot:
    """Return a real client of *server*."""
    return Bot(server.token, AiohttpSession(api=TelegramAPIServer.from_base(server.url)))


async def answer_42(uow_factory: UnitOfWorkFactory) -> int:
    """Use the factory."""
    async with uow_factory() as uow:
        return int(await uow.session.scalar(text("SELECT 42")) or 0)


class Watcher(BaseMiddleware):
    """Writes down what it finds."""

    def __init__(self, place: str, seen: dict[str, Any]) -> None:
        self.place = place
        self.seen = seen

    async def __call__(self, handler: Any, event: Any, data: dict[str, Any]) -> Any:
        """Look, and go on."""
        self.seen[self.place] = data.get("uow_factory")
        return await handler(event, data)


class Crowd:
    """A bot whose update passes everybody; `seen` has what each of them found."""

    def __init__(self, database: URL) -> None:
        self.seen: dict[str, Any] = {}
        self.dispatcher = Dispatcher()
        self.app = make_app(database)

    def gather(self, when: str) -> None:
        """Register somebody everywhere, with a nested router of their own."""
        dispatcher, outer, inner = self.dispatcher, Router(), Router()
        outer.include_router(inner)
        dispatcher.include_router(outer)
        for place, observer in (
            ("update", dispatcher.update),
            ("message", dispatcher.message),
            ("router", inner.message),
            ("error", dispatcher.errors),
            ("router error", inner.errors),
        ):
            observer.outer_middleware(Watcher(f"{when} {place} outer", self.seen))
            observer.middleware(Watcher(f"{when} {place} inner", self.seen))

        async def allows(_: Message, uow_factory: UnitOfWorkFactory) -> bool:
            self.seen[f"{when} filter"] = uow_factory
            return True

        async def handle(_: Message, uow_factory: UnitOfWorkFactory) -> None:
            self.seen[f"{when} handler"] = uow_factory
            raise ZeroDivisionError

        async def allows_error(event: ErrorEvent, uow_factory: UnitOfWorkFactory) -> bool:
            self.seen[f"{when} error filter"] = uow_factory
            return event.update.message is not None and event.update.message.text == f"/{when}"

        async def report(event: ErrorEvent, uow_factory: UnitOfWorkFactory) -> None:
            self.seen[f"{when} error handler"] = uow_factory
            message = event.update.message
            assert message is not None
            await message.answer(f"{when}: {await answer_42(uow_factory)}")

        inner.message.register(handle, Command(when), allows)
        inner.errors.register(report, allows_error)

    async def all_find_it(self, server: BotApiServer) -> None:
        """Let an update pass those who were there before, and one those who came after."""
        ada = server.user(id=7, name="Ada")
        for when in ("before", "after"):
            await ada.say(f"/{when}")
            assert (await ada.reply()).text == f"{when}: 42"
        factory = self.app.services["db_manager:uow_factory"]
        assert {place for place, found in self.seen.items() if found is not factory} == set()
        assert set(self.seen) == {
            f"{when} {place}" for when in ("before", "after") for place in PLACES
        }


class Fed(LocalTelegram):
    """Hands its updates to one of the dispatcher's methods."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method

    async def _feed(self, dispatcher: Dispatcher, update: dict[str, Any]) -> None:
        feed = getattr(dispatcher, self.method)
        parsed = Update.model_validate(update, context={"bot": self.bot})
        await feed(self.bot, parsed if self.method == "feed_update" else update)


@asynccontextmanager
async def fed(crowd: Crowd, method: str) -> AsyncIterator[BotApiServer]:
    """Run the bot of *crowd* as behind somebody's own web server."""
    async with Fed(method) as telegram:
        await telegram.run(crowd.app, crowd.dispatcher)
        yield telegram


@asynccontextmanager
async def served(crowd: Crowd, *, background: bool) -> AsyncIterator[BotApiServer]:
    """Run the bot of *crowd* behind aiogram's webhook handler."""
    async with BotApiServer() as server:
        attach(crowd.app, crowd.dispatcher)
        bot, site = make_bot(server), web.Application()
        setup_application(site, crowd.dispatcher, bot=bot)
        handler = SimpleRequestHandler(crowd.dispatcher, bot, handle_in_background=background)
        handler.register(site, path="/hook")
        async with TestServer(site) as hook:
            await bot.set_webhook(str(hook.make_url("/hook")))
            yield server


@asynccontextmanager
async def polling(
    app: Application, dispatcher: Dispatcher, *servers: BotApiServer, ours: bool = True
) -> AsyncIterator[None]:
    """Poll for the time of a block, with a bot for each server."""
    started = asyncio.Event()
    bots = [make_bot(server) for server in servers]
    with app.bus.subscribe("app.started", lambda _: started.set()):
        if ours:
            running = asyncio.create_task(run_polling(app, dispatcher, *bots))
        else:
            attach(app, dispatcher)
            running = asyncio.create_task(dispatcher.start_polling(*bots, handle_signals=False))
        await asyncio.wait(
            [running, asyncio.ensure_future(started.wait())], return_when=asyncio.FIRST_COMPLETED
        )
    try:
        yield
        await dispatcher.stop_polling()
    finally:
        await running


@asynccontextmanager
async def polled(crowd: Crowd, *, ours: bool) -> AsyncIterator[BotApiServer]:
    """Run the bot of *crowd* with `run_polling`, or with aiogram's own method."""
    async with BotApiServer() as server, polling(crowd.app, crowd.dispatcher, server, ours=ours):
        yield server


WAYS: dict[str, Callable[[Crowd], Any]] = {
    "run_polling": lambda crowd: polled(crowd, ours=True),
    "start_polling": lambda crowd: polled(crowd, ours=False),
    "webhook": lambda crowd: served(crowd, background=False),
    "webhook in the background": lambda crowd: served(crowd, background=True),
    "feed_update": lambda crowd: fed(crowd, "feed_update"),
    "feed_raw_update": lambda crowd: fed(crowd, "feed_raw_update"),
    "feed_webhook_update": lambda crowd: fed(crowd, "feed_webhook_update"),
}


@pytest.mark.parametrize("way", WAYS)
async def test_everybody_finds_it(sqlite_database: URL, way: str) -> None:
    """Each middleware, filter and handler has the factory, registered before or after the load."""
    crowd = Crowd(sqlite_database)
    crowd.gather("before")
    async with WAYS[way](crowd) as server:
        crowd.gather("after")
        await crowd.all_find_it(server)


@pytest.mark.parametrize("way", WAYS)
async def test_hooks_get_it(sqlite_database: URL, way: str) -> None:
    """Hooks of startup and shutdown can work in units, in any router."""
    answers: list[str] = []
    crowd = Crowd(sqlite_database)
    crowd.gather("before")
    router = Router()
    crowd.dispatcher.include_router(router)

    async def begin(uow_factory: UnitOfWorkFactory) -> None:
        answers.append(f"begin {await answer_42(uow_factory)}")

    async def end(uow_factory: UnitOfWorkFactory) -> None:
        answers.append(f"end {await answer_42(uow_factory)}")

    for each in (crowd.dispatcher, router):
        each.startup.register(begin)
        each.shutdown.register(end)
    async with WAYS[way](crowd):
        pass
    assert answers == ["begin 42"] * 2 + ["end 42"] * 2


async def test_several_bots_on_one_dispatcher(database_url: URL) -> None:
    """Updates of each bot are handled with the factory, and the stop waits for all of them."""
    app, dispatcher = make_app(database_url), Dispatcher()
    go_on = asyncio.Event()

    @dispatcher.message()
    async def slow(message: Message, bot: Bot, uow_factory: UnitOfWorkFactory) -> None:
        await message.answer("working")
        await go_on.wait()
        await message.answer(f"{bot.id}: {await answer_42(uow_factory)}")

    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(BotApiServer(f"{number}:local"))
            for number in (101, 102, 103)
        ]
        people = [server.user(id=7, name="Ada") for server in servers]
        async with polling(app, dispatcher, *servers):
            assert [bot.id for bot in app.services["aiogram:bots"]] == [101, 102, 103]
            assert app.services["aiogram:bot"].id == 103
            for ada in people:
                await ada.say("hello")
                assert (await ada.reply()).text == "working"
            asyncio.get_running_loop().call_soon(go_on.set)
        answers = [(await ada.reply()).text for ada in people]
    assert answers == ["101: 42", "102: 42", "103: 42"]


class Counting(StatesGroup):
    """The states of the dialog."""

    asks = State()


async def test_dialogs_get_it(database_url: URL) -> None:
    """Getters and handlers of aiogram-dialog have it, also when an update is their own."""
    app, dispatcher = make_app(database_url), Dispatcher()
    found: list[str] = []

    async def getter(uow_factory: UnitOfWorkFactory, **_: Any) -> dict[str, Any]:
        return {"answer": await answer_42(uow_factory)}

    async def press(_: CallbackQuery, __: Any, manager: DialogManager) -> None:
        found.append(f"button {await answer_42(manager.middleware_data['uow_factory'])}")
        # An update that the dialog makes itself: aiogram does not feed it.
        await manager.bg().update({})

    window = Window(
        Format("It is {answer}."),
        Button(Const("Go"), id="go", on_click=press),
        getter=getter,
        state=Counting.asks,
    )

    async def start(_: Message, dialog_manager: DialogManager) -> None:
        await dialog_manager.start(Counting.asks, mode=StartMode.RESET_STACK)

    dispatcher.message.register(start, Command("start"))
    dispatcher.include_router(Dialog(window))
    setup_dialogs(dispatcher)
    places: dict[str, Any] = {}
    dispatcher.update.outer_middleware(Watcher("outer", places))
    dispatcher.update.middleware(Watcher("inner", places))
    async with BotApiServer() as server, polling(app, dispatcher, server):
        ada = server.user(id=7, name="Ada")
        await ada.say("/start")
        message = await ada.reply()
        assert message.text == "It is 42."
        places.clear()
        [data] = message.buttons.values()
        await ada.press(message, data)
        await server.call("answerCallbackQuery")
        factory = app.services["db_manager:uow_factory"]
    assert found == ["button 42"]
    assert places == {"outer": factory, "inner": factory}


async def test_a_reloaded_plugin_gives_the_new_one(sqlite_database: URL) -> None:
    """While the bot polls, a plugin that was unloaded and loaded leaves no old factory behind."""
    app, dispatcher = make_app(sqlite_database), Dispatcher()
    seen: dict[str, Any] = {}
    dispatcher.update.outer_middleware(Watcher("outer", seen))

    @dispatcher.message()
    async def answer(message: Message, uow_factory: UnitOfWorkFactory | None = None) -> None:
        await message.answer("none" if uow_factory is None else f"{await answer_42(uow_factory)}")

    async def stop(uow_factory: UnitOfWorkFactory) -> None:
        seen["hook"] = uow_factory

    dispatcher.shutdown.register(stop)
    async with BotApiServer() as server, polling(app, dispatcher, server):
        ada = server.user(id=7, name="Ada")
        await ada.say("one")
        assert (await ada.reply()).text == "42"
        first = seen["outer"]
        await app.unload("db_manager")
        await app.start()
        await ada.say("two")
        assert (await ada.reply()).text == "42"
        second = app.services["db_manager:uow_factory"]
        assert seen["outer"] is second is not first
    assert seen["hook"] is second


async def test_a_key_of_the_owner_is_not_taken(sqlite_database: URL) -> None:
    """A dispatcher that has the key already is refused by name, and keeps what it has."""
    app, dispatcher = make_app(sqlite_database), Dispatcher(uow_factory="mine")
    attach(app, dispatcher)
    with pytest.raises(PluginFailedError, match="has 'uow_factory' in its data already") as caught:
        await app.load()
    assert isinstance(caught.value.error, LifecycleError)
    assert dispatcher.workflow_data == {"uow_factory": "mine"}
    del dispatcher["uow_factory"]
    async with app:
        assert set(dispatcher.workflow_data) == {"uow_factory"}
        dispatcher["uow_factory"] = "mine, later"
    assert dispatcher.workflow_data == {"uow_factory": "mine, later"}
    assert len(dispatcher.update.middleware) == 0


async def test_it_is_gone_after_the_unload(sqlite_database: URL) -> None:
    """The dispatcher keeps nothing of an application that is unloaded."""
    app, dispatcher = make_app(sqlite_database), Dispatcher(mine=1)
    attach(app, dispatcher)
    async with app:
        pass
    assert dispatcher.workflow_data == {"mine": 1}


@pytest.mark.parametrize("command", ["load", "start"])
async def test_a_loaded_application_is_not_attached(sqlite_database: URL, command: str) -> None:
    """Its plugins found no dispatcher: the error says what to do first, and that works."""
    app, dispatcher = make_app(sqlite_database), Dispatcher()
    await getattr(app, command)()
    with pytest.raises(LifecycleError, match=r"no dispatcher: db_manager\. Call attach.* before"):
        attach(app, dispatcher)
    with pytest.raises(LifecycleError, match="run_polling attaches, loads and starts by itself"):
        await run_polling(app, dispatcher, Bot("42:offline"))
    await app.unload()
    attach(app, dispatcher)
    async with app:
        assert "uow_factory" in dispatcher.workflow_data


class Rates(Plugin):
    """A plugin with something for handlers."""

    name = "rates"

    async def load(self, context: PluginContext) -> None:
        """Hand it out."""
        dispatcher = context.services["aiogram:dispatcher"]
        await context.enter(include_data(dispatcher, "rates", {"EUR": 1.1}))


async def test_a_plugin_hands_out_data_of_its_own(sqlite_database: URL) -> None:
    """`include_data` does for any plugin what it does for the database."""
    app, dispatcher = make_app(sqlite_database, Rates()), Dispatcher()
    attach(app, dispatcher)

    async def answer(message: Message, rates: dict[str, float]) -> None:
        await message.answer(f"{rates['EUR']}")

    dispatcher.message.register(answer)
    async with LocalTelegram() as telegram:
        await telegram.run(app, dispatcher)
        ada = telegram.user(7, "Ada")
        await ada.say("EUR")
        assert (await ada.reply()).text == "1.1"


@pytest.mark.parametrize("key", ["bot", "bots", "dispatcher"])
def test_names_of_aiogram_are_refused(key: str) -> None:
    """A plugin cannot replace what aiogram itself gives to handlers."""
    with (
        pytest.raises(LifecycleError, match=f"has '{key}' in its data"),
        include_data(Dispatcher(), key, 1),
    ):
        pass
