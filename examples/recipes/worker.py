"""A worker without aiogram: it does the jobs of a table, beside other workers if you like.

A job is taken, done and marked in one unit: what a dying worker leaves, another one does. So jobs
are short: on SQLite nobody else writes meanwhile. SIGTERM lets the open unit finish.

    DATABASE__URL=… python worker.py

On the config.toml of a bot, in a process beside it: `Application.from_config("config.toml",
name="worker", plugins=["db_manager", "worker"])`. Among the bot's plugins: in its process.
"""

import asyncio
import logging
import signal
from contextlib import suppress

from sqlalchemy import select
from sqlalchemy.orm import Mapped, mapped_column

from db_manager import Base, DatabasePlugin, UnitOfWork, UnitOfWorkFactory
from lifecycle import Application, Plugin, PluginContext

PAUSE = 1.0  # seconds between two looks at a table without jobs
#: Seconds for a stop: `Worker` has all but what the database needs. There are no updates to drain.
#: A container that kills after 10 s needs a longer `stop_grace_period`.
CONFIG = {"app": {"grace": 25.0, "drain": 0.0}}

log = logging.getLogger("worker")


class Job(Base):
    """What is to be done, and what came out."""

    __tablename__ = "worker__job"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    result: Mapped[str | None]
    error: Mapped[str | None]


async def do(text: str) -> str:
    """Do what a job is about; here goes yours."""
    return text.upper()


async def do_next(uow: UnitOfWork) -> bool:
    """Take the oldest job that no other worker has and do it; False when there is none."""
    waiting = select(Job).where(Job.result.is_(None), Job.error.is_(None)).order_by(Job.id)
    job = await uow.session.scalar(waiting.limit(1).with_for_update(skip_locked=True))
    if job is None:
        return False
    number = job.id  # after a rollback, also that of a savepoint, an object is to be read anew
    try:
        async with uow.savepoint():
            job.result = await do(job.text)
    except Exception as error:  # else it would fail for ever, and hold up the others
        log.exception("job %s failed", number)
        job.error = repr(error)
    return True


class Worker(Plugin):
    """Does one job after the other."""

    name = "worker"
    requires = ("db_manager",)
    stop_timeout = 20.0  # for the job that runs when the process is told to stop

    async def start(self, context: PluginContext) -> None:
        """Begin to work."""
        self.told_to_stop = asyncio.Event()
        self.work = context.spawn(self.do_all(context.services["db_manager:uow_factory"]))

    async def do_all(self, uow_factory: UnitOfWorkFactory) -> None:
        """Work until told to stop, a unit for each job."""
        while not self.told_to_stop.is_set():
            found = False
            try:
                found = await uow_factory.run(do_next)
            except Exception:  # the database is away: the jobs are in it, and wait
                log.exception("no job could be done")
            if not found:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.told_to_stop.wait(), PAUSE)

    async def stop(self, context: PluginContext) -> None:
        """Let the open unit finish."""
        self.told_to_stop.set()
        await self.work


async def main() -> None:
    """Work until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO)
    told_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told_to_stop.set)
    async with Application([DatabasePlugin, Worker], config=CONFIG):
        await told_to_stop.wait()


if __name__ == "__main__":
    asyncio.run(main())
