"""The plugin `notes`: a table, and two commands."""

from aiogram import Router
from aiogram.filters import Command, CommandObject
from aiogram.types import Message
from db_manager import Base, UnitOfWorkFactory
from lifecycle import Plugin, PluginContext
from lifecycle.bot import include_router
from sqlalchemy import BigInteger, String, select
from sqlalchemy.orm import Mapped, mapped_column


class Note(Base):
    """One note of one chat; bot/migrations makes its table when the bot starts."""

    __tablename__ = "notes__note"  # plugin_name__table_name

    id: Mapped[int] = mapped_column(primary_key=True)
    chat_id: Mapped[int] = mapped_column(BigInteger, index=True)
    text: Mapped[str] = mapped_column(String(100))


class Notes(Plugin):
    """Keeps notes for every chat."""

    name = "notes"
    requires = ("db_manager",)

    async def load(self, context: PluginContext) -> None:
        """Include the handlers; they are taken out again when the plugin is unloaded."""
        router = Router(name="notes")
        router.message.register(self.add, Command("note"))
        router.message.register(self.show, Command("list"))
        dispatcher = context.services["aiogram:dispatcher"]
        await context.enter(include_router(dispatcher, router))

    async def add(
        self, message: Message, command: CommandObject, uow_factory: UnitOfWorkFactory
    ) -> None:
        """/note milk."""
        text = command.args or ""
        if not 0 < len(text) <= 100:
            await message.answer("Write /note and up to 100 characters.")
            return
        async with uow_factory() as uow:
            uow.session.add(Note(chat_id=message.chat.id, text=text))
        await message.answer("Noted.")  # it is: the block has committed

    async def show(self, message: Message, uow_factory: UnitOfWorkFactory) -> None:
        """/list."""
        mine = select(Note.text).where(Note.chat_id == message.chat.id)
        async with uow_factory(read_only=True) as uow:
            texts = await uow.session.scalars(mine.order_by(Note.id.desc()).limit(20))
            lines = [f"- {text}" for text in texts]
        await message.answer("\n".join(lines) or "No notes yet.")
