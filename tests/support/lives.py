"""A program that is killed again and again: one process imports, and is forked for each life.

It is a file that calls `serve`, and is itself forked (`support.forks`). A life begins without
imports.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from support.forks import forked

#: Seconds for a line; the first one waits for the imports.
PATIENCE = 100


class Program:
    """A program, which lives once for each `begin`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._pid = 0

    async def begin(self, *arguments: str) -> None:
        """Begin a life, with arguments in which no blank is."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{' '.join(arguments)}\n".encode())
        self._pid = int(await self.read())

    async def read(self) -> str:
        """Return the next line that it says."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), PATIENCE)
        return line.decode().strip()

    async def kill(self) -> list[str]:
        """Kill it and return what it had still said."""
        with suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(self._pid, signal.SIGKILL)
        return await self.said()

    async def said(self) -> list[str]:
        """Return what it says until its end."""
        lines = []
        while (line := await self.read()) != "dead":
            lines.append(line)
        return lines


@asynccontextmanager
async def lives(file: Path) -> AsyncIterator[Program]:
    """Yield the program in a file; it ends with the block.

    Args:
        file: It calls `serve`.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}  # for this module
    process = await asyncio.create_subprocess_exec(
        *forked(file), stdin=PIPE, stdout=PIPE, env=environment
    )
    try:
        yield Program(process)
    finally:
        process.kill()
        await process.communicate()


def say(line: str) -> None:
    """Write a line so that it is out before anything else happens."""
    os.write(1, f"{line}\n".encode())


def serve(main: Callable[..., Coroutine[Any, Any, None]]) -> None:
    """Run a life for each line, with its words as arguments; what runs it is told of its end.

    Args:
        main: The life.
    """
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            say(str(os.getpid()))
            asyncio.run(main(*line.split()))
            return
        os.waitpid(pid, 0)
        say("dead")
