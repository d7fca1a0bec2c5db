"""A bot in a process of its own, its users, its printer, and who asks what happened."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from lifecycle.testing import BotApiServer

#: What the folder of the bot is called in what is shown.
FOLDER: Final = "/srv/bot"


class Answer(NamedTuple):
    """What a command showed.

    Args:
        command: The command, as it was typed.
        text: Its output.
        code: Its exit code.
    """

    command: str
    text: str
    code: int

    def terminal(self) -> str:
        """Return what a terminal showed."""
        return f"$ {self.command}\n{self.text}"


class Office:
    """A bot in a folder, its users and its printer; made by `office`.

    Args:
        folder: The folder of the bot.
        telegram: Where its users are.
        port: Where its printer is.
    """

    def __init__(self, folder: Path, telegram: BotApiServer, port: int) -> None:
        self.folder = folder
        self.telegram = telegram
        self.printer_works = asyncio.Event()
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.upper().startswith("DATABASE__")},
            "BOT_TOKEN": telegram.token,
            "NO_COLOR": "1",
            "PRINTER": str(port),
            "PYTHONUTF8": "1",
            "TELEGRAM": telegram.url,
        }

    @asynccontextmanager
    async def bot(self) -> AsyncIterator[Process]:
        """Run the bot; what still runs at the end of the block is killed."""
        with (self.folder / "log").open("ab") as log:
            process = await self._started(sys.executable, "bot.py", stdout=log, stderr=log)
            try:
                yield process
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()

    async def ask(self, command: str) -> Answer:
        """Run a command of `db-manager` in the folder of the bot."""
        name, *arguments = command.split()
        program = str(Path(sys.executable).with_name(name))
        asked = await self._started(program, *arguments, stdout=PIPE, stderr=STDOUT)
        shown, _ = await asked.communicate()
        text = shown.decode().replace(str(self.folder), FOLDER)
        return Answer(command, text, asked.returncode or 0)

    async def until_shown(self, text: str) -> None:
        """Follow the run until *text* is shown."""
        program = str(Path(sys.executable).with_name("db-manager"))
        follower = await self._started(program, "trace", "--follow", stdout=PIPE)
        assert follower.stdout is not None  # noqa: S101 -- it is a pipe
        while text not in (await follower.stdout.readline()).decode():
            if follower.stdout.at_eof():
                raise EOFError(f"the run ended, and {text!r} was not shown")
        follower.kill()
        await follower.communicate()

    async def _started(self, *command: str, **streams: Any) -> Process:
        return await asyncio.create_subprocess_exec(
            *command, cwd=self.folder, env=self._environment, **streams
        )


@asynccontextmanager
async def office(folder: Path) -> AsyncIterator[Office]:
    """Open an office for the bot in a folder.

    Args:
        folder: The folder of the bot.

    Yields:
        The office.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        what = await reader.readline()
        await opened.printer_works.wait()
        writer.write(b"Printed: " + what)
        writer.close()

    async with BotApiServer() as telegram:
        printer = await asyncio.start_server(answer, "127.0.0.1")
        opened = Office(folder, telegram, printer.sockets[0].getsockname()[1])
        try:
            yield opened
        finally:
            printer.close()
