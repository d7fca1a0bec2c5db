"""What the recipes run on: SQLite and PostgreSQL, and a local Telegram for their bots."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from sqlalchemy.engine import URL
from support.forks import forked
from support.programs import Program, Run, local, running

from db_manager.testing import Databases, Sandbox
from lifecycle import EventBus
from lifecycle.testing import BotApiServer

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
#: What a slow machine needs more of than a bot.
MORE_TIME = {"APP__DRAIN": "40", "APP__GRACE": "60", "DATABASE__EXIT_TIMEOUT": "40"}
Poll = Callable[[ModuleType, URL], AbstractAsyncContextManager[BotApiServer]]


@pytest.fixture
def run(database_url: URL, tmp_path: Path) -> Run:
    """Run a recipe by name, in a folder and on a database of the test's own."""
    url = database_url.render_as_string(hide_password=False)

    def run(
        name: str, *telegrams: BotApiServer, **variables: str
    ) -> AbstractAsyncContextManager[Program]:
        tokens = [each.token for each in telegrams]
        given = {"BOT_TOKEN": tokens[0], "BOT_TOKENS": " ".join(tokens), "DATABASE__URL": url}
        command = forked("-W", "error", RECIPES / name)
        return running(
            *command, cwd=tmp_path, **MORE_TIME, **given, **local(*telegrams), **variables
        )

    return run


@pytest.fixture(params=["sqlite", "postgres"])
async def sandbox(request: pytest.FixtureRequest, event_bus: EventBus) -> AsyncIterator[Sandbox]:
    """A sandbox, whatever server the sandboxes of other modules are on."""
    is_file = request.param == "sqlite"
    databases = Databases("sqlite://" if is_file else request.getfixturevalue("postgres_admin"))
    async with Sandbox.open(databases, event_bus) as opened:
        yield opened
    await databases.close()


@pytest.fixture
def poll(monkeypatch: pytest.MonkeyPatch) -> Poll:
    """Runs the `main` of a recipe, whose bot polls a local Telegram, and tells it to stop."""

    @asynccontextmanager
    async def poll(recipe: ModuleType, database: URL) -> AsyncIterator[BotApiServer]:
        async with BotApiServer() as telegram:
            session = AiohttpSession(api=TelegramAPIServer.from_base(telegram.url))
            monkeypatch.setattr(recipe, "Bot", partial(Bot, session=session))
            monkeypatch.setenv("BOT_TOKEN", telegram.token)
            monkeypatch.setenv("DATABASE__URL", database.render_as_string(hide_password=False))
            running = asyncio.create_task(recipe.main())
            try:
                yield telegram
            finally:
                running.cancel()  # as good as a signal
                with suppress(asyncio.CancelledError):
                    await running

    return poll
