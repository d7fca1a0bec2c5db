"""A bot that notes what it is told until it is killed; run by test_killed.py.

It is given `URL SERVER TOKEN`, and says a word for each step that it has taken. What begins with
`deadly` ends its process in the handler.
"""

import os

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.types import Message
from sqlalchemy import text
from sqlalchemy.engine import make_url
from support.kept import application
from support.lives import say, serve

from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.bot import attach

#: Seconds, of which a busy machine lets no sign of life come too late.
LEASE = 4.0
WRITE = text("INSERT INTO effect (chat, said) VALUES (:chat, :said)")


async def note(message: Message, uow_factory: UnitOfWorkFactory) -> None:
    """Write what was said, and answer."""
    words = message.text or ""
    async with uow_factory() as uow:
        await uow.connection.execute(WRITE, {"chat": message.chat.id, "said": words})
        if words.startswith("deadly"):
            os._exit(1)
        uow.send(message.answer(words))
        say("noted")


async def main(url: str, server: str, token: str) -> None:
    """Poll until it is killed."""
    bot = Bot(token, AiohttpSession(api=TelegramAPIServer.from_base(server)))
    dispatcher = Dispatcher()
    dispatcher.message.register(note)
    app = application(make_url(url), inbox=True, lease=LEASE)
    for topic in ("app.started", "update.stored", "update.done", "message.sent"):
        app.bus.subscribe(topic, lambda event: say(event.topic))
    attach(app, dispatcher)
    await dispatcher.start_polling(bot, handle_signals=False)


if __name__ == "__main__":
    serve(main)
