"""Runs the bot: on Telegram with BOT_TOKEN, else offline with a scripted chat, and shows it."""

import asyncio
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, closing, redirect_stderr
from io import StringIO
from pathlib import Path

from aiogram import Bot, Dispatcher, Router
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.filters import Command
from aiogram.types import Message

from db_manager import Base, DatabaseConfig, UnitOfWorkFactory
from db_manager.events import Migrated
from db_manager.migrations.history import find
from db_manager.migrations.move import upgrade
from examples.notes_bot.killed import Victim, killed
from examples.notes_bot.notes import Note
from examples.notes_bot.screen import Entry, Screen, happened, said
from lifecycle import (
    AppDrained,
    Application,
    AppStarted,
    Event,
    Journal,
    JournalError,
    MemoryJournal,
    SqliteJournal,
    replay,
)
from lifecycle.bot import run_polling
from lifecycle.config import app_config, find_plugins, read_file
from lifecycle.testing import BotApiServer

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
    """Run the bot offline and show what happened.

    Its database is thrown away. Its history is a further run where config.toml keeps it, unless
    another bot writes that history, or nothing can be written there.
    """
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
    after: list[Entry] = []
    log = StringIO()
    kept: Path | None = getattr(Application.from_config(CONFIG).journal, "path", None)
    victim = Victim()
    why_not = "[app] journal in config.toml keeps no history"
    facts: list[str] = []
    try:
        with redirect_stderr(log):
            try:
                facts = play(
                    SqliteJournal(kept) if kept else MemoryJournal(), entries, victim, after
                )
            except* JournalError as errors:
                kept, why_not = None, _first(errors)
            if not facts:
                entries.clear()
                facts = play(MemoryJournal(), entries, victim, after)
    except BaseException:
        sys.stderr.write(log.getvalue())
        raise
    finally:
        screen.show(entries)
    screen.tell("kill -9 between a COMMIT and the answer", after)
    screen.title(("What that was", screen.width))
    for fact in facts:
        print(f"  {screen.paint('✓', 'green')} {fact}")
    if kept is None:
        print(f"  {screen.paint('!', 'yellow')} The history of this run is kept nowhere: {why_not}")
    line = next(line for line in log.getvalue().splitlines() if '"RuntimeError' in line)
    screen.title(("The log line of the failed unit, as it is written for machines", screen.width))
    print(f"  {line}")
    screen.title(("Next", screen.width))
    for what, why in (steps := dict(_next(kept))).items():
        print(f"  {what:<{max(map(len, steps))}}    {why}")


def play(journal: Journal, entries: list[Entry], victim: Victim, after: list[Entry]) -> list[str]:
    """Run the bot of config.toml offline, in a folder that is thrown away, and then kill it.

    Args:
        journal: Where its history is kept.
        entries: Gets what was said and what happened.
        victim: The process that is killed.
        after: Gets what was said while it was killed, and after that.

    Returns:
        What the run has shown.
    """
    with tempfile.TemporaryDirectory() as name, chdir(name):
        copied = Path(shutil.copy(CONFIG, name))
        config = read_file(copied)
        plugins = find_plugins(app_config(config).plugins, CONFIG.parent)
        app = Application(plugins, config=config, journal=journal)
        asyncio.run(older(Path(name, "bot.sqlite3")))
        facts = asyncio.run(offline(app, entries))
        after += asyncio.run(killed(victim, copied))
        told = "Killed with -9 after its COMMIT, the bot owed an answer: the next process gave it."
        return [*facts, told, *_noted(Path(name, "bot.sqlite3"))]


async def older(database: Path) -> None:
    """Make the database of the bot's last version, in which Ada has a note that cannot be done.

    Args:
        database: Its file.
    """
    notes = find(Base.metadata)["notes"]
    await upgrade(DatabaseConfig(database=str(database)), [notes], target="0001")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("INSERT INTO notes__note (chat_id, text) VALUES (7, 'eggs')")


async def offline(app: Application, entries: list[Entry]) -> list[str]:
    """Run a bot against a Bot API server of our own until it is told to stop.

    Args:
        app: The application.
        entries: Gets what was said and what happened.

    Returns:
        What the run has shown.
    """
    async with BotApiServer() as telegram:
        drained: list[AppDrained] = []
        migrated: list[Migrated] = []
        started = asyncio.Event()

        def watch(event: Event) -> None:
            if isinstance(event, AppDrained):
                drained.append(event)
            elif isinstance(event, Migrated):
                migrated.append(event)
            elif isinstance(event, AppStarted):
                started.set()
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
    history = app.journal.entries(app.journal.run)
    states = ", ".join(f"{name} {state}" for name, state in replay(history).items())
    update, step = drained[0], migrated[0]
    return [
        (
            f"The database was that of the bot's last version, with a note in it: the start "
            f"applied {step.revision}."
        ),
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
        (ada, "/done 1"),
        (ada, "/list"),
        (ada, "/boom"),
        (ada, "/list"),
        (ada, "/drop 2"),
        (grace, "/stats"),
    ):
        await user.say(text)
        await user.reply()
    await grace.say("/slow")
    await slow.working.wait()
    telegram.log("signal", "SIGTERM, while /slow is at work")
    os.kill(os.getpid(), signal.SIGTERM)
    await grace.reply()


def _first(errors: BaseExceptionGroup[JournalError]) -> str:
    """Return the text of the first error in a group of groups."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)


def _next(kept: Path | None) -> Iterator[tuple[str, str]]:
    """Yield commands and files to go on with, each with what it is for."""
    if kept is not None:
        command = "db-manager"
        if shutil.which(command) is None:  # the virtual environment is not active
            command = os.path.relpath(Path(sys.executable).with_name(command))
        yield f"{command} trace", f"this run step by step, from {kept.name}"
        yield f"{command} timeline", "this run as a picture: timeline.html, for a browser"
    yield "BOT_TOKEN=… make demo", "the same bot on Telegram"
    yield "make test", "the tests, on SQLite and PostgreSQL"
    yield "examples/notes_bot/", "two plugins to copy; config.toml says what runs"


def _noted(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT text FROM notes__note ORDER BY id").fetchall()
    texts = [text for (text,) in rows]
    kept = "is there" if "never seen" in texts else "is not among them"
    return [f"The table holds {', '.join(texts)}; what /boom wrote {kept}."]


if __name__ == "__main__":
    main()
