"""The bridge to aiogram: order, drain, correlation and signals, with the real dispatcher."""

import asyncio
import functools
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from aiogram import BaseMiddleware, Bot, Dispatcher, Router
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.dispatcher.middlewares.error import ErrorsMiddleware
from aiogram.exceptions import TelegramUnauthorizedError
from aiogram.filters import Command
from aiogram.handlers import MessageHandler
from aiogram.methods import SendMessage
from aiogram.types import CallbackQuery, ErrorEvent, Message, Update
from aiogram.webhook.aiohttp_server import SimpleRequestHandler, setup_application
from aiohttp import web
from aiohttp.test_utils import TestServer

from lifecycle.application import Application
from lifecycle.bot import attach, include_router, run_polling
from lifecycle.bot.traffic import find_traffic
from lifecycle.correlation import Correlation, current_correlation
from lifecycle.errors import HookTimeoutError, LifecycleError, PluginFailedError
from lifecycle.events import AppDrained
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.machine import State
from lifecycle.plugins.plugin import Plugin
from lifecycle.plugins.replay import replay
from lifecycle.testing import BotApiServer

CONFIG = {"app": {"journal": "memory", "drain": 5.0, "grace": 8.0}}


class QuickSession(AiohttpSession):
    """aiogram's session without its pause of 250 ms for TLS connections."""

    closed = False

    async def close(self) -> None:
        """Close at once."""
        self.closed = True
        if self._session is not None:
            await self._session.close()


class Steps(Plugin):
    """Writes down its hooks, and includes a router."""

    def __init__(self, name: str, steps: list[str], router: Router | None = None) -> None:
        self.name = name
        self.steps = steps
        self.router = router

    async def load(self, context: PluginContext) -> None:
        """Include the router."""
        self.steps.append(f"{self.name} load")
        if self.router is not None:
            dispatcher = context.services["aiogram:dispatcher"]
            await context.enter(include_router(dispatcher, self.router))

    async def start(self, context: PluginContext) -> None:
        """Find the bot."""
        assert context.services["aiogram:bot"]
        self.steps.append(f"{self.name} start")

    async def stop(self, context: PluginContext) -> None:  # noqa: ARG002 -- the hook's signature
        """Write it down."""
        self.steps.append(f"{self.name} stop")

    async def unload(self, context: PluginContext) -> None:  # noqa: ARG002 -- the hook's signature
        """Write it down."""
        self.steps.append(f"{self.name} unload")


def make_bot(server: BotApiServer) -> Bot:
    """Return a real client of *server*."""
    return Bot(server.token, QuickSession(api=TelegramAPIServer.from_base(server.url)))


def offline_bot() -> Bot:
    """Return a bot that calls nobody."""
    return Bot("42:offline", QuickSession())


def is_closed(bot: Bot) -> bool:
    """Return whether the session of the bot was closed."""
    assert isinstance(bot.session, QuickSession)
    return bot.session.closed


def message_update(text: str, number: int = 1, chat: str = "private") -> Update:
    """Return an update with a message."""
    sender = {"id": 7, "is_bot": False, "first_name": "Ada"}
    where = {"id": 7, "type": chat}
    message = {"message_id": 1, "date": 0, "chat": where, "from": sender, "text": text}
    return Update.model_validate({"update_id": number, "message": message})


def press_update(data: str) -> Update:
    """Return an update with a callback query that belongs to no message."""
    sender = {"id": 7, "is_bot": False, "first_name": "Ada"}
    query = {"id": "1", "from": sender, "chat_instance": "1", "data": data}
    return Update.model_validate({"update_id": 2, "callback_query": query})


def drained(app: Application) -> AppDrained:
    """Return the one app.drained in the journal."""
    [event] = [e.event for e in app.journal.entries() if isinstance(e.event, AppDrained)]
    return event


async def draining(dispatcher: Dispatcher) -> None:
    """Wait until the dispatcher waits for updates in flight."""
    traffic = find_traffic(dispatcher)
    assert traffic is not None
    await traffic.in_flight.draining.wait()


async def polls(server: BotApiServer) -> None:
    """Wait until the bot polls."""
    await server.wait(
        lambda: [c for c in server.calls if c.method == "getUpdates"] or None, "getUpdates", 5
    )


