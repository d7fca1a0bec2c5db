"""Processes that migrate: tests/faults/migrating.py, from outside."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy.engine import URL
from support.programs import environment

_PROGRAM: Final = Path(__file__).parents[1] / "faults" / "migrating.py"
#: Seconds until processes are taken for hanging.
_LONGEST: Final = 100


class Migrators:
    """Runs processes that start bots with migrations.

    Args:
        process: The process that forks them.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._pids: list[int] = []

    async def begin(self, url: URL, folder: Path, **run: Any) -> None:
        """Let processes start; see `Run` in migrating.py."""
        assert self._process.stdin is not None
        where = url.render_as_string(hide_password=False)
        line = json.dumps({"url": where, "folder": str(folder), **run})
        self._process.stdin.write(f"{line}\n".encode())

    async def said(self) -> str:
        """Return the next line."""
        assert self._process.stdout is not None
        async with asyncio.timeout(_LONGEST):
            line = (await self._process.stdout.readline()).decode().strip()
        if line.startswith("pid "):
            self._pids.append(int(line.split()[1]))
            return await self.said()
        return line

    async def end(self) -> list[str]:
        """Wait for the end of the processes; return what they said."""
        lines = []
        while (line := await self.said()) != "end":
            lines.append(line)
        self._pids.clear()
        return lines

    async def start(self, url: URL, folder: Path, **run: Any) -> list[str]:
        """Let processes start and end; return what they said."""
        await self.begin(url, folder, **run)
        return await self.end()

    def kill(self) -> None:
        """Kill those that have said their number."""
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def migrators() -> AsyncIterator[Migrators]:
    """Yield what runs them."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        _PROGRAM,
        stdin=PIPE,
        stdout=PIPE,
        env=environment(PYTHONPATH=str(Path(__file__).parents[1])),
    )
    try:
        yield Migrators(process)
    finally:
        process.kill()
        await process.communicate()
