"""Replicas of a bot that writes a ledger and answers; run by test_delivering_*.py.

The imports take seconds, so one process imports, and forks a replica for each line: the JSON of a
`Life`. Each line that is said begins with the number of a replica: its `pid`, its `ready` with the
port of its webhook, events of the plugin `delivery`, and `ended` with its exit code.

The ways `plain` and `early` go without the plugin: they answer after the unit, and inside of it.
"""

import asyncio
import gc
import json
import os
import secrets
import signal
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from random import random
from typing import Any, Final

from aiogram import Bot, Dispatcher, F
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.dispatcher.event.bases import SkipHandler
from aiogram.types import ErrorEvent, Message
from aiogram.webhook.aiohttp_server import SimpleRequestHandler, setup_application
from aiohttp import web
from sqlalchemy import text
from support.deaths import die
from support.mutations import MUTATIONS
from support.unreliable import FIRST

from db_manager import delivery
from db_manager.delivery import DeliveryPlugin
from db_manager.plugin import DatabasePlugin
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.application import Application
from lifecycle.bot import attach, run_polling

#: Seconds after which a replica that nobody ended is dead.
LONGEST: Final = 600
#: The number of a message that must never be sent.
PHANTOM: Final = 9
#: The topics of events that are told.
TOLD: Final = ("member.*", "update.parked", "update.repeated", "message.dead", "chat.*")
#: The exit code of a process that an update has ended.
DEADLY: Final = 3
_ENTRY: Final = text("INSERT INTO ledger (chat, key, unit) VALUES (:chat, :key, :unit)")


@dataclass
class Life:
    """What a replica is to be.

    Args:
        number: Its own.
        url: The database.
        api: Address of the Telegram.
        token: Of its bot.
        way: How it answers: `right`, with the plugin, or another way.
        keys: Of the section [delivery].
        database: Keys of the section [database].
        seconds: How long a handler takes at most.
        receives: `webhook` or `polling`.
        poison: Keys of updates that always fail.
        deadly: Key of the updates that end each process that handles one.
        doomed: From how many chats they come.
        dies: When it kills itself, as `before store`; see `support.deaths`.
        options: More arguments of `uow.send`.
        without: The guard that the plugin is without; see `support.mutations`.
    """

    number: int
    url: str
    api: str
    token: str
    way: str = "right"
    keys: dict[str, Any] = field(default_factory=dict)
    database: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    receives: str = "webhook"
    poison: list[int] = field(default_factory=list)
    deadly: int = 0
    doomed: int = 1
    dies: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    without: str = ""

    def say(self, line: str) -> None:
        """Write a line at once, in one piece."""
        os.write(1, f"{self.number} {line}\n".encode())


class ChangedMindError(Exception):
    """A block is left, and takes back what it has done."""


class PoisonError(Exception):
    """A handler fails whenever it gets this update."""


class Clerk:
    """Enters each update into the ledger, and answers it with one message or two.

    The text of an update is its key; that of a message is the key, the number of the message, and
    the unit that sends it, which is in the ledger if it was committed.

    Args:
        life: What the replica is to be.
    """

    def __init__(self, life: Life) -> None:
        self._life = life

    async def skip(self, message: Message, uow_factory: UnitOfWorkFactory) -> None:
        """Take back what was done with an update, and leave it to another handler."""
        await self._take_back(message, uow_factory, SkipHandler())

    async def handle(self, message: Message, uow_factory: UnitOfWorkFactory) -> None:
        """Handle an update; some of them change their mind before, or in between."""
        key = int(message.text or "")
        await asyncio.sleep(random() * self._life.seconds)
        if key in self._life.poison:
            raise PoisonError
        if key == self._life.deadly and message.chat.id < FIRST + self._life.doomed:
            os._exit(DEADLY)
        if key % 3 == 0:
            for error in (ChangedMindError(), asyncio.CancelledError()):
                with suppress(type(error)):
                    await asyncio.create_task(self._take_back(message, uow_factory, error))
        async with uow_factory() as uow:
            later = await self._write(uow, message, key, list(range(1 + key % 2)))
            if key % 5 == 0:
                with suppress(ChangedMindError):
                    async with uow.savepoint():
                        await self._write(uow, message, key, [PHANTOM])
                        raise ChangedMindError
        for answer in later:
            await answer

    async def fail(self, _: ErrorEvent) -> None:
        """Tell of an update that has failed."""
        self._life.say("event error")

    async def _take_back(
        self, message: Message, uow_factory: UnitOfWorkFactory, error: BaseException
    ) -> None:
        """Write and send in a unit that is left by an error."""
        async with uow_factory() as uow:
            await self._write(uow, message, int(message.text or ""), [PHANTOM])
            raise error

    async def _write(self, uow: Any, message: Message, key: int, numbers: list[int]) -> list[Any]:
        """Write the entry and send messages; return those that are still to be sent."""
        unit = secrets.token_hex(8)
        await uow.connection.execute(_ENTRY, {"chat": message.chat.id, "key": key, "unit": unit})
        if self._life.keys.get("broker"):
            entry = {"chat": message.chat.id, "key": key, "unit": unit}
            uow.publish("ledger.entered", entry, key=str(message.chat.id))
        answers = [message.answer(f"{key} {number} {unit}") for number in numbers]
        if self._life.way == "plain":
            return answers
        for answer in answers:
            if self._life.way == "early":
                await answer
            else:
                uow.send(answer, **self._life.options)
        return []


