"""A NATS server with JetStream, where it is installed."""

import asyncio
import os
import shutil
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import nats
import pytest
from support.ports import free_port

_PATIENCE: Final = 20.0


def nats_program() -> str:
    """Return where NATS is installed; without it, as pip has none, a test is not run."""
    program = shutil.which("nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("not run: nats-server is not installed")
    return program


class NatsServer:
    """A server of our own, which keeps its streams when it is killed.

    Args:
        program: Its program.
        folder: Where its streams are.
        port: Where it listens.
    """

    def __init__(self, program: str, folder: str, port: int) -> None:
        self.url = f"nats://127.0.0.1:{port}"
        self._line = (program, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", folder)
        self._process: Process

    async def begin(self) -> None:
        """Begin, and return when it answers."""
        self._process = await asyncio.create_subprocess_exec(
            *self._line, stdout=DEVNULL, stderr=DEVNULL
        )
        async with asyncio.timeout(_PATIENCE):
            client = await nats.connect(
                self.url, max_reconnect_attempts=-1, reconnect_time_wait=0.05
            )
        await client.close()

    async def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def nats_server() -> AsyncIterator[NatsServer]:
    """Yield a server that has begun; it ends with the block, and its streams with it."""
    program = nats_program()
    with tempfile.TemporaryDirectory(prefix="db_manager_nats_") as folder:
        server = NatsServer(program, folder, free_port())
        await server.begin()
        try:
            yield server
        finally:
            await server.kill()
