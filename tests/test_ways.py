"""Who reads what happens is not sent through too many files: ways of calls, and their length."""

import asyncio

import pytest
from aiogram import Bot, Dispatcher, Router
from aiogram.types import Message, Update
from sqlalchemy import ForeignKey
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support.ways import Way, walked

from db_manager.engine.given_up import IS_OLD
from db_manager.plugin import DatabasePlugin
from db_manager.running.fast.timers import CoarseTimers
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.application import Application
from lifecycle.bot import attach
from lifecycle.errors import PluginFailedError
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.plugin import Plugin

#: What a reader of the plain runner is asked for at most; `running.fast` may be skipped.
MOST_FILES, MOST_CHANGES = 16, 60
if IS_OLD:  # for SQLAlchemy 2.0 there is a step more, in a file of its own
    MOST_FILES, MOST_CHANGES = 17, 62

BOT = Bot("42:offline")


class Own(DeclarativeBase):
    """Not the Base of the plugins: not every database has deferred constraints."""


class Folder(Own):
    """A folder."""

    __tablename__ = "ways__folder"

    id: Mapped[int] = mapped_column(primary_key=True)


class Page(Own):
    """A page, whose folder is looked for at COMMIT."""

    __tablename__ = "ways__page"

    id: Mapped[int] = mapped_column(primary_key=True)
    folder: Mapped[int] = mapped_column(
        ForeignKey(Folder.id, deferrable=True, initially="DEFERRED")
    )


def message(text: str) -> Update:
    """Return an update with a message."""
    chat = {"id": 7, "type": "private"}
    content = {"message_id": 1, "date": 0, "chat": chat, "text": text}
    return Update.model_validate({"update_id": 1, "message": content})


class Bench:
    """A bot that writes a page into the folder that a message names."""

    def __init__(self, database: URL) -> None:
        self.dispatcher = Dispatcher()
        router = Router()
        router.message.register(self.save)
        self.dispatcher.include_router(router)
        url = database.render_as_string(hide_password=False)
        # No timer of a slow unit runs into the walk.
        section = {"url": url, "slow_unit": 60.0}
        config = {"app": {"journal": "memory"}, "database": section}
        self.app = Application([DatabasePlugin()], config=config)
        attach(self.app, self.dispatcher)

    async def save(self, message: Message, uow_factory: UnitOfWorkFactory) -> None:
        """Write a page."""
        async with uow_factory() as uow:
            uow.session.add(Page(folder=int(message.text or "")))

    async def refused(self) -> Way:
        """Return the way of an update whose COMMIT the database refuses.

        One that is committed goes before it: it opens the connection, and fills the caches.
        """
        await self.dispatcher.emit_startup()
        try:
            async with self.app.services["db_manager:engine"].begin() as connection:
                await connection.run_sync(Own.metadata.create_all)
            async with UnitOfWorkFactory(self.app.services["db_manager:engine"])() as uow:
                uow.session.add(Folder(id=1))
            await self.dispatcher.feed_update(BOT, message("1"))
            update = message("4711")
            with walked() as way, pytest.raises(IntegrityError):
                await self.dispatcher.feed_update(BOT, update)
        finally:
            await self.dispatcher.emit_shutdown()
        return way


async def test_a_refused_commit_is_read_in_few_files(database_url: URL, runner: str) -> None:
    """An update whose unit fails at COMMIT enters 16 files and changes file 60 times, at most."""
    way = await Bench(database_url).refused()
    print(f"\n{way}\n{runner} runner: {len(way.files)} files, {way.changes} changes of file")  # noqa: T201 -- the numbers are read
    if runner == "plain":
        assert len(way.files) <= MOST_FILES
        assert way.changes <= MOST_CHANGES
        assert not any("/fast/" in file for file in way.files)


async def test_greenlets_are_seen_and_other_threads_are_not(
    sqlite_database: URL, runner: str
) -> None:
    """A way shows what the runner calls in its greenlets, and nothing of the driver's thread."""
    way = await Bench(sqlite_database).refused()
    called = [step.function for step in way.steps]
    assert "Transaction.commit_by" in called, runner
    assert "SqliteConnection.commit" in called
    assert not any(function.startswith("InThread.") for function in called)


class Hanging(Plugin):
    """A plugin whose start never ends."""

    name = "hanging"
    start_timeout = 0.05

    async def start(self, context: PluginContext) -> None:
        """Wait for nothing."""
        del context
        await asyncio.Event().wait()


class Waiting(Plugin):
    """A plugin that starts before it, and is taken back."""

    name = "waiting"


async def test_a_hanging_start_goes_one_way() -> None:
    """While a start hook hangs until its deadline, no room calls one above it."""
    app = Application([Waiting(), Hanging()], config={"app": {"journal": "memory"}})
    await app.load()
    with walked() as way, pytest.raises(PluginFailedError, match="did not end within"):
        await app.start()
    await app.unload()
    print(f"\n{len(way.files)} files, {way.changes} changes of file")  # noqa: T201 -- the numbers are read
    assert "ManagedPlugin.start" in {step.function for step in way.steps}
    assert way.backwards() == []


async def test_a_moment_that_comes_meanwhile_is_no_part_of_a_way() -> None:
    """That a moment is reached is not noted; what was wanted at that moment is."""
    reached = asyncio.Event()
    CoarseTimers.current().call_later(0.0, reached.set)
    with walked() as way:
        await reached.wait()
    assert [step.function for step in way.steps] == ["Timer.call"]


def test_the_block_leaves_the_profiler_as_it_was() -> None:
    """What is called after the block is not noted."""
    with walked() as way:
        message("1")
    noted = len(way.steps)
    Application([], config={"app": {"journal": "memory"}})
    assert len(way.steps) == noted
