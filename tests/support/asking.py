"""`db-manager delivery`, as who operates a bot uses it: in a process of its own."""

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

from support.forks import forked

#: The exit code of the command, and the lines that it wrote.
Ask = Callable[..., Awaitable[tuple[int, list[str]]]]


def asker(config: Path) -> Ask:
    """Return a function that runs the command with this configuration."""

    async def ask(*arguments: str) -> tuple[int, list[str]]:
        line = ("delivery", *arguments, "--config", str(config))
        program = await asyncio.create_subprocess_exec(
            *forked("-m", "observability.commands.cli", *line),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "COLUMNS": "100"},
        )
        output, _ = await program.communicate()
        assert program.returncode is not None
        return program.returncode, output.decode().splitlines()

    return ask
