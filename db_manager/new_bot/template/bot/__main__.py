"""Runs the bot on Telegram: python -m bot."""

import asyncio
import os
import sys
from pathlib import Path

from aiogram import Bot, Dispatcher
from dotenv import load_dotenv
from lifecycle import Application
from lifecycle.bot import run_polling

FOLDER = Path(__file__).parents[1]


async def main() -> None:
    load_dotenv(FOLDER / ".env")  # what the environment says already goes before it
    token = os.environ.get("BOT_TOKEN")
    if not token:
        sys.exit("There is no BOT_TOKEN: write the one from @BotFather into .env")
    app = Application.from_config(FOLDER / "config.toml")
    await run_polling(app, Dispatcher(), Bot(token))


asyncio.run(main())
