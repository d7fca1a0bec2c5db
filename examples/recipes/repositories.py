"""Repositories of three kinds in one transaction, while they are being moved one by one.

`Goods` leaves the commit to its caller: it gets `uow.session`, and is moved. `Orders` commits by
itself: until its `commit()` is deleted it gets `uow.legacy_session()`, where that is a part of the
unit. `Statistics` opens units of its own: `nested="join"` makes them a part of an open one. So an
order that cannot be delivered is not kept, although `Orders` has "committed" it.

    BOT_TOKEN=… python repositories.py    # then /put tea 3, and /buy tea
"""

import asyncio
import logging
import os

from aiogram import Bot, Dispatcher
from aiogram.filters import Command, CommandObject
from aiogram.types import Message
from sqlalchemy import BigInteger, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from db_manager import Base, DatabasePlugin, UnitOfWorkFactory
from lifecycle import Application
from lifecycle.bot import run_polling


class Good(Base):
    """What there is to buy."""

    __tablename__ = "market__good"

    name: Mapped[str] = mapped_column(primary_key=True)
    left: Mapped[int]


class Order(Base):
    """What somebody bought."""

    __tablename__ = "market__order"

    id: Mapped[int] = mapped_column(primary_key=True)
    chat_id: Mapped[int] = mapped_column(BigInteger, index=True)
    good: Mapped[str]


class SoldOutError(Exception):
    """Nothing of it is left."""


class Goods:
    """Leaves the commit to its caller."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def put(self, name: str, number: int) -> None:
        """Set how many there are."""
        await self.session.merge(Good(name=name, left=number))

    async def take(self, name: str) -> None:
        """Take one."""
        good = await self.session.get(Good, name, with_for_update=True)
        if good is None or good.left == 0:
            raise SoldOutError(name)
        good.left -= 1


class Orders:
    """Commits by itself."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def add(self, chat_id: int, good: str) -> Order:
        """Keep an order."""
        order = Order(chat_id=chat_id, good=good)
        self.session.add(order)
        await self.session.commit()
        return order


class Statistics:
    """Opens units of its own."""

    def __init__(self, uow_factory: UnitOfWorkFactory) -> None:
        self.uow_factory = uow_factory

    async def orders(self, chat_id: int) -> int:
        """Count the orders of somebody, that of an open unit too."""
        async with self.uow_factory(read_only=True, nested="join") as uow:
            mine = select(func.count()).where(Order.chat_id == chat_id)
            return await uow.session.scalar(mine) or 0


async def put(message: Message, command: CommandObject, uow_factory: UnitOfWorkFactory) -> None:
    """/put tea 3."""
    name, _, number = (command.args or "").partition(" ")
    async with uow_factory() as uow:
        await Goods(uow.session).put(name, int(number))
    await message.answer("Done.")


async def buy(message: Message, command: CommandObject, uow_factory: UnitOfWorkFactory) -> None:
    """/buy tea: all of it, or nothing."""
    good = command.args or "nothing"
    try:
        async with uow_factory() as uow:
            async with uow.legacy_session() as session:
                await Orders(session).add(message.chat.id, good)
            number = await Statistics(uow_factory).orders(message.chat.id)
            await Goods(uow.session).take(good)
    except SoldOutError:
        await message.answer(f"There is no {good}.")
    else:
        await message.answer(f"Your order {number}: {good}.")


def make_dispatcher() -> Dispatcher:
    """Return a dispatcher with the handlers."""
    dispatcher = Dispatcher()
    dispatcher.message.register(put, Command("put"))
    dispatcher.message.register(buy, Command("buy"))
    return dispatcher


async def main() -> None:
    """Poll until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO)
    app = Application([DatabasePlugin])
    await run_polling(app, make_dispatcher(), Bot(os.environ["BOT_TOKEN"]))


if __name__ == "__main__":
    asyncio.run(main())
