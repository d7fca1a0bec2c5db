"""A bot with migrations; run by test_migrating_starts.py."""

import asyncio
import os
from pathlib import Path

from aiogram import Bot, Dispatcher
from sqlalchemy.engine import make_url
from support.project import Project

from db_manager.plugin import DatabasePlugin
from lifecycle.application import Application
from lifecycle.bot import run_polling


async def main() -> None:
    """Run it on the models and migrations of a folder, until it is told to stop."""
    url = os.environ["DATABASE__URL"]
    project = Project.on(Path(os.environ["PROJECT"]), make_url(url))
    project.load()
    plugin = type("Plugin", (DatabasePlugin,), {"metadata": project.metadata})
    app = Application([plugin], config={"app": {"journal": "memory"}, "database": {"url": url}})
    await run_polling(app, Dispatcher(), Bot(os.environ["BOT_TOKEN"]))


if __name__ == "__main__":
    asyncio.run(main())
