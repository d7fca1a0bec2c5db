"""One signal stops everybody in the process, and leaves the handlers that were there before."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest
from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.types import Message

from lifecycle import AppDrained, Application, Plugin, PluginContext
from lifecycle.bot import attach, run_polling
from lifecycle.bot.signals import told_to_stop
from lifecycle.bot.traffic import find_traffic
from lifecycle.testing import BotApiServer

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Part(Plugin):
    """A plugin that starts when it is let."""

    name = "part"

    def __init__(self, *, waits: bool) -> None:
        self.gate = asyncio.Event()
        if not waits:
            self.gate.set()
        self.starting = asyncio.Event()

    async def start(self, context: PluginContext) -> None:  # noqa: ARG002 -- the hook's signature
        """Wait for the gate."""
        self.starting.set()
        await self.gate.wait()


class Running:
    """An application with a bot for each server; they poll, the aiogram way when it is told so."""

    def __init__(
        self,
        *servers: BotApiServer,
        waits: bool = False,
        the_aiogram_way: bool = False,
        **options: Any,
    ) -> None:
        self.part = Part(waits=waits)
        config = {"app": {"journal": "memory", "drain": 30.0, "grace": 60.0}}
        self.app = Application([self.part], config=config)
        self.dispatcher = Dispatcher()
        self.dispatcher.message.register(self.slow)
        self.go_on = asyncio.Event()
        self.people = [server.user(id=7, name="Ada") for server in servers]
        self.ada = self.people[0]
        bots = [
            Bot(server.token, AiohttpSession(api=TelegramAPIServer.from_base(server.url)))
            for server in servers
        ]
        attach(self.app, self.dispatcher)
        self.task = asyncio.create_task(
            self.dispatcher.start_polling(*bots, **options)
            if the_aiogram_way
            else run_polling(self.app, self.dispatcher, *bots, **options)
        )

    async def slow(self, message: Message) -> None:
        """Answer, wait, answer again."""
        await message.answer("working")
        await self.go_on.wait()
        await message.answer("done")

    async def works(self) -> None:
        """Give each bot an update that it works on when this returns."""
        for ada in self.people:
            await ada.say("hello")
            assert (await ada.reply()).text == "working"

    async def draining(self) -> None:
        """Return when it waits for its updates."""
        traffic = find_traffic(self.dispatcher)
        assert traffic is not None
        await traffic.in_flight.draining.wait()

    @property
    def drained(self) -> AppDrained:
        """How its updates ended."""
        events = [entry.event for entry in self.app.journal.entries()]
        [event] = [each for each in events if isinstance(each, AppDrained)]
        return event


@pytest.fixture
async def servers() -> AsyncIterator[list[BotApiServer]]:
    """Yield two local Bot APIs, one for each bot."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(BotApiServer()) for _ in range(2)]


@pytest.fixture
async def more_servers() -> AsyncIterator[list[BotApiServer]]:
    """Yield two more."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(BotApiServer(f"{n}:more")) for n in (43, 44)]


@contextmanager
def unchanged() -> Iterator[None]:
    """See to it that the handlers of the signals are the same afterwards."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


def wakeup_fd() -> int:
    """Return what a signal is written to, which can be asked for only by setting another."""
    found = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(found)
    return found


@pytest.mark.parametrize("number", SIGNALS)
async def test_one_signal_drains_both(servers: list[BotApiServer], number: int) -> None:
    """Two bots get the signal, finish what they are at, and end."""
    with unchanged():
        bots = [Running(server) for server in servers]
        for bot in bots:
            await bot.works()
        signal.raise_signal(number)
        for bot in bots:
            await bot.draining()
            bot.go_on.set()
            await bot.task
            assert (await bot.ada.reply()).text == "done"
            assert (bot.drained.waited, bot.drained.cancelled) == (1, ())


async def test_a_second_signal_hurries_both(servers: list[BotApiServer]) -> None:
    """Neither waits for its updates any more."""
    with unchanged():
        bots = [Running(server) for server in servers]
        for bot in bots:
            await bot.works()
        signal.raise_signal(signal.SIGTERM)
        for bot in bots:
            await bot.draining()
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*(bot.task for bot in bots)), 20)
    assert [len(bot.drained.cancelled) for bot in bots] == [1, 1]


