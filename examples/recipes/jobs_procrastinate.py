"""Jobs by procrastinate: queued and done by units. PostgreSQL, psycopg.

A job is a row of the transaction, so there is none without its order and no order without it. What
it changes and says is one unit too: a job whose process has died is begun anew, which procrastinate
leaves to you (`revive`), and finds then whether it is done. It has a pool of its own connections.

    pip install procrastinate
    BOT_TOKEN=… DATABASE__URL=postgresql+psycopg://… python jobs_procrastinate.py  # then /order tea
"""

import asyncio
import logging
import os
from contextlib import suppress

from aiogram import Bot, Dispatcher
from aiogram.filters import Command, CommandObject
from aiogram.methods import SendMessage
from aiogram.types import Message
from procrastinate import App, JobContext, PsycopgConnector, RetryStrategy
from procrastinate.exceptions import ConnectorException
from sqlalchemy import BigInteger
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from db_manager import Base, DatabasePlugin, UnitOfWorkFactory
from db_manager.delivery import DeliveryPlugin
from lifecycle import Application, Plugin, PluginContext
from lifecycle.bot import run_polling

log = logging.getLogger(__name__)
jobs = App(connector=PsycopgConnector())


class Order(Base):
    """What somebody has ordered: one of each good."""

    __tablename__ = "orders__order"

    chat_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    good: Mapped[str] = mapped_column(primary_key=True)
    is_ready: Mapped[bool] = mapped_column(default=False)


async def order(message: Message, command: CommandObject, uow_factory: UnitOfWorkFactory) -> None:
    """/order tea."""
    chat_id, good = message.chat.id, command.args or "tea"
    try:
        async with uow_factory() as uow:
            job = make.configure(connection=await uow.driver())
            await job.defer_async(chat_id=chat_id, good=good)
            uow.session.add(Order(chat_id=chat_id, good=good))
            uow.send(message.answer(f"We make {good}."))
    except IntegrityError:
        await message.answer(f"You have ordered {good} already.")


@jobs.task(name="make", pass_context=True, retry=RetryStrategy(max_attempts=5, exponential_wait=2))
async def make(context: JobContext, chat_id: int, good: str) -> None:
    """Make what was ordered, and say so."""
    async with context.additional_context["uow_factory"]() as uow:
        made = await uow.session.get_one(Order, (chat_id, good), with_for_update=True)
        if not made.is_ready:  # else its process died after the commit
            made.is_ready = True
            uow.send(SendMessage(chat_id=chat_id, text=f"Your {good} is ready."))


class JobsPlugin(Plugin):
    """Does jobs, and begins anew after an outage of the database."""

    name = "jobs"
    requires = ("db_manager", "delivery")

    async def start(self, context: PluginContext) -> None:
        """Create procrastinate's tables where they are missing, and begin with the jobs."""
        url = context.services["db_manager:engine"].url.set(drivername="postgresql")
        there = PsycopgConnector(conninfo=url.render_as_string(hide_password=False))
        await context.enter(jobs.replace_connector(there))
        await context.enter(jobs.open_async())
        if (
            not await jobs.check_connection_async()
        ):  # before replicas: `procrastinate schema --apply`
            await jobs.schema_manager.apply_schema_async()
        self.uow_factory = context.services["db_manager:uow_factory"]
        self.working = context.spawn(self.work(), "jobs")

    async def work(self) -> None:
        """Do jobs until the stop, and again after an outage of the database."""
        given = {"uow_factory": self.uow_factory}
        while True:
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(revive())
                    both.create_task(
                        jobs.run_worker_async(
                            install_signal_handlers=False, additional_context=given
                        )
                    )
            except* ConnectorException as errors:
                log.warning("no jobs for a second: %s", errors.exceptions)
                await asyncio.sleep(1)

    async def stop(self, context: PluginContext) -> None:
        """Take no more jobs, and wait for those that are being done."""
        self.working.cancel()
        with suppress(asyncio.CancelledError):
            await self.working


async def revive() -> None:
    """Queue again what those were doing who have given no sign of life for 30 seconds."""
    while True:
        for job in await jobs.job_manager.get_stalled_jobs():
            await jobs.job_manager.retry_job(job)
        await asyncio.sleep(10)


async def main() -> None:
    """Poll until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO)
    dispatcher = Dispatcher()
    dispatcher.message.register(order, Command("order"))
    app = Application([DatabasePlugin, DeliveryPlugin, JobsPlugin])
    await run_polling(app, dispatcher, Bot(os.environ["BOT_TOKEN"]))


if __name__ == "__main__":
    asyncio.run(main())
