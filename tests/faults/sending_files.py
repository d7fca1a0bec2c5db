"""A bot that sends files of every kind until it is killed; run by test_delivering_files.py.

It is given `URL SERVER TOKEN FILES FOLDER FIRST`: where files are on the web, where it may write
some, and the number of its first one. A file is named by its number. What must be refused is tried
in each unit.
"""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final

from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.methods import SendDocument, SendMediaGroup, TelegramMethod
from aiogram.types import (
    BufferedInputFile,
    FSInputFile,
    InputFile,
    InputMediaDocument,
    URLInputFile,
)
from sqlalchemy import text
from sqlalchemy.engine import make_url
from support.kept import application
from support.lives import serve
from support.numbered_files import CHATS, UNITS, content_of

from db_manager.sending import NotStorableError
from db_manager.unit.factory import UnitOfWorkFactory

#: Bytes that a file may have.
MOST: Final = 60_000
#: Seconds, of which a busy machine lets no sign of life come too late.
LEASE: Final = 4.0
_WRITTEN: Final = text("INSERT INTO written (number) VALUES (:number)")


class Own(InputFile):
    """A file that only its own code can read."""

    async def read(self, bot: Bot) -> AsyncGenerator[bytes, None]:  # noqa: ARG002 -- aiogram's
        """Read it."""
        yield b"mine"


def call_with(number: int, path: Path, files: str) -> TelegramMethod[Any]:
    """Return a call with the file of this number, of a kind that follows from it."""
    name, chat = str(number), CHATS[number % len(CHATS)]
    kept = BufferedInputFile(content_of(number), name)
    there = FSInputFile(path, name)
    match number % 4:
        case 0:
            media: list[Any] = [InputMediaDocument(media=each) for each in (kept, there)]
            return SendMediaGroup(chat_id=chat, media=media)
        case 1:
            return SendDocument(chat_id=chat, document=kept)
        case 2:
            return SendDocument(chat_id=chat, document=there)
    return SendDocument(chat_id=chat, document=URLInputFile(f"{files}{name}", filename=name))


async def send(units: UnitOfWorkFactory, call: TelegramMethod[Any], number: int) -> None:
    """Send a file in a unit; in the same one, others are refused."""
    large = BufferedInputFile(bytes(MOST + 1), "large")
    secret = URLInputFile("http://127.0.0.1", headers={"Authorization": "secret"})
    async with units() as uow:
        await uow.connection.execute(_WRITTEN, {"number": number})
        uow.send(call)
        for refused in (large, secret, Own("own")):
            try:
                uow.send(SendDocument(chat_id=CHATS[0], document=refused))
            except NotStorableError as error:
                assert error.field == "document"  # noqa: PT017 -- no test runs here
            else:
                raise AssertionError(f"{refused} was kept")


async def main(url: str, server: str, token: str, files: str, folder: str, first: str) -> None:
    """Send files until it is killed."""
    bot = Bot(token, AiohttpSession(api=TelegramAPIServer.from_base(server)))
    app = application(make_url(url), lease=LEASE, max_file=MOST)
    app.services.provide("aiogram:bots", (bot,))
    async with app:
        units = app.services["db_manager:uow_factory"]
        for number in range(int(first), int(first) + UNITS):
            path = Path(folder) / str(number)
            path.write_bytes(content_of(number))
            await send(units, call_with(number, path, files), number)
            path.unlink()  # what was sent has it
        await asyncio.Event().wait()


if __name__ == "__main__":
    serve(main)