async def test_one_signal_ends_applications_with_several_bots(
    servers: list[BotApiServer], more_servers: list[BotApiServer]
) -> None:
    """Each bot of each application finishes what it is at, with the timeout it was given."""
    with unchanged():
        applications = [Running(*each, polling_timeout=21) for each in (servers, more_servers)]
        for each in applications:
            await each.works()
        signal.raise_signal(signal.SIGTERM)
        for each in applications:
            await each.draining()
            each.go_on.set()
            await asyncio.wait_for(each.task, 20)
    for each in applications:
        assert [(await ada.reply()).text for ada in each.people] == ["done", "done"]
        assert (each.drained.waited, each.drained.cancelled) == (2, ())
    calls = [call for server in (*servers, *more_servers) for call in server.calls]
    assert {call.params["timeout"] for call in calls if call.method == "getUpdates"} == {21}


async def test_a_process_with_two_applications_ends(
    run_child: Callable[..., Any], servers: list[BotApiServer]
) -> None:
    """One SIGTERM: the bots of both finish what they are at, and the process ends by itself."""
    child = await run_child(beside=[server.url for server in servers])
    people = [child.ada, *(server.user(id=7, name="Ada") for server in servers)]
    for ada in people:
        await ada.say("/slow")
        assert (await ada.reply(timeout=20)).text == "working"
    child.terminate()
    for ada in people:
        assert (await ada.reply(timeout=20)).text == "done"
    [event] = [e.event for e in await child.history() if isinstance(e.event, AppDrained)]
    assert (event.waited, event.cancelled) == (1, ())


@pytest.mark.parametrize("the_aiogram_way", [(True, True), (False, True), (True, False)])
async def test_polling_the_aiogram_way_hears_signals_beside_others(
    servers: list[BotApiServer], the_aiogram_way: tuple[bool, bool]
) -> None:
    """One signal ends two attached dispatchers, whichever of them uses `start_polling`."""
    with unchanged():
        bots = []
        for server, way in zip(servers, the_aiogram_way, strict=True):
            bots.append(Running(server, the_aiogram_way=way))
            await bots[-1].works()
        signal.raise_signal(signal.SIGTERM)
        for bot in bots:
            await bot.draining()
            bot.go_on.set()
            await asyncio.wait_for(bot.task, 20)
    assert [bot.drained.cancelled for bot in bots] == [(), ()]


async def test_a_second_signal_hurries_polling_the_aiogram_way(
    servers: list[BotApiServer],
) -> None:
    """`start_polling` of an attached dispatcher cuts its drain short, and can be called again."""
    with unchanged():
        bot = Running(servers[0], the_aiogram_way=True)
        await bot.works()
        signal.raise_signal(signal.SIGTERM)
        await bot.draining()
        signal.raise_signal(signal.SIGINT)
        await asyncio.wait_for(bot.task, 20)
        assert len(bot.drained.cancelled) == 1
        again = Running(servers[1], the_aiogram_way=True)
        again.go_on.set()
        await again.works()
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(again.task, 20)


async def test_the_owner_may_keep_the_signals(servers: list[BotApiServer]) -> None:
    """With `handle_signals=False` the handlers are the owner's while the bot polls, too."""
    before = [signal.getsignal(number) for number in SIGNALS]
    bot = Running(servers[0], the_aiogram_way=True, handle_signals=False)
    await bot.works()
    assert [signal.getsignal(number) for number in SIGNALS] == before
    bot.go_on.set()
    await bot.dispatcher.stop_polling()
    await bot.task


async def test_a_signal_while_it_starts_ends_polling_the_aiogram_way(
    servers: list[BotApiServer],
) -> None:
    """As with aiogram alone, the start is done to its end, and then undone."""
    with unchanged():
        bot = Running(servers[0], waits=True, the_aiogram_way=True)
        await bot.part.starting.wait()
        signal.raise_signal(signal.SIGTERM)
        asyncio.get_running_loop().call_soon(bot.part.gate.set)
        await asyncio.wait_for(bot.task, 20)
    topics = [entry.event.topic for entry in bot.app.journal.entries()]
    assert "app.started" in topics
    assert "plugin.failed" not in topics


