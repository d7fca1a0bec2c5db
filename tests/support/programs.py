"""Programs as their users start them: a command that ends well, a bot that runs until it is told.

Their command line begins with `forked` (`support.forks`) or, where the start of Python is a part of
what is tested, with `sys.executable`.
"""

import asyncio
import os
import re
import subprocess
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from lifecycle.testing import BotApiServer
from lifecycle.testing.telegram.calls import ApiCall

#: Seconds for a line of the log, and for the end; the first forked one waits for the imports.
PATIENCE: Final = 60.0
#: Seconds until a command is taken for hanging.
LONGEST: Final = 240
#: What is said to bots, tests and this test's own run; no program that is started here hears it.
SAID: Final = ("APP__", "BOT_", "COV_", "DATABASE__", "OBSERVABILITY__", "PYTEST_", "SANDBOX_")
#: Its `sitecustomize.py` leads bots to the local Telegrams.
LOCAL_BOTS: Final = Path(__file__).parent / "local_bots"


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of this process without what is said in it, and with *variables*."""
    return {**{k: v for k, v in os.environ.items() if not k.startswith(SAID)}, **variables}


def local(*telegrams: BotApiServer) -> dict[str, str]:
    """Return the variables that lead a program's bots, by their tokens, to local Telegrams."""
    urls = " ".join(f"{each.token}={each.url}" for each in telegrams)
    return {"PYTHONPATH": str(LOCAL_BOTS), "LOCAL_TELEGRAMS": urls}


def ended(*command: str | Path, cwd: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end.

    Args:
        *command: The program and its arguments.
        cwd: Where it runs.
        **variables: Of its environment.

    Returns:
        Its exit code, and what it said.
    """
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        encoding="utf-8",
        timeout=LONGEST,
        check=False,
    )


def said_by(*command: str | Path, cwd: Path, code: int = 0, **variables: str) -> str:
    """Return what a command says, output and errors, after it has ended with exit code *code*."""
    run = ended(*command, cwd=cwd, **variables)
    assert run.returncode == code, run.stdout + run.stderr
    return run.stdout + run.stderr


class Program:
    """A process that runs.

    Args:
        process: The process.

    Attributes:
        log: The lines that it has written to standard error.
    """

    def __init__(self, process: Process) -> None:
        assert process.stderr is not None
        self._process = process
        self.log: list[str] = []
        self._news = asyncio.Condition()
        self._reading = asyncio.create_task(self._read(process.stderr))

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
                await self._process.wait()
        except TimeoutError:
            raise AssertionError(f"it does not end:\n{self}") from None
        assert self._process.returncode == code, f"code {self._process.returncode}:\n{self}"
        assert code or "Traceback" not in str(self), str(self)

    async def kill(self) -> None:
        """End it, if it has not ended."""
        if self._process.returncode is None:
            self._process.kill()
        await self._reading
        await self._process.wait()

    def __str__(self) -> str:
        return "\n".join(self.log)


@asynccontextmanager
async def running(*command: str | Path, cwd: Path, **variables: str) -> AsyncIterator[Program]:
    """Run a program for the time of a block.

    Args:
        *command: The program and its arguments.
        cwd: Where it runs, and leaves its files.
        **variables: Of its environment; see `local`.

    Yields:
        The program.
    """
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=environment(**variables), stderr=PIPE
    )
    program = Program(process)
    try:
        yield program
    finally:
        await program.kill()


@asynccontextmanager
async def polling(
    *command: str | Path, cwd: Path, telegram: BotApiServer, **variables: str
) -> AsyncIterator[Program]:
    """Run a bot on a local Telegram for a block; then SIGTERM stops it, and it has to end well."""
    async with running(*command, cwd=cwd, **local(telegram), **variables) as program:
        yield program
        program.terminate()
        await program.ends()


#: Runs a recipe by name, with a bot for each server, and with variables of the environment.
Run = Callable[..., AbstractAsyncContextManager[Program]]


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
