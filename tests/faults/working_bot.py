"""A bot that works with its database until it is ended; run by test_ended_bots.py.

The imports take seconds, so one process imports and is forked for each life: it reads a line for
each, the JSON of the arguments of `main`. The child writes its pid, `crashed RUN` when it heard of
a dead run, `ready` when it works; the parent writes `ended CODE` after it.
"""

import asyncio
import json
import os
import resource
import sys
import traceback
from pathlib import Path

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from sqlalchemy import text

from db_manager.plugin import DatabasePlugin
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.application import Application
from lifecycle.bot import run_polling
from lifecycle.errors import JournalError
from lifecycle.events import AppCrashed
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.plugin import Plugin

#: Units that must go on after the disk of the journal is full.
UNITS = 100


class QuickSession(AiohttpSession):
    """aiogram's session without its pause of 250 ms for TLS connections."""

    async def close(self) -> None:
        """Close at once."""
        if self._session is not None:
            await self._session.close()


class Work(Plugin):
    """Does one unit after the other; may fill the disk of the journal first.

    Args:
        full_disk: The journal, when no file may grow beyond its log.
    """

    name = "work"
    requires = ("db_manager",)

    def __init__(self, full_disk: Path | None) -> None:
        self._full_disk = full_disk

    async def start(self, context: PluginContext) -> None:
        """Begin when all plugins are started."""
        begun = asyncio.Event()
        context.subscribe("app.started", lambda _event: begun.set())
        context.spawn(self._work(context, begun))

    async def _work(self, context: PluginContext, begun: asyncio.Event) -> None:
        units: UnitOfWorkFactory = context.services["db_manager:uow_factory"]
        await begun.wait()
        say("ready")
        if self._full_disk is not None:
            limit = self._full_disk.with_name(self._full_disk.name + "-wal").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            context.degraded("the disk is full")
        done = 0
        while True:
            async with units() as uow:
                await uow.session.execute(text("INSERT INTO t VALUES (1)"))
            done += 1
            if done == UNITS and self._full_disk is not None:
                say(f"units {done}")


async def main(api: str, token: str, url: str, journal: str, *, full_disk: bool) -> None:
    """Run the bot until it is ended."""
    config = {
        "app": {"journal": journal, "grace": 6.0, "drain": 1.0},
        "database": {"url": url, "application_name": "working_bot"},
    }
    app = Application([DatabasePlugin(), Work(Path(journal) if full_disk else None)], config=config)
    app.bus.subscribe("app.crashed", _report)
    bot = Bot(token, QuickSession(api=TelegramAPIServer.from_base(api)))
    try:
        await run_polling(app, Dispatcher(), bot)
    except* JournalError as group:
        say(f"journal errors {len(group.exceptions)}")


def _report(event: AppCrashed) -> None:
    say(f"crashed {event.run}")


def say(line: str) -> None:
    """Write a line at once, in one piece."""
    os.write(1, f"{line}\n".encode())


def serve() -> None:
    """Run a life for each line."""
    for line in sys.stdin:
        arguments = json.loads(line)
        pid = os.fork()
        if pid == 0:
            say(str(os.getpid()))
            try:
                asyncio.run(main(**arguments))
            except BaseException:  # noqa: BLE001 -- it is printed, and the process ends
                traceback.print_exc()
                os._exit(1)
            os._exit(0)  # the interpreter would take a second to tear aiogram's classes down
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        say(f"ended {code}")


if __name__ == "__main__":
    serve()