@pytest.mark.parametrize("first", [0, 1])
async def test_one_that_ended_by_itself_leaves_the_other_its_signals(
    servers: list[BotApiServer], first: int
) -> None:
    """The signal reaches the bot that is left, whichever began first."""
    with unchanged():
        bots = [Running(server) for server in servers]
        for bot in bots:
            await bot.works()
            bot.go_on.set()
            assert (await bot.ada.reply()).text == "done"
        ending, staying = bots[first], bots[1 - first]
        await ending.dispatcher.stop_polling()
        await ending.task
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(staying.task, 20)


async def test_one_that_starts_is_stopped_with_one_that_runs(servers: list[BotApiServer]) -> None:
    """The start of one is taken back, the other drains."""
    with unchanged():
        running = Running(servers[0])
        await running.works()
        starting = Running(servers[1], waits=True)
        await starting.part.starting.wait()
        signal.raise_signal(signal.SIGTERM)
        running.go_on.set()
        await running.task
        await starting.task
    topics = [entry.event.topic for entry in starting.app.journal.entries()]
    assert "plugin.failed" in topics
    assert "app.started" not in topics


async def test_a_restart_in_between_changes_nothing(servers: list[BotApiServer]) -> None:
    """After the restart of one application both still hear the signal."""
    with unchanged():
        bots = [Running(server) for server in servers]
        for bot in bots:
            await bot.works()
            bot.go_on.set()
        await bots[1].app.restart()
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*(bot.task for bot in bots)), 20)


async def test_a_bot_can_run_again_after_both(servers: list[BotApiServer]) -> None:
    """The signal that stopped two bots does not stop one that begins later."""
    with unchanged():
        for _ in range(2):
            bots = [Running(server) for server in servers]
            for bot in bots:
                await bot.works()
                bot.go_on.set()
                assert (await bot.ada.reply()).text == "done"
            signal.raise_signal(signal.SIGTERM)
            await asyncio.gather(*(bot.task for bot in bots))


@pytest.mark.parametrize("handler", [signal.SIG_IGN, "function", "loop"])
async def test_the_default_is_never_in_between(
    handler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal at the very end of a run does not kill a program that has its own handler."""
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGTERM)
    own = (lambda *_: None) if handler == "function" else handler
    set_handler = signal.signal
    sets: list[Any] = []

    def spy(number: int, handler: Any) -> Any:
        if number == signal.SIGTERM:
            sets.append(handler)
        return set_handler(number, handler)

    if handler == "loop":
        loop.add_signal_handler(signal.SIGTERM, lambda: None)
    else:
        signal.signal(signal.SIGTERM, own)
    woken_by = wakeup_fd()
    try:
        with told_to_stop(lambda: None, lambda: None):
            monkeypatch.setattr(signal, "signal", spy)
        assert sets
        assert signal.SIG_DFL not in sets
        assert handler == "loop" or sets == [own]
        assert wakeup_fd() == woken_by
        # Nothing of ours is left in the loop: an end of it would set the default.
        assert loop.remove_signal_handler(signal.SIGTERM) is (handler == "loop")
    finally:
        monkeypatch.undo()
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL, "function", "loop"])
async def test_the_handlers_of_the_program_come_back(handler: Any) -> None:
    """What had been there for SIGTERM is there again, also one of the event loop."""
    loop = asyncio.get_running_loop()
    mine: list[object] = []
    heard = asyncio.Event()
    before = signal.getsignal(signal.SIGTERM)

    def hear() -> None:
        mine.append("loop")
        heard.set()

    if handler == "loop":
        loop.add_signal_handler(signal.SIGTERM, hear)
    else:
        own = (lambda *_: mine.append("function")) if handler == "function" else handler
        signal.signal(signal.SIGTERM, own)
    ours = asyncio.Semaphore(0)
    try:
        with unchanged():
            with told_to_stop(ours.release, lambda: None), told_to_stop(ours.release, lambda: None):
                signal.raise_signal(signal.SIGTERM)
                await ours.acquire()
                await ours.acquire()
            # A loop that shows its handlers to nobody, as uvloop's, still calls what it has.
            is_hidden = handler == "loop" and not hasattr(loop, "_signal_handlers")
            assert mine == ["loop"] * is_hidden
        mine.clear()
        heard.clear()
        if handler in ("function", "loop"):
            signal.raise_signal(signal.SIGTERM)
            if handler == "loop":
                await heard.wait()
            assert mine == [handler]
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