async def test_plugins_surround_the_hooks_of_the_dispatcher(server: BotApiServer) -> None:
    """Plugins start before aiogram's startup hooks and stop after its shutdown hooks."""
    steps: list[str] = []
    router = Router()
    router.message.register(lambda message: message.answer("pong"), Command("ping"))
    app = Application([Steps("notes", steps, router)], config=CONFIG)
    dispatcher, bot = Dispatcher(), make_bot(server)
    dispatcher.startup.register(lambda: steps.append("startup"))
    dispatcher.shutdown.register(lambda: steps.append("shutdown"))
    running = asyncio.create_task(run_polling(app, dispatcher, bot))
    ada = server.user(id=7, name="Ada")
    await ada.say("/ping")
    assert (await ada.reply()).text == "pong"
    assert server.allowed_updates == ["message"]
    assert app.services["aiogram:bot"] is bot
    assert app.services["aiogram:dispatcher"] is dispatcher
    await dispatcher.stop_polling()
    await running
    assert steps == [
        "notes load",
        "notes start",
        "startup",
        "shutdown",
        "notes stop",
        "notes unload",
    ]
    assert "aiogram:bot" not in app.services
    assert is_closed(bot)
    topics = [entry.event.topic for entry in app.journal.entries()]
    assert topics[topics.index("app.started") :] == [
        "app.started",
        "app.drained",
        "app.stopping",
        "plugin.stopping",
        "plugin.stopped",
        "app.stopped",
        "plugin.unloading",
        "plugin.unloaded",
    ]
    assert replay(app.journal.entries()) == {"notes": State.UNLOADED}


async def test_updates_in_flight_end_before_plugins_stop(server: BotApiServer) -> None:
    """SIGTERM while a handler works: its answer is sent, and only then the plugin stops."""
    steps: list[str] = []
    go_on = asyncio.Event()
    ada = server.user(id=7, name="Ada")
    sent_before_stop: list[str] = []

    class Notes(Steps):
        async def stop(self, context: PluginContext) -> None:
            await super().stop(context)
            sent_before_stop.extend(message.text for message in ada.unread)

    app = Application([Notes("notes", steps)], config=CONFIG)
    dispatcher = Dispatcher()

    @dispatcher.message()
    async def slow(message: Message) -> SendMessage:
        await message.answer("working")
        await go_on.wait()
        steps.append("handled")
        # aiogram sends it after every middleware has returned.
        return message.answer("done")

    attach(app, dispatcher)
    running = asyncio.create_task(run_polling(app, dispatcher, make_bot(server)))
    await ada.say("hello")
    assert (await ada.reply()).text == "working"
    assert app.probes["updates_in_flight"]() == 1
    signal.raise_signal(signal.SIGTERM)
    await draining(dispatcher)
    go_on.set()
    await running
    assert sent_before_stop == ["done"]
    assert steps == ["notes load", "notes start", "handled", "notes stop", "notes unload"]
    assert (drained(app).waited, drained(app).cancelled) == (1, ())


async def test_deadline_cancels_and_names_the_updates_that_are_left() -> None:
    """What has not ended at the drain deadline is cancelled and named in app.drained."""
    app = Application([], config={"app": {**CONFIG["app"], "drain": 0.05}})
    dispatcher, bot = Dispatcher(), offline_bot()
    ends: list[str] = []
    begun = asyncio.Semaphore(0)

    @dispatcher.message()
    async def stuck(_: Message) -> None:
        begun.release()
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("cancelled")

    attach(app, dispatcher)
    await dispatcher.emit_startup(bot=bot)
    tasks = [
        asyncio.create_task(dispatcher.feed_update(bot, message_update("x", number)))
        for number in (7, 8)
    ]
    for _ in tasks:
        await begun.acquire()
    await dispatcher.emit_shutdown(bot=bot)
    assert all(task.cancelled() for task in tasks)
    assert ends == ["cancelled", "cancelled"]
    event = drained(app)
    test = test_deadline_cancels_and_names_the_updates_that_are_left
    name = f"{__name__}.{test.__name__}.<locals>.stuck"
    assert event.waited == 2
    assert event.cancelled == (f"update 7 ({name})", f"update 8 ({name})")


@pytest.mark.parametrize("late", [False, True])
async def test_second_signal_cuts_the_drain_short(server: BotApiServer, *, late: bool) -> None:
    """The first signal waits for the update in flight, the second one cancels it."""
    app = Application([], config={"app": {**CONFIG["app"], "drain": 60.0, "grace": 90.0}})
    dispatcher = Dispatcher()

    @dispatcher.message()
    async def stuck(message: Message) -> None:
        await message.answer("working")
        await asyncio.Event().wait()

    running = asyncio.create_task(run_polling(app, dispatcher, make_bot(server)))
    ada = server.user(id=7, name="Ada")
    await ada.say("hello")
    await ada.reply()
    signal.raise_signal(signal.SIGTERM)
    if late:
        await draining(dispatcher)
    signal.raise_signal(signal.SIGINT)
    await running
    assert len(drained(app).cancelled) == 1


