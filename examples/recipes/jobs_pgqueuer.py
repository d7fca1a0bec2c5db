"""Jobs by pgqueuer: queued and done by units. PostgreSQL, asyncpg.

A job is a row of the transaction, so there is none without its order and no order without it. What
it changes and says is one unit too: pgqueuer begins a job anew when its process has died, and finds
that it is done. It has one connection besides those of the pool.

    pip install pgqueuer
    BOT_TOKEN=… DATABASE__URL=postgresql://… python jobs_pgqueuer.py    # then /order tea
"""

import asyncio
import logging
import os
from typing import Any

import asyncpg
from aiogram import Bot, Dispatcher
from aiogram.filters import Command, CommandObject
from aiogram.methods import SendMessage
from aiogram.types import Message
from pgqueuer import AsyncpgDriver, DatabaseRetryEntrypointExecutor, Job, PgQueuer, Queries
from sqlalchemy import BigInteger
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from db_manager import Base, DatabasePlugin, UnitOfWorkFactory
from db_manager.delivery import DeliveryPlugin
from lifecycle import Application, Plugin, PluginContext
from lifecycle.bot import run_polling

log = logging.getLogger(__name__)

#: A job that fails is tried again later, and kept after the last time.
KEPT: Any = {"executor_factory": DatabaseRetryEntrypointExecutor, "on_failure": "hold"}


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
            queries = Queries(AsyncpgDriver(await uow.driver()))
            await queries.enqueue("make", f"{chat_id} {good}".encode())
            uow.session.add(Order(chat_id=chat_id, good=good))
            uow.send(message.answer(f"We make {good}."))
    except IntegrityError:
        await message.answer(f"You have ordered {good} already.")


class JobsPlugin(Plugin):
    """Does jobs, and begins anew after an outage of the database."""

    name = "jobs"
    requires = ("db_manager", "delivery")

    async def start(self, context: PluginContext) -> None:
        """Create pgqueuer's tables where they are missing, and begin with the jobs."""
        self.uow_factory: UnitOfWorkFactory = context.services["db_manager:uow_factory"]
        async with self.uow_factory() as uow:
            queries = Queries(AsyncpgDriver(await uow.driver()))
            if not await queries.schema_is_installed():  # before several replicas: `pgq install`
                await queries.install()
        url = context.services["db_manager:engine"].url.set(drivername="postgresql")
        self.url: str = url.render_as_string(hide_password=False)
        self.is_over = asyncio.Event()
        self.working = context.spawn(self.work(), "jobs")

    async def work(self) -> None:
        """Do jobs until the stop, and again after an outage of the database."""
        while not self.is_over.is_set():
            try:
                connection = await asyncpg.connect(self.url)
                try:
                    jobs = PgQueuer.from_asyncpg_connection(connection)
                    jobs.qm.shutdown = jobs.shutdown = self.is_over
                    jobs.qm.entrypoint("make", **KEPT)(self.make)
                    await jobs.qm.run()
                finally:
                    connection.terminate()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("no jobs for a second: %s", type(error).__name__)
                await asyncio.sleep(1)

    async def make(self, job: Job) -> None:
        """Make what was ordered, and say so."""
        chat_id, good = (job.payload or b"").decode().split(" ", 1)
        async with self.uow_factory() as uow:
            made = await uow.session.get_one(Order, (int(chat_id), good), with_for_update=True)
            if not made.is_ready:  # else its process died after the commit
                made.is_ready = True
                uow.send(SendMessage(chat_id=made.chat_id, text=f"Your {good} is ready."))

    async def stop(self, context: PluginContext) -> None:
        """Take no more jobs, and wait for those that are being done."""
        self.is_over.set()
        await self.working


async def main() -> None:
    """Poll until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO)
    dispatcher = Dispatcher()
    dispatcher.message.register(order, Command("order"))
    app = Application([DatabasePlugin, DeliveryPlugin, JobsPlugin])
    await run_polling(app, dispatcher, Bot(os.environ["BOT_TOKEN"]))


if __name__ == "__main__":
    asyncio.run(main())
