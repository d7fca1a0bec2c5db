"""Runs the bot: on Telegram with BOT_TOKEN, else offline with a scripted chat, and shows it."""

import asyncio
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
from contextlib import chdir, closing, redirect_stderr
from pathlib import Path

from aiogram import Bot, Dispatcher, Router
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.filters import Command
from aiogram.types import Message

from db_manager import UnitOfWorkFactory
from examples.notes_bot.notes import Note
from examples.notes_bot.screen import Entry, Screen, happened, said
from lifecycle import AppDrained, Application, AppStarted, Event, replay
from lifecycle.bot import run_polling
from lifecycle.testing import BotApiServer
from observability import timeline
from observability.story.unit_log import TOPICS, UnitFact, unit_fact

CONFIG = Path(__file__).parents[2] / "config.toml"


def main() -> None:
    """Run the bot."""
    token = os.environ.get("BOT_TOKEN")
    if token:
        bot = Bot(token)
        asyncio.run(run_polling(Application.from_config(CONFIG), Dispatcher(), bot))
    else:
        demo()


def demo() -> None:
    """Run the bot offline, in a folder that is thrown away, and show what happened."""
    for variable in [name for name in os.environ if name.upper().startswith("DATABASE__")]:
        del os.environ[variable]  # they win over config.toml, and may lead to a database of yours
    screen = Screen()
    print(
        "The bot of examples/notes_bot runs against a local Telegram: aiogram, SQLite and HTTP are "
        "real,\nonly the address is another one. It starts, chats, and is told to stop while a "
        "handler works …",
        flush=True,
    )
    entries: list[Entry] = []
    page = Path("timeline.html").absolute()
    with tempfile.TemporaryDirectory() as name, chdir(name):
        folder = Path(name)
        shutil.copy(CONFIG, folder)
        log = folder / "log"
        try:
            with log.open("w", encoding="utf-8") as stream, redirect_stderr(stream):
                facts = asyncio.run(offline(folder / "config.toml", entries, page))
        except BaseException:
            sys.stderr.write(log.read_text("utf-8"))
            raise
        finally:
            screen.show(entries)
        screen.title(("What that was", screen.width))
        for fact in (*facts, *_kept(folder / "bot.sqlite3")):
            print(f"  {screen.paint('✓', 'green')} {fact}")
        line = next(line for line in log.read_text("utf-8").splitlines() if '"RuntimeError' in line)
        screen.title(
            ("The log line of the failed unit, as it is written for machines", screen.width)
        )
        print(f"  {line}")
        screen.title(("Next", screen.width))
        print(
            f"  {page.name:<25}this run as a picture: open it in a browser\n"
            "  BOT_TOKEN=… make demo    the same bot on Telegram\n"
            "  make test                the tests, on SQLite and PostgreSQL\n"
            "  examples/notes_bot/      two plugins to copy; config.toml says what runs"
        )


async def offline(config: Path, entries: list[Entry], page: Path) -> list[str]:
    """Run the bot against a Bot API server of our own until it is told to stop.

    Args:
        config: The configuration.
        entries: Gets what was said and what happened.
        page: Where the timeline of the run is written.

    Returns:
        What the run has shown.
    """
    async with BotApiServer() as telegram:
        app = Application.from_config(config)
        drained: list[AppDrained] = []
        started = asyncio.Event()
        units: list[UnitFact] = []

        def watch(event: Event) -> None:
            if isinstance(event, AppDrained):
                drained.append(event)
            elif isinstance(event, AppStarted):
                started.set()
            if event.topic in TOPICS:
                units.append(unit_fact(event, app.bus.run))
            entry = happened(telegram.clock(), event)
            if entry is not None:
                entries.append(entry)

        slow = Slow()
        dispatcher = Dispatcher()
        dispatcher.include_router(slow.router)
        session = AiohttpSession(api=TelegramAPIServer.from_base(telegram.url))
        try:
            with app.bus.subscribe(">", watch):
                async with asyncio.TaskGroup() as group:
                    group.create_task(run_polling(app, dispatcher, Bot(telegram.token, session)))
                    group.create_task(chat(telegram, started, slow))
        finally:
            entries += [said(line.at, line.who, line.what) for line in telegram.transcript]
    timeline.write(app.journal.entries(), page, units)
    states = ", ".join(f"{name} {state}" for name, state in replay(app.journal.entries()).items())
    update = drained[0]
    return [
        (
            f"SIGTERM found {update.waited} update in flight: it was waited for, "
            f"{len(update.cancelled)} were cut off; then the plugins stopped, in reverse."
        ),
        f"The journal alone gives the states: {states}.",
    ]


class Slow:
    """A handler of the bot itself, outside of any plugin, that is busy when the bot is stopped."""

    def __init__(self) -> None:
        self.working = asyncio.Event()
        self.router = Router(name="slow")
        self.router.message.register(self.slow, Command("slow"))

    async def slow(self, message: Message, uow_factory: UnitOfWorkFactory) -> None:
        """/slow."""
        async with uow_factory() as uow:
            uow.session.add(Note(chat_id=message.chat.id, text="worth the wait"))
            await uow.session.flush()
            self.working.set()
            await asyncio.sleep(0.4)
        await message.answer("Slow, but committed.")


async def chat(telegram: BotApiServer, started: asyncio.Event, slow: Slow) -> None:
    """Let two people talk to the bot, then stop it as a container would."""
    ada, grace = telegram.user(7, "Ada"), telegram.user(8, "Grace")
    await started.wait()
    for user, text in (
        (ada, "/note milk"),
        (ada, "/note bread"),
        (grace, "/note call Ada"),
        (ada, "/list"),
        (ada, "/boom"),
        (ada, "/list"),
        (ada, "/drop 1"),
        (grace, "/stats"),
    ):
        await user.say(text)
        await user.reply()
    await grace.say("/slow")
    await slow.working.wait()
    telegram.log("signal", "SIGTERM, while /slow is at work")
    os.kill(os.getpid(), signal.SIGTERM)
    await grace.reply()


def _kept(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT text FROM notes__note ORDER BY id").fetchall()
    texts = [text for (text,) in rows]
    kept = "is there" if "never seen" in texts else "is not among them"
    return [f"The table holds {', '.join(texts)}; what /boom wrote {kept}."]


if __name__ == "__main__":
    main()
