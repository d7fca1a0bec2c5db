"""Routers in tests: those of a module serve one test after the other, and mistakes have a cure."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiogram import Dispatcher, Router
from aiogram.types import Message, TelegramObject
from support.forks import forked
from support.programs import ended

from db_manager.testing import Databases, Sandbox
from lifecycle.application import Application
from lifecycle.bot import include_router
from lifecycle.bus import EventBus
from lifecycle.errors import PluginFailedError
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.plugin import Plugin
from lifecycle.testing import LocalTelegram

router = Router()
below = Router()
router.include_router(below)


@below.message()
async def answer(message: Message, signature: str) -> None:
    """Answer, with what a middleware of the dispatcher hands over."""
    await message.answer(f"Hello from {signature}.")


async def sign(
    handler: Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]],
    event: TelegramObject,
    data: dict[str, Any],
) -> Any:
    """Hand over a signature: an inner middleware, which is found on the way up from the router."""
    return await handler(event, {**data, "signature": "the bot"})


def new_dispatcher() -> Dispatcher:
    """Return a dispatcher with the router of this module."""
    dispatcher = Dispatcher()
    dispatcher.message.middleware(sign)
    dispatcher.include_router(router)
    return dispatcher


class Greeter(Plugin):
    """A plugin with handlers."""

    name = "greeter"

    async def load(self, context: PluginContext) -> None:
        """Include a router."""
        dispatcher = context.services["aiogram:dispatcher"]
        await context.enter(include_router(dispatcher, Router()))


@pytest.fixture
async def sandbox(event_bus: EventBus) -> AsyncIterator[Sandbox]:
    """A sandbox on SQLite, whatever server the sandboxes of other modules are on."""
    databases = Databases("sqlite://")
    async with Sandbox.open(databases, event_bus) as opened:
        yield opened
    await databases.close()


async def greeted(telegram: LocalTelegram) -> str:
    """Say something, and return the answer."""
    ada = telegram.user(7, "Ada")
    await ada.say("Hi")
    return (await ada.reply()).text


@pytest.mark.parametrize("turn", [1, 2])
async def test_a_router_of_a_module_is_free_for_the_next_test(
    sandbox: Sandbox, telegram: LocalTelegram, turn: int
) -> None:
    """Each test may build a dispatcher of the same router, whose own routers stay with it."""
    await telegram.run(sandbox.application(), new_dispatcher())
    assert await greeted(telegram) == "Hello from the bot."
    assert below.parent_router is router
    assert turn in {1, 2}


async def test_a_dispatcher_that_runs_again_has_its_routers_back(
    sandbox: Sandbox, telegram: LocalTelegram
) -> None:
    """In its second run the middlewares of the dispatcher are called as in the first."""
    dispatcher = new_dispatcher()
    for _ in range(2):
        await telegram.run(sandbox.application(), dispatcher)
        assert await greeted(telegram) == "Hello from the bot."
        await telegram.end()
    assert dispatcher.sub_routers == [router]


CURE = (
    r"no service 'aiogram:dispatcher': the application was started without a bot\. "
    r"Start it with run_polling.* or call attach\(app, dispatcher\).* `await telegram\.run\(app\)`"
)


async def test_a_plugin_with_handlers_under_start_is_told_of_run(sandbox: Sandbox) -> None:
    """`sandbox.start` and `async with Application` have no dispatcher, and say what has one."""
    with pytest.raises(PluginFailedError, match=CURE):
        await sandbox.start(Greeter)
    with pytest.raises(PluginFailedError, match=CURE):
        async with Application([Greeter]):
            pass


PROJECT = {
    "pyproject.toml": """
[tool.pytest.ini_options]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
addopts = ["-p", "no:cacheprovider"]
sandbox_url = "postgresql://nobody@192.0.2.1/precious"
""",
    "test_bot.py": """
from aiogram import Dispatcher, Router

outer, inner = Router(), Router()


def dispatcher():
    outer.include_router(inner)
    made = Dispatcher()
    made.include_router(outer)
    return made


async def test_once(sandbox, telegram):
    await telegram.run(sandbox.application(), dispatcher())
    assert sandbox.url.get_backend_name() == "sqlite"


async def test_twice(sandbox, telegram):
    await telegram.run(sandbox.application(), dispatcher())
""",
}


def test_what_a_project_of_somebody_is_told(tmp_path: Path) -> None:
    """An empty SANDBOX_URL means SQLite, also against the setting; a router twice has a cure."""
    for name, content in PROJECT.items():
        (tmp_path / name).write_text(content)
    run = ended(*forked("-m", "pytest"), cwd=tmp_path, SANDBOX_URL="")
    assert "1 failed, 1 passed" in run.stdout, run.stdout
    assert "Router is already attached" in run.stdout
    assert "An earlier test has included this router." in run.stdout
