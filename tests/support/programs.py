"""Programs that run as their user runs them: a process, its log, and a signal that ends it.

The imports take seconds. So one process imports the libraries, and is forked for each program.
"""

import asyncio
import multiprocessing
import os
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from sqlalchemy.engine import URL
from support.as_program import run

from lifecycle.testing import BotApiServer
from lifecycle.testing.telegram.calls import ApiCall

_FORKS: Final = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        *("support.as_program", "db_manager", "lifecycle.bot", "aiogram.webhook.aiohttp_server"),
        *("aiosqlite", "asyncpg", "sqlalchemy.ext.asyncio", "sqlalchemy.orm"),
        *("aiogram_dialog", "apscheduler.schedulers.asyncio", "dishka.integrations.aiogram"),
        *("fastapi", "sqladmin", "uvicorn"),
    ]
)
#: Seconds for a line of the log, and for the end; the first program waits for the imports.
PATIENCE: Final = 60.0
#: What a slow machine needs more of than a bot.
_MORE_TIME: Final = {
    "APP__DRAIN": "40",
    "APP__GRACE": "60",
    "DATABASE__EXIT_TIMEOUT": "40",
}


class Program:
    """A process that runs.

    Args:
        process: The process, which is started.
        log: The lines that it writes to standard error.

    Attributes:
        log: What it has written, as lines.
    """

    def __init__(self, process: BaseProcess, log: asyncio.StreamReader) -> None:
        self._process = process
        self.log: list[str] = []
        self._news = asyncio.Condition()
        self._reading = asyncio.create_task(self._read(log))

    async def _read(self, log: asyncio.StreamReader) -> None:
        while line := await log.readline():
            async with self._news:
                self.log.append(line.decode().rstrip())
                self._news.notify_all()

    async def says(self, pattern: str) -> str:
        """Return the first line of the log that matches, once it is there."""

        def found() -> str | None:
            return next((line for line in self.log if re.search(pattern, line)), None)

        try:
            async with asyncio.timeout(PATIENCE), self._news:
                await self._news.wait_for(found)
        except TimeoutError:
            raise AssertionError(f"it does not say {pattern!r}:\n{self}") from None
        return found() or ""

    def terminate(self) -> None:
        """Tell it to stop."""
        self._process.terminate()

    async def ends(self, code: int = 0) -> None:
        """Wait for its end; a good one comes without a traceback."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._reading
                await asyncio.to_thread(self._process.join)
        except TimeoutError:
            raise AssertionError(f"it does not end:\n{self}") from None
        assert self._process.exitcode == code, f"exit code {self._process.exitcode}:\n{self}"
        assert code or "Traceback" not in str(self), str(self)

    async def kill(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        await self._reading
        await asyncio.to_thread(self._process.join)
        self._process.close()

    def __str__(self) -> str:
        return "\n".join(self.log)


#: Runs a program by name, with a bot for each server, and with variables of the environment.
Run = Callable[..., AbstractAsyncContextManager[Program]]


@asynccontextmanager
async def program(
    file: Path, folder: Path, database: URL, *servers: BotApiServer, **environment: str
) -> AsyncIterator[Program]:
    """Run a file as a program, for the time of a block.

    Args:
        file: The file.
        folder: Where it is run, and leaves its files.
        database: Its `DATABASE__URL`.
        *servers: Local Telegrams, whose tokens are `BOT_TOKEN` and `BOT_TOKENS`.
        **environment: More of the environment.

    Yields:
        The process.
    """
    url = database.render_as_string(hide_password=False)
    given = {"PWD": str(folder), "DATABASE__URL": url, **_MORE_TIME}
    if servers:
        given["BOT_TOKEN"] = servers[0].token
        given["BOT_TOKENS"] = " ".join(server.token for server in servers)
    urls = {server.token: server.url for server in servers}
    reader, writer = _FORKS.Pipe(duplex=False)
    process = _FORKS.Process(
        target=run, args=(writer, file, {**os.environ, **given, **environment}, urls)
    )
    with reader, writer:
        await asyncio.to_thread(process.start)
        read_end = os.fdopen(os.dup(reader.fileno()), "rb")
    log = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(log), read_end
    )
    running = Program(process, log)
    try:
        yield running
    finally:
        await running.kill()


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Return whether somebody listens on *port*; nobody is connected to."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return True
    return False


def hold_answers(server: BotApiServer, text: str) -> asyncio.Event:
    """Take messages with *text* in them from the bot, but answer only once the event is set.

    Args:
        server: The local Telegram.
        text: What is in each of these messages.

    Returns:
        The event.
    """
    released, send = asyncio.Event(), server._send_message

    async def send_slowly(call: ApiCall) -> dict[str, Any]:
        message = send(call)
        server.notify()  # people have it, although the bot has no answer yet
        if text in call.params["text"]:
            await released.wait()
        return message

    server.answer_with("sendMessage", send_slowly)
    return released


async def all_taken(server: BotApiServer) -> None:
    """Wait until the bot has taken all updates: each is in the hands of a handler, or done."""
    await server.wait(lambda: None if server.updates else True, "the bot to take them", PATIENCE)