def application(life: Life) -> Application:
    """Return the application of a replica, which tells what its plugins tell."""
    config: dict[str, Any] = {
        "app": {"journal": "memory", "grace": 10.0, "drain": 2.0},
        "database": {
            "url": life.url,
            "application_name": f"replica_{life.number}",
            **life.database,
        },
    }
    plugins: list[Any] = [DatabasePlugin]
    if life.way == "right":
        config["delivery"] = life.keys
        plugins.append(DeliveryPlugin)
    app = Application(plugins, config=config)
    for topic in TOLD:
        app.bus.subscribe(topic, lambda event: life.say(f"event {event.topic}"))
    return app


async def main(life: Life) -> None:
    """Work until SIGTERM."""
    bot = Bot(life.token, AiohttpSession(api=TelegramAPIServer.from_base(life.api)))
    dispatcher = Dispatcher()
    clerk = Clerk(life)
    dispatcher.message.register(clerk.skip, F.text.endswith("7"))
    dispatcher.message.register(clerk.handle)
    dispatcher.errors.register(clerk.fail)
    app = application(life)
    if life.receives == "polling":
        app.bus.subscribe("app.started", lambda _: life.say("ready 1"))
        await run_polling(app, dispatcher, bot, polling_timeout=30)
        return
    attach(app, dispatcher)
    await serve_webhook(life, dispatcher, bot)


async def serve_webhook(life: Life, dispatcher: Dispatcher, bot: Bot) -> None:
    """Serve the webhook of a bot until SIGTERM."""
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    site = web.Application()
    setup_application(site, dispatcher, bot=bot)
    if life.way == "right" and life.keys.get("inbox"):
        site.router.add_post("/", delivery.webhook(bot))
    else:
        hook = SimpleRequestHandler(dispatcher, bot, handle_in_background=False)
        hook.register(site, path="/")
    runner = web.AppRunner(site, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    life.say(f"ready {runner.addresses[0][1]}")
    await told.wait()
    await runner.cleanup()


def live(life: Life) -> None:
    """Be a replica, in a process of its own."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.alarm(LONGEST)
    if life.without:
        MUTATIONS[life.without]()
    if life.dies:
        die(life.dies)
    try:
        asyncio.run(main(life))
    except BaseException:  # noqa: BLE001 -- it is printed, and the process ends
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # the interpreter would take a second to tear aiogram's classes down


def serve() -> None:
    """Fork a replica for each line, and tell how each of them ended."""
    numbers: dict[int, int] = {}

    def bury(*_: object) -> None:
        while numbers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            code = os.waitstatus_to_exitcode(status)
            os.write(1, f"{numbers.pop(pid)} ended {code}\n".encode())

    signal.signal(signal.SIGCHLD, bury)
    gc.freeze()
    for line in sys.stdin:
        life = Life(**json.loads(line))
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid:
            numbers[pid] = life.number
            life.say(f"pid {pid}")
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        if not pid:
            live(life)


if __name__ == "__main__":
    serve()
