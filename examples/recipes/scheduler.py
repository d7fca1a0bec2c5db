"""APScheduler as a plugin: jobs that run when the bot is told to stop are waited for.

`scheduler.shutdown()` cancels coroutines, whatever its `wait` says: a reminder would be sent, not
deleted, and sent again after the next start. So the plugin counts its jobs and waits for them. What
to send is in a table of the bot, not in a job store: it is committed with the rest.

    BOT_TOKEN=… python scheduler.py    # then /remind 5 tea
"""

import asyncio
import logging
import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from aiogram import Bot, Dispatcher
from aiogram.exceptions import TelegramForbiddenError
from aiogram.filters import Command, CommandObject
from aiogram.types import Message
from apscheduler import events
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from sqlalchemy import BigInteger, DateTime, Text, delete, select
from sqlalchemy.orm import Mapped, mapped_column

from db_manager import Base, DatabasePlugin, UnitOfWorkFactory
from lifecycle import Application, Plugin, PluginContext
from lifecycle.bot import run_polling

BEGUN = events.EVENT_JOB_SUBMITTED
ENDED = events.EVENT_JOB_EXECUTED | events.EVENT_JOB_ERROR | events.EVENT_JOB_MISSED


class Reminder(Base):
    """What to remind somebody of, and when (UTC)."""

    __tablename__ = "reminders__reminder"

    id: Mapped[int] = mapped_column(primary_key=True)
    chat_id: Mapped[int] = mapped_column(BigInteger)
    due: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)
    text: Mapped[str] = mapped_column(Text)


async def remind(bot: Bot, uow_factory: UnitOfWorkFactory) -> None:
    """Send what is due. No unit is open while Telegram is slow."""
    due = select(Reminder).where(Reminder.due <= datetime.now(UTC)).order_by(Reminder.due)
    async with uow_factory(read_only=True) as uow:
        reminders = (await uow.session.scalars(due)).all()
    for reminder in reminders:
        with suppress(TelegramForbiddenError):  # who has blocked the bot wants none
            await bot.send_message(reminder.chat_id, reminder.text)
        async with uow_factory() as uow:
            await uow.session.execute(delete(Reminder).where(Reminder.id == reminder.id))


class SchedulerPlugin(Plugin):
    """Runs jobs, and lets them finish before the database closes."""

    name = "scheduler"
    requires = ("db_manager",)

    async def start(self, context: PluginContext) -> None:
        """Begin with the jobs."""
        self.running, self.idle = 0, asyncio.Event()
        self.idle.set()
        self.scheduler = AsyncIOScheduler()
        self.scheduler.add_listener(self.count, BEGUN | ENDED)
        services = context.services
        given = [services["aiogram:bot"], services["db_manager:uow_factory"]]
        late = {"coalesce": True, "misfire_grace_time": None}  # is better than never
        self.scheduler.add_job(remind, "interval", given, seconds=1, **late)
        self.scheduler.start()

    def count(self, event: Any) -> None:
        """Follow how many jobs run."""
        self.running += len(event.scheduled_run_times) if event.code == BEGUN else -1
        self.idle.set() if self.running == 0 else self.idle.clear()

    async def stop(self, context: PluginContext) -> None:
        """Begin no job any more, and wait for those that run."""
        self.scheduler.pause()
        try:
            await self.idle.wait()
        finally:
            self.scheduler.shutdown()  # cancels what runs when the time for the stop is over


async def keep(message: Message, command: CommandObject, uow_factory: UnitOfWorkFactory) -> None:
    """/remind 5 tea."""
    minutes, _, text = (command.args or "").partition(" ")
    if not (minutes.isdecimal() and len(minutes) < 6 and text):  # noqa: PLR2004 -- two months
        await message.answer("Write /remind, minutes and what of: /remind 5 tea.")
        return
    due = datetime.now(UTC) + timedelta(minutes=int(minutes))
    async with uow_factory() as uow:
        uow.session.add(Reminder(chat_id=message.chat.id, due=due, text=text))
    await message.answer("I will.")


async def main() -> None:
    """Poll until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("apscheduler.executors").setLevel(logging.WARNING)  # a line for each run
    dispatcher = Dispatcher()
    dispatcher.message.register(keep, Command("remind"))
    app = Application([DatabasePlugin, SchedulerPlugin])
    await run_polling(app, dispatcher, Bot(os.environ["BOT_TOKEN"]))


if __name__ == "__main__":
    asyncio.run(main())
