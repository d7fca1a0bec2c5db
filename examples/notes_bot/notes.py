"""The plugin `notes`: a model, five commands, and no word about connections or commits."""

from aiogram import Router
from aiogram.dispatcher.event.bases import UNHANDLED
from aiogram.filters import Command, CommandObject
from aiogram.types import ErrorEvent, Message
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import BigInteger, String, select
from sqlalchemy.orm import Mapped, mapped_column

from db_manager import Base, UnitOfWork, UnitOfWorkFactory
from lifecycle import Plugin, PluginContext
from lifecycle.bot import include_router


class Note(Base):
    """One note of one chat."""

    __tablename__ = "notes__note"  # plugin_name__table_name; changed by migrations/notes, at start

    id: Mapped[int] = mapped_column(primary_key=True)
    chat_id: Mapped[int] = mapped_column(BigInteger, index=True)
    text: Mapped[str] = mapped_column(String(1000))
    done: Mapped[bool] = mapped_column(default=False)


class NotesConfig(BaseModel):
    """The section [notes] of config.toml."""

    model_config = ConfigDict(extra="forbid")

    longest: int = Field(200, ge=1, le=1000)
    shown: int = Field(20, ge=1)


class NotesPlugin(Plugin):
    """Keeps notes for every chat."""

    name = "notes"
    requires = ("db_manager", "delivery")
    config_model = NotesConfig

    config: NotesConfig

    async def load(self, context: PluginContext) -> None:
        """Include the handlers; the context takes them out again at unload."""
        self.config = context.config
        router = Router(name="notes")
        router.message.register(self.add, Command("note"))
        router.message.register(self.show, Command("list"))
        router.message.register(self.tick, Command("done"))
        router.message.register(self.drop, Command("drop"))
        router.message.register(self.boom, Command("boom"))
        router.error.register(self.apologize)
        await context.enter(include_router(context.services["aiogram:dispatcher"], router))

    async def add(
        self, message: Message, command: CommandObject, uow_factory: UnitOfWorkFactory
    ) -> None:
        """/note milk."""
        text = (command.args or "").strip()
        if not 0 < len(text) <= self.config.longest:
            await message.answer(f"Write /note and 1 to {self.config.longest} characters.")
            return
        async with uow_factory() as uow:
            note = Note(chat_id=message.chat.id, text=text)
            uow.session.add(note)
            await uow.session.flush()  # now it has its number
            # A row of the same transaction: sent once that is committed, by whoever is alive then.
            uow.send(message.answer(f"Noted as {note.id}."))

    async def show(self, message: Message, uow_factory: UnitOfWorkFactory) -> None:
        """/list."""
        newest = select(Note).where(Note.chat_id == message.chat.id).order_by(Note.id.desc())
        async with uow_factory(read_only=True) as uow:
            notes = (await uow.session.scalars(newest.limit(self.config.shown))).all()
        lines = [f"{note.id}. {note.text}{' ✓' * note.done}" for note in reversed(notes)]
        await message.answer("\n".join(lines) or "No notes yet.")

    async def tick(
        self, message: Message, command: CommandObject, uow_factory: UnitOfWorkFactory
    ) -> None:
        """/done 1."""
        async with uow_factory() as uow:
            note = await _found(uow, message, command)
            if note is not None:
                note.done = True
        # Here it is committed and the connection is back: what the answer says is true.
        await message.answer("Done." if note else "There is no such note.")

    async def drop(
        self, message: Message, command: CommandObject, uow_factory: UnitOfWorkFactory
    ) -> None:
        """/drop 1."""
        async with uow_factory() as uow:
            note = await _found(uow, message, command)
            if note is not None:
                await uow.session.delete(note)
        await message.answer("Dropped." if note else "There is no such note.")

    async def boom(self, message: Message, uow_factory: UnitOfWorkFactory) -> None:
        """/boom: write a note, then fail; nobody will ever see the note."""
        async with uow_factory() as uow:
            uow.session.add(Note(chat_id=message.chat.id, text="never seen"))
            await uow.session.flush()
            raise RuntimeError("boom, after the INSERT")

    async def apologize(self, event: ErrorEvent) -> object:
        """Tell the user, and let aiogram log the error as usual."""
        if event.update.message is not None:
            await event.update.message.answer("That failed; see /list.")
        return UNHANDLED


async def _found(uow: UnitOfWork, message: Message, command: CommandObject) -> Note | None:
    """Return the note of this chat that a command names by its number."""
    number = command.args or ""
    if not (number.isascii() and number.isdigit() and len(number) < 10):  # noqa: PLR2004 -- INTEGER
        return None
    note = await uow.session.get(Note, int(number))
    return note if note is not None and note.chat_id == message.chat.id else None