async def test_cancelling_run_polling_is_a_graceful_stop(server: BotApiServer) -> None:
    """A cancelled run stops like after a signal, leaves no poller, and stays cancelled."""
    steps: list[str] = []
    app = Application([Steps("notes", steps)], config=CONFIG)
    running = asyncio.create_task(run_polling(app, Dispatcher(), make_bot(server)))
    await polls(server)
    assert [t for t in asyncio.all_tasks() if "Dispatcher._polling" in repr(t)]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert steps[-2:] == ["notes stop", "notes unload"]
    assert not [t for t in asyncio.all_tasks() if "Dispatcher._polling" in repr(t)]


async def test_signal_during_start_takes_back_what_had_started(server: BotApiServer) -> None:
    """SIGTERM in a start hook: the hook is cancelled, everything unloads, the run just ends."""
    steps: list[str] = []
    hangs = asyncio.Event()

    class Slow(Steps):
        async def start(self, context: PluginContext) -> None:
            await super().start(context)
            hangs.set()
            await asyncio.Event().wait()

    app = Application([Steps("db", steps), Slow("notes", steps)], config=CONFIG)
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    running = asyncio.create_task(run_polling(app, Dispatcher(), make_bot(server)))
    await hangs.wait()
    signal.raise_signal(signal.SIGTERM)
    await running
    assert steps[4:] == ["notes unload", "db stop", "db unload"] or steps[4:] == [
        "db stop",
        "notes unload",
        "db unload",
    ]
    assert server.calls == []
    assert {m.state for m in app.plugins.values()} == {State.UNLOADED}
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers


async def test_plugin_that_does_not_start_ends_the_run(server: BotApiServer) -> None:
    """The error of the plugin reaches the caller; nothing is held and nobody polled."""
    steps: list[str] = []

    class Broken(Plugin):
        name = "broken"

        async def start(self, context: PluginContext) -> None:  # noqa: ARG002 -- the hook's signature
            raise ValueError("no luck")

    bot = make_bot(server)
    app = Application([Steps("db", steps), Broken()], config=CONFIG)
    with pytest.raises(PluginFailedError, match="'broken' failed in start: ValueError: no luck"):
        await run_polling(app, Dispatcher(), bot)
    assert steps == ["db load", "db start", "db stop", "db unload"]
    assert server.calls == []
    assert is_closed(bot)


async def test_failing_startup_hook_stops_the_plugins_again() -> None:
    """The dispatcher calls no shutdown hook then; the plugins are stopped all the same."""
    steps: list[str] = []
    app = Application([Steps("notes", steps)], config=CONFIG)
    dispatcher = Dispatcher()

    async def broken() -> None:
        raise ValueError("no luck")

    dispatcher.startup.register(broken)
    attach(app, dispatcher)
    with pytest.raises(ValueError, match="no luck"):
        await dispatcher.emit_startup(bot=offline_bot())
    assert steps == ["notes load", "notes start", "notes stop", "notes unload"]
    assert list(app.journal.entries())


async def test_failing_shutdown_hook_skips_nobody() -> None:
    """Every shutdown hook of every router is called, the plugins stop, all errors are raised."""
    steps: list[str] = []
    app = Application([Steps("notes", steps)], config=CONFIG)
    dispatcher, router = Dispatcher(), Router()
    dispatcher.include_router(router)

    async def broken() -> None:
        raise ValueError("no luck")

    async def hangs() -> None:
        await asyncio.Event().wait()

    dispatcher.shutdown.register(broken)
    dispatcher.shutdown.register(lambda: steps.append("second hook"))
    router.shutdown.register(lambda router: steps.append(f"hook of {type(router).__name__}"))
    attach(app, dispatcher)
    await dispatcher.emit_startup(bot=offline_bot())
    with pytest.raises(ValueError, match="no luck") as caught:
        await dispatcher.emit_shutdown()
    assert "broken of Dispatcher" in caught.value.__notes__[0]
    assert steps[2:] == ["second hook", "hook of Router", "notes stop", "notes unload"]

    app.drain = 0.01
    router.shutdown.register(hangs)
    await dispatcher.emit_startup(bot=offline_bot())
    with pytest.raises(ExceptionGroup) as both:
        await dispatcher.emit_shutdown()
    assert [type(error) for error in both.value.exceptions] == [ValueError, HookTimeoutError]
    assert steps[-1] == "notes unload"


async def cancels_its_own() -> None:
    """End in the CancelledError of a task of one's own."""
    task = asyncio.create_task(asyncio.Event().wait())
    task.cancel()
    await task


