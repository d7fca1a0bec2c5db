"""Services from dishka: a handler asks for what it needs, and a service says where a unit ends.

The container gives `uow_factory` to services. It gives no open unit: dishka would end that after
the handler, and so commit after the answer. One transaction for two services is a unit in the
handler, with `uow_factory(nested="join")` in the services.

    BOT_TOKEN=… python dishka_services.py
"""

import asyncio
import logging
import os
from collections.abc import Sequence

from aiogram import Bot, Dispatcher
from aiogram.filters import Command, CommandObject
from aiogram.types import Message
from dishka import Provider, Scope, from_context, make_async_container, provide
from dishka.integrations.aiogram import AiogramProvider, FromDishka, setup_dishka
from sqlalchemy import BigInteger, Text, select
from sqlalchemy.orm import Mapped, mapped_column

from db_manager import Base, DatabasePlugin, UnitOfWorkFactory
from lifecycle import Application
from lifecycle.bot import run_polling


class Book(Base):
    """A book that somebody wants to read."""

    __tablename__ = "shelf__book"

    id: Mapped[int] = mapped_column(primary_key=True)
    chat_id: Mapped[int] = mapped_column(BigInteger, index=True)
    title: Mapped[str] = mapped_column(Text)


class Shelf:
    """What the bot does with books; it knows nothing of Telegram."""

    def __init__(self, uow_factory: UnitOfWorkFactory) -> None:
        self._uow_factory = uow_factory

    async def put(self, chat_id: int, title: str) -> None:
        """Keep a book; it is committed when this returns."""
        async with self._uow_factory() as uow:
            uow.session.add(Book(chat_id=chat_id, title=title))

    async def titles(self, chat_id: int) -> Sequence[str]:
        """Return the titles of a chat, the first one first."""
        titles = select(Book.title).where(Book.chat_id == chat_id).order_by(Book.id)
        async with self._uow_factory(read_only=True) as uow:
            return (await uow.session.scalars(titles)).all()


class Services(Provider):
    """Makes services, anew for each update."""

    scope = Scope.REQUEST
    app = from_context(Application, scope=Scope.APP)
    shelf = provide(Shelf)

    @provide
    def uow_factory(self, app: Application) -> UnitOfWorkFactory:
        """Return the factory of the plugin; a job or a worker gets it here too."""
        factory: UnitOfWorkFactory = app.services["db_manager:uow_factory"]
        return factory


async def put(message: Message, command: CommandObject, shelf: FromDishka[Shelf]) -> None:
    """/put Solaris."""
    await shelf.put(message.chat.id, command.args or "a book without a title")
    await message.answer("It is on the shelf.")


async def show(message: Message, shelf: FromDishka[Shelf]) -> None:
    """/shelf."""
    await message.answer("\n".join(await shelf.titles(message.chat.id)) or "It is empty.")


async def main() -> None:
    """Poll until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO)
    app, dispatcher = Application([DatabasePlugin]), Dispatcher()
    dispatcher.message.register(put, Command("put"))
    dispatcher.message.register(show, Command("shelf"))
    container = make_async_container(Services(), AiogramProvider(), context={Application: app})
    setup_dishka(container, dispatcher, auto_inject=True)
    dispatcher.shutdown.register(container.close)  # called after the last handler
    await run_polling(app, dispatcher, Bot(os.environ["BOT_TOKEN"]))


if __name__ == "__main__":
    asyncio.run(main())
