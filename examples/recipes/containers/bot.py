"""A bot in a container: what it is told is in config.toml and in the environment.

Volumes, signals and secrets are in compose.yaml, the image is in Dockerfile.
"""

import asyncio
import os
from pathlib import Path

from aiogram import Bot, Dispatcher
from aiogram.types import Message
from sqlalchemy import BigInteger, func, select
from sqlalchemy.orm import Mapped, mapped_column

from db_manager import Base, UnitOfWorkFactory
from lifecycle import Application
from lifecycle.bot import run_polling


class Word(Base):
    """What somebody said."""

    __tablename__ = "words__word"

    id: Mapped[int] = mapped_column(primary_key=True)
    chat_id: Mapped[int] = mapped_column(BigInteger, index=True)
    text: Mapped[str]


async def keep(message: Message, uow_factory: UnitOfWorkFactory) -> None:
    """Keep it, and tell how many there are."""
    async with uow_factory() as uow:
        uow.session.add(Word(chat_id=message.chat.id, text=message.text or ""))
        mine = select(func.count()).where(Word.chat_id == message.chat.id)
        number = await uow.session.scalar(mine)
    await message.answer(f"You have said {number}.")


async def main() -> None:
    """Poll until SIGTERM."""
    dispatcher = Dispatcher()
    dispatcher.message.register(keep)
    app = Application.from_config(Path(__file__).with_name("config.toml"))
    await run_polling(app, dispatcher, Bot(os.environ["BOT_TOKEN"]))


if __name__ == "__main__":
    asyncio.run(main())