async def test_a_shutdown_hook_that_ends_in_a_cancellation_skips_nobody(
    server: BotApiServer,
) -> None:
    """It is an error of that hook: the others are called, and the run raises it."""
    steps: list[str] = []
    app, dispatcher = Application([], config=CONFIG), Dispatcher()
    dispatcher.shutdown.register(cancels_its_own)
    dispatcher.shutdown.register(lambda: steps.append("second hook"))
    running = asyncio.create_task(run_polling(app, dispatcher, make_bot(server)))
    await polls(server)
    await dispatcher.stop_polling()
    with pytest.raises(LifecycleError, match="cancels_its_own ended in CancelledError"):
        await running
    assert steps == ["second hook"]


async def test_a_startup_hook_that_ends_in_a_cancellation_is_an_error(
    server: BotApiServer,
) -> None:
    """The bot did not run, and its caller is told."""
    steps: list[str] = []
    app, dispatcher = Application([Steps("notes", steps)], config=CONFIG), Dispatcher()
    dispatcher.startup.register(cancels_its_own)
    with pytest.raises(LifecycleError, match="a startup hook ended in CancelledError"):
        await run_polling(app, dispatcher, make_bot(server))
    assert steps[-2:] == ["notes stop", "notes unload"]


async def test_a_run_that_a_stranger_cancels_is_an_error(server: BotApiServer) -> None:
    """Neither a signal nor the caller ended it: it does not look like a run that ended well."""
    app, dispatcher = Application([], config=CONFIG), Dispatcher()
    running = asyncio.create_task(run_polling(app, dispatcher, make_bot(server)))
    await polls(server)
    [poller] = [each for each in asyncio.all_tasks() if "Dispatcher._polling" in repr(each)]
    poller.cancel()
    with pytest.raises(LifecycleError, match="the polling was cancelled, and neither"):
        await running


async def test_cancelled_shutdown_still_stops_the_plugins() -> None:
    """Whoever cancels the shutdown cuts the drain short; plugins are stopped all the same."""
    steps: list[str] = []
    begun = asyncio.Event()
    app = Application([Steps("notes", steps)], config=CONFIG)
    dispatcher, bot = Dispatcher(), offline_bot()

    @dispatcher.message()
    async def stuck(_: Message) -> None:
        begun.set()
        await asyncio.Event().wait()

    attach(app, dispatcher)
    await dispatcher.emit_startup(bot=bot)
    update = asyncio.create_task(dispatcher.feed_update(bot, message_update("x")))
    await begun.wait()
    shutdown = asyncio.create_task(dispatcher.emit_shutdown())
    await draining(dispatcher)
    shutdown.cancel()
    with pytest.raises(asyncio.CancelledError):
        await shutdown
    assert update.cancelled()
    assert len(drained(app).cancelled) == 1
    assert steps[-2:] == ["notes stop", "notes unload"]


async def test_polling_that_cannot_go_on_stops_everything(server: BotApiServer) -> None:
    """An error of the polling itself, as a wrong token, reaches the caller after a full stop."""
    steps: list[str] = []
    app = Application([Steps("notes", steps)], config=CONFIG)
    server.fail_next("getMe", error_code=401)
    with pytest.raises(TelegramUnauthorizedError):
        await run_polling(app, Dispatcher(), make_bot(server))
    assert steps[-2:] == ["notes stop", "notes unload"]


async def test_a_bot_that_cannot_go_on_ends_the_others(server: BotApiServer) -> None:
    """The token of one of several bots is wrong: its error is raised, and all sessions are shut."""
    steps: list[str] = []
    app = Application([Steps("notes", steps)], config=CONFIG)
    bots = [
        make_bot(server),
        Bot("43:wrong", QuickSession(api=TelegramAPIServer.from_base(server.url))),
    ]
    with pytest.raises(TelegramUnauthorizedError):
        await run_polling(app, Dispatcher(), *bots)
    assert steps[-2:] == ["notes stop", "notes unload"]
    assert [is_closed(bot) for bot in bots] == [True, True]
    assert "aiogram:bots" not in app.services


async def test_bots_may_share_a_session(server: BotApiServer) -> None:
    """A session is closed once, and one that cannot be closed keeps no other open."""

    class Stuck(QuickSession):
        closes: int | None = None

        async def close(self) -> None:
            await super().close()
            if self.closes is not None:  # aiogram closes a session before its first call, too
                self.closes += 1
                raise ValueError("stuck")

    stuck, good = Stuck(api=TelegramAPIServer.from_base(server.url)), make_bot(server)
    bots = [Bot(server.token, stuck), Bot(server.token, stuck), good]
    app, dispatcher = Application([], config=CONFIG), Dispatcher()
    running = asyncio.create_task(run_polling(app, dispatcher, *bots))
    await polls(server)
    stuck.closes = 0
    await dispatcher.stop_polling()
    with pytest.raises(ValueError, match="stuck"):
        await running
    assert (stuck.closes, is_closed(good)) == (1, True)


