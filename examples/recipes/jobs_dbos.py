"""Jobs by DBOS: queued and done by units. SQLite and PostgreSQL.

A job is a row of the transaction, so there is none without its order and no order without it. What
it changes and says is one unit too: DBOS begins a job anew when its process has died, and finds
that it is done. DBOS keeps its tables in the same database, and has connections of its own; on
Python 3.12 and later it needs SQLite 3.42.

    pip install dbos
    BOT_TOKEN=… python jobs_dbos.py    # then /order tea
"""

import asyncio
import logging
import os
from typing import ClassVar

from aiogram import Bot, Dispatcher
from aiogram.filters import Command, CommandObject
from aiogram.methods import SendMessage
from aiogram.types import Message
from dbos import DBOS, DBOSClient, EnqueueOptions
from sqlalchemy import BigInteger
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from db_manager import Base, DatabasePlugin, UnitOfWorkFactory
from db_manager.delivery import DeliveryPlugin
from lifecycle import Application, Plugin, PluginContext
from lifecycle.bot import run_polling

MAKE: EnqueueOptions = {"workflow_name": "make", "queue_name": "orders"}
#: What DBOS, which is not asynchronous within, speaks to the databases by.
DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}


class Order(Base):
    """What somebody has ordered: one of each good."""

    __tablename__ = "orders__order"

    chat_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    good: Mapped[str] = mapped_column(primary_key=True)
    is_ready: Mapped[bool] = mapped_column(default=False)


async def order(
    message: Message, command: CommandObject, uow_factory: UnitOfWorkFactory, jobs: DBOSClient
) -> None:
    """/order tea."""
    chat_id, good = message.chat.id, command.args or "tea"
    try:
        async with uow_factory() as uow:
            await uow.connection.run_sync(jobs.enqueue_in_transaction, MAKE, chat_id, good)
            uow.session.add(Order(chat_id=chat_id, good=good))
            uow.send(message.answer(f"We make {good}."))
    except IntegrityError:
        await message.answer(f"You have ordered {good} already.")


@DBOS.workflow(name="make")
def make(chat_id: int, good: str) -> None:
    """Make what was ordered: a workflow of one step."""
    in_a_unit(chat_id, good)


@DBOS.step(retries_allowed=True, max_attempts=5)
def in_a_unit(chat_id: int, good: str) -> None:
    """Have it done on the bot's loop, where units are: DBOS works in threads."""
    work = JobsPlugin.make(chat_id, good)
    asyncio.run_coroutine_threadsafe(work, JobsPlugin.loop).result()


class JobsPlugin(Plugin):
    """Does jobs."""

    name = "jobs"
    requires = ("db_manager", "delivery")
    loop: ClassVar[asyncio.AbstractEventLoop]
    uow_factory: ClassVar[UnitOfWorkFactory]

    async def start(self, context: PluginContext) -> None:
        """Create DBOS's tables where they are missing, and begin with the jobs."""
        JobsPlugin.loop = asyncio.get_running_loop()
        JobsPlugin.uow_factory = context.services["db_manager:uow_factory"]
        url = context.services["db_manager:engine"].url
        url = url.set(drivername=DRIVERS[url.get_backend_name()])
        there = url.render_as_string(hide_password=False)
        await asyncio.to_thread(launch, there)
        context.services["aiogram:dispatcher"]["jobs"] = self.client = DBOSClient(
            system_database_url=there, lazy=True
        )

    @classmethod
    async def make(cls, chat_id: int, good: str) -> None:
        """Make it, and say so."""
        async with cls.uow_factory() as uow:
            made = await uow.session.get_one(Order, (chat_id, good), with_for_update=True)
            if not made.is_ready:  # else its process died after the commit
                made.is_ready = True
                uow.send(SendMessage(chat_id=chat_id, text=f"Your {good} is ready."))

    async def stop(self, context: PluginContext) -> None:
        """Take no more jobs, and wait for those that are being done."""
        await asyncio.to_thread(DBOS.destroy, workflow_completion_timeout_sec=10)
        await asyncio.to_thread(self.client.destroy)


def launch(url: str) -> None:
    """Begin with the jobs. On SQLite this waits for units that write, so it keeps no loop."""
    DBOS(config={"name": "shop", "system_database_url": url})
    DBOS.launch()
    DBOS.register_queue("orders", polling_interval_sec=0.2)


async def main() -> None:
    """Poll until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO)
    dispatcher = Dispatcher()
    dispatcher.message.register(order, Command("order"))
    app = Application([DatabasePlugin, DeliveryPlugin, JobsPlugin])
    await run_polling(app, dispatcher, Bot(os.environ["BOT_TOKEN"]))


if __name__ == "__main__":
    asyncio.run(main())
