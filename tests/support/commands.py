"""Programs as their users start them: a command that ends well, a bot on the local Bot API."""

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from lifecycle.testing import BotApiServer

#: Seconds until a command is taken for hanging.
LONGEST = 240
#: What is said to bots, tests and this test's own run; no program that is started here hears it.
SAID = ("APP__", "BOT_", "COV_", "DATABASE__", "OBSERVABILITY__", "PYTEST_", "SANDBOX_")
#: Leads a bot to the local Bot API, because its own code knows only the one of Telegram.
LOCAL = """
import os
import aiogram
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer

api = TelegramAPIServer.from_base(os.environ["LOCAL_API"])

class LocalBot(aiogram.Bot):
    def __init__(self, token):
        super().__init__(token, AiohttpSession(api=api))

aiogram.Bot = LocalBot
"""


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of this process without what is said in it, and with *variables*."""
    return {**{k: v for k, v in os.environ.items() if not k.startswith(SAID)}, **variables}


def said_by(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a command that has to end well, and return what it says.

    Args:
        *command: The program and its arguments.
        cwd: Where it runs.
        **variables: Of its environment.
    """
    ended = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=LONGEST,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


@asynccontextmanager
async def polling(
    *arguments: str, cwd: Path, telegram: BotApiServer, local: Path, **variables: str
) -> AsyncIterator[Process]:
    """Run a bot during a block; at its end SIGTERM stops it, and it has to end well.

    Args:
        *arguments: What Python runs.
        cwd: Where it runs.
        telegram: The Bot API that it polls.
        local: A folder for the module that leads it there.
        **variables: Of its environment.
    """
    (local / "sitecustomize.py").write_text(LOCAL, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=cwd,
        env=environment(PYTHONPATH=str(local), LOCAL_API=telegram.url, **variables),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()
        assert process.returncode == 0, log.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