async def test_bots_behind_a_webhook_are_services_too() -> None:
    """What the startup is told of bots is what plugins have, until the shutdown."""
    first, last = offline_bot(), offline_bot()
    app, dispatcher = Application([Steps("notes", [])], config=CONFIG), Dispatcher()
    attach(app, dispatcher)
    for told, bot, bots in (
        ({"bot": first}, first, (first,)),
        ({"bots": [first, last]}, last, (first, last)),
        ({"bot": first, "bots": (first, last)}, first, (first, last)),
    ):
        await dispatcher.emit_startup(**told)
        assert app.services["aiogram:bot"] is bot
        assert tuple(map(id, app.services["aiogram:bots"])) == tuple(map(id, bots))
        await dispatcher.emit_shutdown(**told)
        assert app.services.names() == ("aiogram:dispatcher",)


async def test_bots_are_given_by_position() -> None:
    """Without a bot, or with `bot=`, nothing begins, and the error shows the call."""
    app, dispatcher = Application([], config=CONFIG), Dispatcher()
    for options in ({}, {"bot": offline_bot()}):
        with pytest.raises(LifecycleError, match=r"\(app, dispatcher, bot, \.\.\.\)"):
            await run_polling(app, dispatcher, **options)
    assert find_traffic(dispatcher) is None


async def test_run_can_be_repeated(server: BotApiServer) -> None:
    """After a stop the same application and dispatcher run again, with another bot."""
    steps: list[str] = []
    router = Router()
    router.message.register(lambda message: message.answer("pong"))
    app, dispatcher = Application([Steps("notes", steps, router)], config=CONFIG), Dispatcher()
    ada = server.user(id=7, name="Ada")
    for _ in range(2):
        running = asyncio.create_task(run_polling(app, dispatcher, make_bot(server)))
        await ada.say("ping")
        assert (await ada.reply()).text == "pong"
        await server.wait(lambda: not server.updates or None, "acknowledgement", 5)
        await dispatcher.stop_polling()
        await running
    assert steps == ["notes load", "notes start", "notes stop", "notes unload"] * 2


async def test_failing_shutdown_hook_lets_stop_polling_return(server: BotApiServer) -> None:
    """Whoever stopped the polling goes on; the error is raised where the bot was run."""
    app, dispatcher = Application([], config=CONFIG), Dispatcher()

    async def broken() -> None:
        raise ValueError("no luck")

    dispatcher.shutdown.register(broken)
    running = asyncio.create_task(run_polling(app, dispatcher, make_bot(server)))
    await polls(server)
    await dispatcher.stop_polling()
    with pytest.raises(ValueError, match="no luck"):
        await running


async def test_a_run_tells_no_failure_of_the_one_before(server: BotApiServer) -> None:
    """A run that ends before its startup knows nothing of an earlier shutdown."""

    class Fails(Plugin):
        name = "fails"
        broken = False

        async def load(self, context: PluginContext) -> None:  # noqa: ARG002 -- the hook's signature
            if self.broken:
                raise ValueError("no luck")

    def fail() -> None:
        raise RuntimeError("shutdown")

    plugin = Fails()
    app, dispatcher = Application([plugin], config=CONFIG), Dispatcher()
    dispatcher.shutdown.register(fail)
    running = asyncio.create_task(run_polling(app, dispatcher, make_bot(server)))
    await polls(server)
    await dispatcher.stop_polling()
    with pytest.raises(RuntimeError, match="shutdown"):
        await running
    plugin.broken = True
    with pytest.raises(PluginFailedError) as caught:
        await run_polling(app, dispatcher, make_bot(server))
    assert not hasattr(caught.value, "__notes__")


async def test_errors_of_plugins_that_stop_are_never_lost(server: BotApiServer) -> None:
    """A plugin's failed stop is raised, or a note of the error that made everything stop."""

    class Broken(Plugin):
        name = "broken"

        async def stop(self, context: PluginContext) -> None:  # noqa: ARG002 -- the hook's signature
            raise ValueError("no luck")

    app, dispatcher = Application([Broken()], config=CONFIG), Dispatcher()
    running = asyncio.create_task(run_polling(app, dispatcher, make_bot(server)))
    await polls(server)
    await dispatcher.stop_polling()
    with pytest.raises(ExceptionGroup) as group:
        await running
    assert str(group.value.exceptions[0]).startswith("plugin 'broken' failed in stop")

    server.fail_next("getMe", error_code=401)
    with pytest.raises(TelegramUnauthorizedError) as caught:
        await run_polling(app, dispatcher, make_bot(server))
    assert caught.value.__notes__ == [
        "in shutdown: ExceptionGroup: unload went through, but not without errors (1 sub-exception)"
    ]

    async def fails() -> None:
        raise RuntimeError("startup")

    dispatcher.startup.register(fails)
    with pytest.raises(RuntimeError, match="startup") as caught_start:
        await dispatcher.emit_startup(bot=offline_bot())
    assert caught_start.value.__notes__[0].startswith("while unloading: PluginFailedError")


