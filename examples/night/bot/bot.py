"""A bot like any other; only Telegram's address is another one."""

import asyncio
import os

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer

from lifecycle import Application
from lifecycle.bot import run_polling


def main() -> None:
    """Run it until it is told to stop."""
    session = AiohttpSession(api=TelegramAPIServer.from_base(os.environ["TELEGRAM"]))
    bot = Bot(os.environ["BOT_TOKEN"], session)
    asyncio.run(run_polling(Application.from_config(), Dispatcher(), bot))


if __name__ == "__main__":
    main()
