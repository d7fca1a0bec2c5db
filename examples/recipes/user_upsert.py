"""Everybody who writes is kept, by an outer middleware, and handlers have the row as `user`.

The unit of the middleware ends before the handler begins: the row is committed, whatever the
handler does, and no connection is held while Telegram is slow. One statement inserts or updates, so
two first messages at once make one row. When it fails, no handler is called.

    BOT_TOKEN=… python user_upsert.py
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

from aiogram import BaseMiddleware, Bot, Dispatcher
from aiogram.filters import Command, CommandObject
from aiogram.types import Message, TelegramObject
from aiogram.types import User as Sender
from sqlalchemy import BigInteger
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, mapped_column

from db_manager import Base, DatabasePlugin, UnitOfWorkFactory
from lifecycle import Application
from lifecycle.bot import run_polling

#: A bot that stays on one database needs the one of it only.
INSERT: dict[str, Callable[[Any], postgresql.Insert | sqlite.Insert]] = {
    "postgresql": postgresql.insert,
    "sqlite": sqlite.insert,
}


class User(Base):
    """Somebody who wrote to the bot."""

    __tablename__ = "users__user"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str]
    updates: Mapped[int]
    city: Mapped[str | None]


async def upsert(uow_factory: UnitOfWorkFactory, sender: Sender) -> User:
    """Insert or update the row of somebody, and return it as it is then."""
    async with uow_factory() as uow:
        insert = INSERT[uow.session.get_bind().dialect.name]
        statement = insert(User).values(id=sender.id, name=sender.full_name, updates=1)
        statement = statement.on_conflict_do_update(
            index_elements=[User.id],
            set_={"name": statement.excluded.name, "updates": User.updates + 1},
        )
        return (await uow.session.scalars(statement.returning(User))).one()


class Users(BaseMiddleware):
    """Puts the row of whoever caused the update into its data; None for a post of a channel."""

    async def __call__(
        self,
        handler: Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]],
        event: TelegramObject,
        data: dict[str, Any],
    ) -> Any:
        """Upsert first, then handle."""
        sender = data.get("event_from_user")  # aiogram has found it by now
        data["user"] = None if sender is None else await upsert(data["uow_factory"], sender)
        return await handler(event, data)


async def greet(message: Message, user: User) -> None:
    """/start."""
    await message.answer(f"{user.name}, {user.city or 'somewhere'}: update {user.updates}.")


async def move(
    message: Message, command: CommandObject, user: User, uow_factory: UnitOfWorkFactory
) -> None:
    """/city Paris. Who changes the row gets it in a unit of its own."""
    async with uow_factory() as uow:
        mine = await uow.session.get_one(User, user.id, with_for_update=True)
        mine.city = command.args
    await message.answer("Noted.")


def make_dispatcher() -> Dispatcher:
    """Return a dispatcher with the handlers."""
    dispatcher = Dispatcher()
    dispatcher.update.outer_middleware(Users())
    dispatcher.message.register(greet, Command("start"))
    dispatcher.message.register(move, Command("city"))
    return dispatcher


async def main() -> None:
    """Poll until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO)
    app = Application([DatabasePlugin])
    await run_polling(app, make_dispatcher(), Bot(os.environ["BOT_TOKEN"]))


if __name__ == "__main__":
    asyncio.run(main())