async def test_run_outside_of_the_main_thread() -> None:
    """Where no signal handler can be set the bot runs all the same, and stops when told to."""
    steps: list[str] = []

    async def run() -> None:
        app, dispatcher = Application([Steps("notes", steps)], config=CONFIG), Dispatcher()
        async with BotApiServer() as server:
            running = asyncio.create_task(run_polling(app, dispatcher, make_bot(server)))
            await polls(server)
            await dispatcher.stop_polling()
            await running

    await asyncio.to_thread(asyncio.run, run())
    assert steps == ["notes load", "notes start", "notes stop", "notes unload"]


async def test_update_of_a_newer_bot_api_is_counted_too() -> None:
    """An update without a known type has no type in the correlation, and does not fail in ours."""
    app, dispatcher, bot = Application([], config=CONFIG), Dispatcher(), offline_bot()
    attach(app, dispatcher)
    with pytest.warns(RuntimeWarning, match="Detected unknown update type"):
        await dispatcher.feed_update(bot, Update(update_id=1))
    assert app.probes["updates_in_flight"]() == 0


class Seen(list[Correlation]):
    """Collects the correlation of whoever calls `note`."""

    def note(self) -> None:
        """Keep the correlation of now."""
        self.append(current_correlation())


async def test_handlers_run_with_their_name_and_plugin() -> None:
    """Update, chat, handler and plugin are known in a handler, in nested routers too."""
    seen = Seen()
    outer, inner, stranger = Router(), Router(), Router()
    outer.include_router(inner)

    @inner.message(Command("inner"))
    async def in_nested_router(_: Message) -> None:
        seen.note()

    @stranger.message(Command("stranger"))
    async def of_nobody(_: Message) -> None:
        seen.note()

    @stranger.message(Command("class"))
    class ByClass(MessageHandler):
        async def handle(self) -> None:
            seen.note()

    async def with_arguments(_: CallbackQuery, *, extra: str) -> None:
        assert extra
        seen.note()

    stranger.callback_query.register(functools.partial(with_arguments, extra="x"))
    app = Application([Steps("notes", [], outer), Steps("other", [])], config=CONFIG)
    dispatcher, bot = Dispatcher(), offline_bot()
    app.services.provide("aiogram:bot", bot)
    attach(app, dispatcher)
    dispatcher.include_router(stranger)
    async with app:
        await dispatcher.feed_update(bot, message_update("/inner", 5, "group"))
        await dispatcher.feed_update(bot, message_update("/stranger"))
        await dispatcher.feed_update(bot, message_update("/class"))
        await dispatcher.feed_update(bot, press_update("x"))
    here = f"{__name__}.{test_handlers_run_with_their_name_and_plugin.__name__}.<locals>."
    message = {"update_id": 1, "update_type": "message", "chat_type": "private"}
    assert [each.as_dict() for each in seen] == [
        {
            "update_id": 5,
            "update_type": "message",
            "chat_type": "group",
            "handler": f"{here}in_nested_router",
            "plugin": "notes",
        },
        {**message, "handler": f"{here}of_nobody"},
        {**message, "handler": f"{here}ByClass"},
        {"update_id": 2, "update_type": "callback_query", "handler": f"{here}with_arguments"},
    ]
    assert current_correlation() == Correlation()


async def test_plugin_of_a_handler_is_known_by_its_module() -> None:
    """A handler in the module of the only plugin there belongs to it, however it was registered."""
    seen = Seen()
    app = Application([Steps("notes", [])], config=CONFIG)
    dispatcher, bot = Dispatcher(), offline_bot()
    app.services.provide("aiogram:bot", bot)
    attach(app, dispatcher)

    @dispatcher.message()
    async def handler(_: Message) -> None:
        seen.note()

    async with app:
        await dispatcher.feed_update(bot, message_update("x"))
    assert seen[0].plugin == "notes"


