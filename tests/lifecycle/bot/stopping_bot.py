"""A bot that gets signals: run by test_bot.py, in a process of its own.

The import of aiogram takes seconds, so one process imports and is forked for each bot. It reads a
line for each, the JSON of the arguments of `main`, and writes the bot's pid and its exit code.
"""

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.filters import Command
from aiogram.types import Message

from lifecycle.application import Application
from lifecycle.bot import run_polling
from lifecycle.bot.dispatcher import attached
from lifecycle.bot.last_resort import LastResort
from lifecycle.event import Event
from lifecycle.events import AppDrained
from lifecycle.journal import writer
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.plugin import Plugin
from lifecycle.tasks import leave_behind

ADA = 7
# That a busy machine has kept the journal waiting for 0.03 s would be said, rightly, beside what
# the tests read of this bot.
vars(writer)["PATIENCE"] = 5.0


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Hold something that outlives a process that does not give it back."""
    file.touch()
    try:
        yield
    finally:
        file.unlink()


class Holder(Plugin):
    """Holds a file per scope; its hooks wait for ever, or for Ada, when they are told to."""

    name = "holder"

    def __init__(self, bot: Bot, folder: Path, slow: str) -> None:
        self.bot = bot
        self.folder = folder
        self.slow = slow

    async def load(self, context: PluginContext) -> None:
        """Take the first thing."""
        await context.enter(held(self.folder / "loaded"))

    async def start(self, context: PluginContext) -> None:
        """Take the second thing."""
        await context.enter(held(self.folder / "started"))
        if self.slow == "start":
            await self.bot.send_message(ADA, "starting")
            await asyncio.Event().wait()

    async def stop(self, context: PluginContext) -> None:  # noqa: ARG002 -- the hook's signature
        """Wait for Ada."""
        if self.slow == "stop":
            await self.bot.send_message(ADA, "stopping")
            await self.bot.get_updates(timeout=30)
        if self.slow == "for ever":
            await for_ever()


class Nameless(asyncio.Task[None]):
    """A task that does not say its name."""

    def get_name(self) -> str:
        """Raise."""
        raise RuntimeError("no name")


async def for_ever() -> None:
    """Ignore every cancellation."""
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


held_tasks: list[asyncio.Task[None]] = []
own_pool = ThreadPoolExecutor(thread_name_prefix="mine")


def deaf(app: Application, dispatcher: Dispatcher) -> None:  # noqa: C901 -- one after the other
    """Add handlers, and what they start, that do not end when they are told to."""

    @dispatcher.message(Command("handler"))
    async def deaf_handler(message: Message) -> None:
        await message.answer("working")
        await for_ever()

    @dispatcher.message(Command("executor"))
    async def waiting_handler(message: Message) -> None:
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(None, stuck)
        await message.answer("working")
        await work

    @dispatcher.message(Command("pool"))
    async def pooling_handler(message: Message) -> None:
        work = asyncio.get_running_loop().run_in_executor(own_pool, stuck)
        await message.answer("working")
        await work

    @dispatcher.message(Command("thread"))
    async def starting_handler(message: Message) -> None:
        threading.Thread(target=stuck, name="mine").start()
        await message.answer("working")

    @dispatcher.message(Command("task"))
    async def leaving_handler(message: Message) -> None:
        held_tasks.append(asyncio.create_task(for_ever()))
        await message.answer("working")

    @dispatcher.message(Command("nameless"))
    async def hiding_handler(message: Message) -> None:
        leave_behind(Nameless(for_ever(), loop=asyncio.get_running_loop()))
        await message.answer("working")

    @dispatcher.message(Command("subscriber"))
    async def publishing_handler(message: Message) -> None:
        async def deaf_subscriber(_: Event) -> None:
            await for_ever()

        app.bus.subscribe("app.drained", deaf_subscriber)
        app.bus.publish(AppDrained(waited=0, duration=0))
        await message.answer("working")

    @dispatcher.message(Command("spawned"))
    async def spawning_handler(message: Message) -> None:
        context = app.plugins["holder"].context
        if context is not None:
            context.spawn(for_ever())
        await message.answer("working")

    @dispatcher.message(Command("hook"))
    async def hooking_handler(message: Message) -> None:
        async def deaf_hook() -> None:
            await for_ever()

        dispatcher.shutdown.register(deaf_hook)
        await message.answer("working")

    @dispatcher.message(Command("block"))
    async def blocking_handler(message: Message) -> None:
        await message.answer("working")
        stuck()


def stuck() -> None:
    """Never return."""
    while True:
        time.sleep(60)


async def main(
    url: str, token: str, folder: str, slow: str, config: dict[str, Any], beside: list[str]
) -> None:
    """Run the bot until a signal, and a second application with bots of the servers *beside*."""
    dispatcher = Dispatcher()
    bot = Bot(token, AiohttpSession(api=TelegramAPIServer.from_base(url)))
    app = Application([Holder(bot, Path(folder) / "held", slow)], config=config)
    in_flight = attached(app, dispatcher).in_flight

    @dispatcher.message(Command("slow"))
    async def slow_handler(message: Message) -> None:
        await message.answer("working")
        await in_flight.draining.wait()
        await message.answer("done")

    @dispatcher.message(Command("stuck"))
    async def stuck_handler(message: Message) -> None:
        await message.answer("working")
        await in_flight.draining.wait()
        await message.answer("still working")
        await asyncio.Event().wait()

    deaf(app, dispatcher)
    if slow == "cancels":
        await cancel_and_go_on(app, run_polling(app, dispatcher, bot))
        asyncio.get_running_loop().run_in_executor(None, write, Path(folder) / "written")
        return
    with LastResort(60, list, (Path(folder) / "flushed").touch):  # as of a second bot
        await asyncio.gather(run_polling(app, dispatcher, bot), *second(token, beside))
    if slow == "no more threads":
        threading.Thread.start = refuse  # type: ignore[method-assign,assignment]  # as an ending interpreter
    if slow == "goes on":
        await bot.send_message(ADA, "going on")
        await bot.get_updates(timeout=30)
        await bot.session.close()


def second(token: str, urls: list[str]) -> list[Coroutine[Any, Any, None]]:
    """Return the run of another application, with a bot for each server; nothing without any."""
    if not urls:
        return []
    sessions = [AiohttpSession(api=TelegramAPIServer.from_base(url)) for url in urls]
    app = Application([], config={"app": {"journal": "memory"}})
    dispatcher = Dispatcher()

    @dispatcher.message()
    async def slow_handler(message: Message) -> None:
        await message.answer("working")
        await attached(app, dispatcher).in_flight.draining.wait()
        await message.answer("done")

    return [run_polling(app, dispatcher, *(Bot(token, each) for each in sessions))]


async def cancel_and_go_on(app: Application, polling: Coroutine[Any, Any, None]) -> None:
    """Cancel the run as soon as it has begun, and go on until nobody watches any more."""
    started = asyncio.Event()
    app.bus.subscribe("app.started", lambda _: started.set())
    running = asyncio.create_task(polling)
    await started.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    for thread in threading.enumerate():
        if thread.name == "last resort":
            await asyncio.to_thread(thread.join, 10)


def refuse(_: threading.Thread) -> None:
    """Start no thread."""
    raise RuntimeError("can't create new thread at interpreter shutdown")


def write(file: Path) -> None:
    """Take two seconds to write a file."""
    time.sleep(2)
    file.touch()


def serve() -> None:
    """Run a bot for each line."""
    for line in sys.stdin:
        arguments = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(arguments["folder"] + "/stderr", os.O_CREAT | os.O_WRONLY), 2)
            asyncio.run(main(**arguments))
            return
        print(pid, flush=True)  # noqa: T201 -- that is how it answers
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)  # noqa: T201 -- the same


if __name__ == "__main__":
    serve()
