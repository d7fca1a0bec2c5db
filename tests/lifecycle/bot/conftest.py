"""A local Bot API, and bots in processes of their own that get signals."""

import asyncio
import json
import os
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.forks import forked

from lifecycle.journal import JournalEntry, SqliteJournal
from lifecycle.plugins.machine import State
from lifecycle.plugins.replay import replay
from lifecycle.testing import BotApiServer


@pytest.fixture
async def server() -> AsyncIterator[BotApiServer]:
    """Yield a running Bot API."""
    async with BotApiServer() as server:
        yield server


class Child:
    """The bot of stopping_bot.py in a process of its own."""

    def __init__(self, server: BotApiServer, folder: Path, fork_server: Process, pid: int) -> None:
        self.ada = server.user(id=7, name="Ada")
        self.folder = folder
        self.pid = pid
        self.fork_server = fork_server

    def terminate(self) -> None:
        """Send SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)

    async def says(self, text: str) -> None:
        """Wait for a message of the bot."""
        assert (await self.ada.reply(timeout=20)).text == text

    async def exit_code(self) -> int:
        """Wait for the end."""
        return await read_number(self.fork_server)

    @property
    def stderr(self) -> str:
        """What it wrote to standard error."""
        return (self.folder / "stderr").read_text()

    async def history(self) -> list[JournalEntry]:
        """Wait for the end, check that it is a good one, and return the journal."""
        assert await self.exit_code() == 0, self.stderr
        assert self.stderr == ""
        entries = self.journal()
        assert entries[-1].event.topic == "plugin.unloaded"
        return entries

    def journal(self) -> list[JournalEntry]:
        """Return the journal of a run that has given everything back and has an end."""
        assert list((self.folder / "held").iterdir()) == []
        with SqliteJournal.read(self.folder / "journal") as journal:
            [run] = journal.runs()
            entries = list(journal.entries())
        assert run.ended_at is not None
        assert replay(entries) == {"holder": State.UNLOADED}
        return entries


async def read_number(fork_server: Process) -> int:
    """Read a line of the process that forks the bots."""
    assert fork_server.stdout is not None
    return int(await asyncio.wait_for(fork_server.stdout.readline(), 30))


@pytest.fixture(scope="module")
async def fork_server() -> AsyncIterator[Process]:
    """Yield the process that forks the bots; it is forked itself."""
    pipe = asyncio.subprocess.PIPE
    script = forked(Path(__file__).parent / "stopping_bot.py")
    process = await asyncio.create_subprocess_exec(*script, stdin=pipe, stdout=pipe)
    yield process
    process.kill()
    await process.communicate()


@pytest.fixture
async def run_child(
    fork_server: Process, server: BotApiServer, tmp_path: Path
) -> AsyncIterator[Callable[..., Any]]:
    """Yield a function that starts the bot; what still runs at the end is killed."""
    pids: list[int] = []

    async def start(slow: str = "", beside: tuple[str, ...] = (), **settings: float) -> Child:
        (tmp_path / "held").mkdir()
        arguments = {
            "url": server.url,
            "token": server.token,
            "folder": str(tmp_path),
            "slow": slow,
            "beside": beside,
            "config": {"app": {"journal": str(tmp_path / "journal"), **settings}},
        }
        assert fork_server.stdin is not None
        fork_server.stdin.write(json.dumps(arguments).encode() + b"\n")
        pids.append(await read_number(fork_server))
        return Child(server, tmp_path, fork_server, pids[0])

    yield start
    with suppress(ProcessLookupError):
        os.kill(pids[0], signal.SIGKILL)  # a test that failed half way
        await read_number(fork_server)