async def test_error_handlers_run_inside_the_correlation() -> None:
    """Events and log lines of an error handler carry the update and the handler's own name."""
    seen = Seen()
    app = Application([], config=CONFIG)
    dispatcher, bot, router = Dispatcher(), offline_bot(), Router()
    dispatcher.include_router(router)

    @dispatcher.message()
    async def broken(_: Message) -> None:
        raise ValueError("no luck")

    @router.errors()
    async def on_error(_: ErrorEvent) -> bool:
        seen.note()
        return True

    attach(app, dispatcher)
    assert await dispatcher.feed_update(bot, message_update("x", 9)) is True
    [correlation] = seen
    assert correlation.update_id == 9
    assert (correlation.handler or "").endswith("on_error")


async def test_ours_stays_the_outermost_middleware() -> None:
    """Ours runs before aiogram's and before those that were registered earlier, once."""

    class Other(BaseMiddleware):
        async def __call__(self, handler: Any, event: Any, data: dict[str, Any]) -> Any:
            return await handler(event, data)

    dispatcher, other = Dispatcher(), Other()
    dispatcher.update.outer_middleware(other)
    dispatcher.message.middleware(other)
    app = Application([], config=CONFIG)
    attach(app, dispatcher)
    attach(app, dispatcher)
    outer = list(dispatcher.update.outer_middleware)
    assert isinstance(outer[1], ErrorsMiddleware)
    assert outer[-1] is other
    assert len(outer) == 5
    assert dispatcher.message.middleware[-1] is other
    assert len(dispatcher.message.middleware) == 2
    with pytest.raises(LifecycleError, match="attached to another application"):
        attach(Application([], config=CONFIG), dispatcher)
    with pytest.raises(LifecycleError, match="'aiogram:dispatcher' is provided already"):
        attach(app, Dispatcher())


async def test_update_fed_by_a_handler_belongs_to_the_first_one() -> None:
    """A handler may feed another update: one piece of work, two correlations."""
    seen = Seen()
    app = Application([], config=CONFIG)
    dispatcher, bot = Dispatcher(), offline_bot()
    counts: list[Any] = []

    @dispatcher.message(Command("outer"))
    async def outer(_: Message) -> None:
        for number in (2, 3):
            await dispatcher.feed_update(bot, message_update("inner", number))
        seen.note()

    @dispatcher.message()
    async def inner(message: Message) -> SendMessage:
        seen.note()
        counts.append(app.probes["updates_in_flight"]())
        return message.answer("x")

    attach(app, dispatcher)
    await dispatcher.feed_update(bot, message_update("/outer", 1))
    assert [each.update_id for each in seen] == [2, 3, 1]
    assert counts == [1, 1]
    assert app.probes["updates_in_flight"]() == 0


async def test_a_task_that_feeds_many_updates_is_never_waited_for_or_cancelled() -> None:
    """A consumer that feeds updates itself survives the drain between two of them."""
    app = Application([], config={"app": {**CONFIG["app"], "drain": 0.01}})
    dispatcher, bot = Dispatcher(), offline_bot()
    fed = asyncio.Event()

    @dispatcher.message()
    async def answer(message: Message) -> SendMessage:
        return message.answer("x")

    async def consume() -> str:
        for number in (1, 2, 3):
            await dispatcher.feed_update(bot, message_update("x", number))
        fed.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.2)
        return "survived"

    attach(app, dispatcher)
    await dispatcher.emit_startup(bot=bot)
    consumer = asyncio.create_task(consume())
    await fed.wait()
    await dispatcher.emit_shutdown(bot=bot)
    assert drained(app).cancelled == ()
    assert await consumer == "survived"


async def test_update_whose_task_has_not_begun_is_in_flight() -> None:
    """A task that aiogram made just before the shutdown is waited for like any other."""
    handled: list[str] = []
    app = Application([], config=CONFIG)
    dispatcher, bot = Dispatcher(), offline_bot()

    @dispatcher.message()
    async def slow(_: Message) -> None:
        await asyncio.sleep(0)
        handled.append("handled")

    attach(app, dispatcher)
    await dispatcher.emit_startup(bot=bot)
    update = asyncio.create_task(dispatcher.feed_update(bot, message_update("x")))
    await dispatcher.emit_shutdown()
    assert handled == ["handled"]
    await update


async def test_update_after_the_drain_is_refused() -> None:
    """An update that arrives while plugins stop is refused, so that a webhook is asked again."""
    refusals: list[BaseException] = []
    dispatcher, bot = Dispatcher(), offline_bot()

    class Late(Plugin):
        name = "late"

        async def stop(self, context: PluginContext) -> None:  # noqa: ARG002 -- the hook's signature
            try:
                await dispatcher.feed_update(bot, message_update("x", 3))
            except LifecycleError as error:
                refusals.append(error)

    app = Application([Late()], config=CONFIG)
    attach(app, dispatcher)
    for _ in range(2):
        await dispatcher.emit_startup(bot=bot)
        await dispatcher.feed_update(bot, message_update("x"))
        await dispatcher.emit_shutdown(bot=bot)
    assert [str(error) for error in refusals] == [
        "update 3 is refused: the application is stopping"
    ] * 2


