"""Several bots behind one web server: aiohttp, webhooks, one database.

Telegram posts the updates of each bot to a path of its own. A server that is told to stop takes no
more of them, lets the handlers of those that it has taken commit and answer, and then closes the
database. Run it behind a proxy that ends TLS for PUBLIC_URL:

    BOT_TOKENS="1:first 2:second" PUBLIC_URL=https://bots.example.com python webhook.py
"""

import logging
import os
import secrets

from aiogram import Bot, Dispatcher
from aiogram.types import Message
from aiogram.webhook.aiohttp_server import SimpleRequestHandler, setup_application
from aiohttp import web
from sqlalchemy import BigInteger, Text
from sqlalchemy.orm import Mapped, mapped_column

from db_manager import Base, DatabasePlugin, UnitOfWorkFactory
from lifecycle import Application
from lifecycle.bot import attach


class Complaint(Base):
    """What somebody wrote to one of the bots."""

    __tablename__ = "helpdesk__complaint"

    id: Mapped[int] = mapped_column(primary_key=True)
    bot_id: Mapped[int] = mapped_column(BigInteger)
    chat_id: Mapped[int] = mapped_column(BigInteger)
    text: Mapped[str] = mapped_column(Text)


async def take(message: Message, bot: Bot, uow_factory: UnitOfWorkFactory) -> None:
    """Keep what somebody writes, and say its number."""
    async with uow_factory() as uow:
        complaint = Complaint(bot_id=bot.id, chat_id=message.chat.id, text=message.text or "")
        uow.session.add(complaint)
    await message.answer(f"Your number is {complaint.id}.")


def make_site(bots: list[Bot], public_url: str) -> web.Application:
    """Return the web application of all bots."""
    dispatcher = Dispatcher()
    dispatcher.message.register(take)
    attach(Application([DatabasePlugin]), dispatcher)
    secret = secrets.token_urlsafe()  # replicas behind one address need a common one

    async def set_webhooks() -> None:
        updates = dispatcher.resolve_used_update_types()
        for bot in bots:
            url = f"{public_url}/bots/{bot.id}"
            await bot.set_webhook(url, secret_token=secret, allowed_updates=updates)

    dispatcher.startup.register(set_webhooks)
    site = web.Application()
    # Before `register`, whose shutdown closes the bots: handlers that are waited for answer first.
    setup_application(site, dispatcher, bot=bots[-1], bots=bots)
    for bot in bots:
        handler = SimpleRequestHandler(dispatcher, bot, secret_token=secret)
        handler.register(site, path=f"/bots/{bot.id}")
    return site


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO)
    bots = [Bot(token) for token in os.environ["BOT_TOKENS"].split()]
    site = make_site(bots, os.environ["PUBLIC_URL"])
    web.run_app(site, port=int(os.environ.get("PORT", "8080")), print=None)


if __name__ == "__main__":
    main()
