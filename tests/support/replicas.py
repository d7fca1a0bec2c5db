"""Replicas of a bot, each in a process: tests/faults/delivering.py, from outside."""

import asyncio
import json
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from support.forks import forked
from support.programs import environment

_PROGRAM: Final = Path(__file__).parents[1] / "faults" / "delivering.py"
#: Seconds until a replica is taken for hanging; the first one waits for the imports.
PATIENCE: Final = 100.0
T = TypeVar("T")


class Replica:
    """One process, from its beginning to its end.

    Attributes:
        pid: Its number in the operating system.
        port: Where its webhook listens.
        events: The topics of what it has told.
        code: Its exit code, once it has ended.
    """

    def __init__(self) -> None:
        self.pid = self.port = 0
        self.events: list[str] = []
        self.code: int | None = None
        self._news = asyncio.Event()

    @property
    def serves(self) -> bool:
        """True when it is ready, and has not ended."""
        return bool(self.port) and self.code is None

    def hear(self, what: str, value: str) -> None:
        """Take a line that it or its parent has said."""
        match what:
            case "pid":
                self.pid = int(value)
            case "ready":
                self.port = int(value)
            case "ended":
                self.code = int(value)
            case _:
                self.events.append(value)
        self._news.set()
        self._news = asyncio.Event()

    async def is_ready(self) -> None:
        """Wait until it serves."""
        await self._until(lambda: self.port or self.code is not None, "serve")
        assert self.port, f"it ended at once: {self.code}"

    async def has_ended(self) -> int:
        """Wait for its end; return its exit code."""
        await self._until(lambda: self.code is not None, "end")
        assert self.code is not None
        return self.code

    async def _until(self, condition: Callable[[], object], what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"a replica does not {what}; {self.events}") from None

    async def kill(self) -> None:
        """Kill it with SIGKILL, in whatever state it is."""
        self.signal(signal.SIGKILL)
        await self.has_ended()

    async def stop(self) -> None:
        """Tell it to stop with SIGTERM; it has to end well."""
        self.signal(signal.SIGTERM)
        assert await self.has_ended() == 0

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal: SIGTERM, SIGSTOP, SIGCONT."""
        if self.code is None:
            assert self.pid  # 0 would be all of this test's processes
            with suppress(ProcessLookupError):  # it has ended, and is just being told of
                os.kill(self.pid, number)

    async def is_born(self) -> None:
        """Wait until its number is known."""
        await self._until(lambda: self.pid or self.code is not None, "begin")


class Replicas:
    """Begins replicas, and is told by them.

    Args:
        process: The process that forks them.
        common: What is said to each of them; see `Life` in delivering.py.

    Attributes:
        all: All that have begun, also those that have ended.
    """

    def __init__(self, process: Process, common: dict[str, Any]) -> None:
        self._process = process
        self._common = common
        self.all: list[Replica] = []

    @property
    def serving(self) -> list[Replica]:
        """Those that take updates."""
        return [each for each in self.all if each.serves]

    async def begin(self, **life: Any) -> Replica:
        """Begin one, and return it when it serves."""
        assert self._process.stdin is not None
        replica = Replica()
        line = json.dumps({"number": len(self.all), **self._common, **life})
        self.all.append(replica)
        self._process.stdin.write(f"{line}\n".encode())
        await replica.is_ready()
        return replica

    def count(self, topic: str) -> int:
        """Return how often an event was told."""
        return sum(each.events.count(topic) for each in self.all)

    async def listen(self) -> None:
        """Hear what is said, for ever."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            number, what, *value = line.decode().split()
            self.all[int(number)].hear(what, " ".join(value))
        for each in self.all:  # who forks them has died, and tells nothing more
            if each.code is None:
                each.hear("ended", "1")

    async def end(self) -> None:
        """Kill all that live."""
        for each in self.all:
            await each.is_born()
            await each.kill()


@asynccontextmanager
async def replicas(**common: Any) -> AsyncIterator[Replicas]:
    """Yield what begins them; they end with the block.

    Args:
        **common: What is said to each of them; see `Life` in delivering.py.
    """
    process = await asyncio.create_subprocess_exec(
        *forked(_PROGRAM),
        stdin=PIPE,
        stdout=PIPE,
        env=environment(PYTHONPATH=str(Path(__file__).parents[1])),
    )
    found = Replicas(process, common)
    listening = asyncio.create_task(found.listen())
    try:
        yield found
    finally:
        await found.end()
        process.kill()
        await process.wait()
        await listening