async def test_included_router_can_be_included_again_anywhere() -> None:
    """After the block the router is gone from the dispatcher and fits into another one."""
    router, dispatcher = Router(), Dispatcher()
    for target in (dispatcher, dispatcher, Dispatcher()):
        with include_router(target, router):
            assert target.sub_routers == [router]
            assert router.parent_router is target
        assert target.sub_routers == []
    with pytest.raises(ValueError, match="no luck"), include_router(dispatcher, router):
        raise ValueError("no luck")
    assert router.parent_router is None
    # aiogram's private name that this relies on.
    assert hasattr(Router(), "_parent_router")


async def test_webhook_starts_drains_and_stops(server: BotApiServer) -> None:
    """Behind aiogram's webhook handler the order is the same, with updates in the background."""
    steps: list[str] = []
    go_on = asyncio.Event()
    router = Router()

    @router.message()
    async def slow(message: Message) -> SendMessage:
        await message.answer("working")
        await go_on.wait()
        steps.append("handled")
        return message.answer("done")

    async def release_when_draining() -> None:
        await draining(dispatcher)
        go_on.set()

    app = Application([Steps("notes", steps, router)], config=CONFIG)
    dispatcher, bot = Dispatcher(), make_bot(server)
    attach(app, dispatcher)
    site = web.Application()
    setup_application(site, dispatcher, bot=bot)
    SimpleRequestHandler(dispatcher, bot).register(site, path="/hook")
    async with TestServer(site) as hook:
        await bot.set_webhook(str(hook.make_url("/hook")))
        ada = server.user(id=7, name="Ada")
        await ada.say("hello")
        assert (await ada.reply()).text == "working"
        app.bus.subscribe("app.drained", lambda _: steps.append("drained"))
        release = asyncio.create_task(release_when_draining())
    await release
    assert (await ada.reply()).text == "done"
    assert steps == [
        "notes load",
        "notes start",
        "handled",
        "drained",
        "notes stop",
        "notes unload",
    ]
    assert drained(app).waited == 1


async def test_process_told_to_stop_while_starting(run_child: Callable[..., Any]) -> None:
    """SIGTERM in a start hook: the process ends by itself, with everything given back."""
    child = await run_child(slow="start")
    await child.says("starting")
    child.terminate()
    topics = [entry.event.topic for entry in await child.history()]
    assert "plugin.failed" in topics
    assert "app.started" not in topics


async def test_process_told_to_stop_while_handling(run_child: Callable[..., Any]) -> None:
    """SIGTERM while a handler works: the handler ends its work first."""
    child = await run_child()
    await child.ada.say("/slow")
    await child.says("working")
    child.terminate()
    await child.says("done")
    [event] = [e.event for e in await child.history() if isinstance(e.event, AppDrained)]
    assert (event.waited, event.cancelled) == (1, ())


async def test_process_told_twice_to_stop(run_child: Callable[..., Any]) -> None:
    """A second SIGTERM does not wait for the drain deadline, and still gives everything back."""
    child = await run_child(drain=60.0, grace=90.0)
    await child.ada.say("/stuck")
    await child.says("working")
    child.terminate()
    await child.says("still working")
    child.terminate()
    [event] = [e.event for e in await child.history() if isinstance(e.event, AppDrained)]
    assert event.cancelled == ("update 1 (__main__.main.<locals>.stuck_handler)",)


async def test_process_told_again_while_plugins_stop(
    run_child: Callable[..., Any], server: BotApiServer
) -> None:
    """A SIGTERM during a stop hook changes nothing: the hook runs to its end."""
    child = await run_child(slow="stop", drain=10.0, grace=40.0)
    await polls(server)
    child.terminate()
    await child.says("stopping")
    child.terminate()
    await child.ada.say("go on")
    topics = [entry.event.topic for entry in await child.history()]
    assert "plugin.failed" not in topics


async def test_process_whose_hook_never_ends_ends_nevertheless(
    run_child: Callable[..., Any], server: BotApiServer
) -> None:
    """A stop hook that ignores every cancellation costs its deadline, a second, and exit code 1."""
    child = await run_child(slow="for ever", drain=0.1, grace=1.0)
    await polls(server)
    child.terminate()
    assert await child.exit_code() == 1
    assert "ending the process: Holder.stop did not stop" in child.stderr
    assert list((child.folder / "held").iterdir()) == []
