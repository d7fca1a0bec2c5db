"""The plugin `reports`: counts the reports that were asked for, and has them printed."""

import asyncio
import os

from aiogram import Router
from aiogram.filters import Command, ExceptionTypeFilter
from aiogram.types import ErrorEvent, Message
from sqlalchemy import func, select
from sqlalchemy.orm import Mapped, mapped_column

from db_manager import Base, PoolExhaustedError, UnitOfWorkFactory
from lifecycle import Plugin, PluginContext
from lifecycle.bot import include_router


class Report(Base):
    """One report."""

    __tablename__ = "reports__report"

    id: Mapped[int] = mapped_column(primary_key=True)


class ReportsPlugin(Plugin):
    """Prints reports, with a mistake in it."""

    name = "reports"
    requires = ("db_manager",)

    async def load(self, context: PluginContext) -> None:
        """Include the handlers."""
        router = Router(name="reports")
        router.message.register(self.report, Command("report"))
        router.error.register(self.apologize, ExceptionTypeFilter(PoolExhaustedError))
        await context.enter(include_router(context.services["aiogram:dispatcher"], router))

    async def start(self, context: PluginContext) -> None:
        """Warm up, as many a plugin does."""
        del context
        await asyncio.sleep(0.25)

    async def report(self, message: Message, uow_factory: UnitOfWorkFactory) -> None:
        """/report: while the printer is asked, the unit keeps its connection."""
        async with uow_factory(read_only=True) as uow:
            count = await uow.session.scalar(select(func.count(Report.id)))
            await message.answer("Printing …")
            printed = await ask_printer(f"report {count}")  # the mistake
        await message.answer(printed)

    async def apologize(self, event: ErrorEvent) -> None:
        """Tell the user; the log and the journal tell you."""
        if event.update.message is not None:
            await event.update.message.answer("All are busy, try again.")


async def ask_printer(what: str) -> str:
    """Have something printed, however long it takes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["PRINTER"]))
    try:
        writer.write(f"{what}\n".encode())
        return (await reader.readline()).decode().strip()
    finally:
        writer.close()
