"""Kills the bot with SIGKILL between a COMMIT and the answer to it; the next process answers."""

import asyncio
import os
import signal
import sqlite3
import traceback
from contextlib import closing
from pathlib import Path

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer

from db_manager.events import UnitCommitted
from examples.notes_bot.screen import Entry, said
from lifecycle import Application, MemoryJournal
from lifecycle.bot import run_polling
from lifecycle.config import app_config, find_plugins, read_file
from lifecycle.testing import BotApiServer

ROOT = Path(__file__).parents[2]
#: Seconds until this gives up, on the slowest of machines.
PATIENCE = 60


def application(config_toml: Path) -> Application:
    """Return the bot, with an inbox: an update that comes a second time does nothing.

    Args:
        config_toml: Its configuration, beside its database.
    """
    config = read_file(config_toml)
    config["delivery"] = {**config["delivery"], "inbox": True}
    plugins = find_plugins(app_config(config).plugins, ROOT)
    return Application(plugins, config=config, journal=MemoryJournal(), folder=config_toml.parent)


class Victim:
    """A process of the bot that will be killed: it waits until it is told where Telegram is.

    It is forked, before there are threads: all it needs is imported then, so it starts at once.
    """

    def __init__(self) -> None:
        reader, self._writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._writer)
            with os.fdopen(reader, encoding="utf-8") as told:
                given = told.read().split("\n")
            if len(given) > 1:  # else the demo has failed before it
                _be_killed(Path(given[0]), *given[1:3])
            os._exit(1)
        os.close(reader)

    async def meet(self, config_toml: Path, telegram: BotApiServer) -> None:
        """Let it be the bot until it is killed.

        Raises:
            RuntimeError: It came to another end.
        """
        os.write(self._writer, f"{config_toml}\n{telegram.url}\n{telegram.token}\n".encode())
        os.close(self._writer)
        ended = asyncio.create_task(asyncio.to_thread(os.waitpid, self.pid, 0))
        await asyncio.wait({ended}, timeout=PATIENCE)
        if not ended.done():
            os.kill(self.pid, signal.SIGTERM)
        code = os.waitstatus_to_exitcode((await ended)[1])
        if code != -signal.SIGKILL:
            log = config_toml.with_name("killed.log").read_text(encoding="utf-8")
            raise RuntimeError(f"the process ended with {code}: {log}")


def _be_killed(config_toml: Path, url: str, token: str) -> None:
    """Be the bot, for the time of a unit."""
    with config_toml.with_name("killed.log").open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 2)
        try:
            app = application(config_toml)
            app.bus.subscribe("uow.commit", _kill)
            session = AiohttpSession(api=TelegramAPIServer.from_base(url))
            asyncio.run(run_polling(app, Dispatcher(), Bot(token, session)))
        except BaseException:  # noqa: BLE001 -- the demo shows it
            traceback.print_exc(file=log)


def _kill(_: UnitCommitted) -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # the COMMIT is answered, and Telegram not yet asked


async def killed(victim: Victim, config_toml: Path) -> list[Entry]:
    """Say something to a bot that is killed, and start it again.

    Args:
        victim: Its process.
        config_toml: The configuration of the bot, beside its database.

    Returns:
        What was said, and what happened.

    Raises:
        RuntimeError: The process was not killed; it says what its end was.
        NoReplyError: The answer did not come.
    """
    async with BotApiServer() as telegram:
        ada = telegram.user(7, "Ada")
        await ada.say("/note tea")
        telegram.log("process", f"{victim.pid} starts")
        await victim.meet(config_toml, telegram)
        notes, answers = _left(config_toml.with_name("bot.sqlite3"))
        left = f"its database holds {notes} note of tea, and {answers} answer that nobody has sent"
        telegram.log("kill -9", f"{victim.pid} is gone: {left}")
        app, dispatcher = application(config_toml), Dispatcher()
        session = AiohttpSession(api=TelegramAPIServer.from_base(telegram.url))
        telegram.log("process", f"{os.getpid()} starts")
        async with asyncio.TaskGroup() as group:
            group.create_task(run_polling(app, dispatcher, Bot(telegram.token, session)))
            await ada.reply(timeout=PATIENCE)
            await dispatcher.stop_polling()
        return [said(line.at, line.who, line.what) for line in telegram.transcript]


def _left(database: Path) -> tuple[int, int]:
    """Return how many notes were kept, and how many answers are open."""
    with closing(sqlite3.connect(database)) as connection:
        kept = connection.execute("SELECT id FROM notes__note WHERE text = 'tea'").fetchall()
        open_ = connection.execute("SELECT id FROM delivery__outbox WHERE state = 0").fetchall()
    return len(kept), len(open_)
