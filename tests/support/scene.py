"""A whole scene of durable delivery: people, a Telegram that fails, replicas, and their books."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import URL
from support.crowd import Crowd
from support.replicas import Replicas, replicas
from support.unreliable import UnreliableTelegram
from support.verdict import Books, Verdict, judge


@dataclass
class Scene:
    """What a row of the fault matrix plays with."""

    telegram: UnreliableTelegram
    replicas: Replicas
    crowd: Crowd
    books: Books

    async def verdict(self) -> Verdict:
        """Return what became of all updates and messages so far."""
        return judge(self.crowd.said, await self.books.entries(), self.telegram.arrived)

    async def talk(self, seconds: float, *faults: Callable[[], Awaitable[None]]) -> None:
        """Let people write for some time, and all of *faults* happen again and again meanwhile."""
        over = asyncio.Event()

        async def again(fault: Callable[[], Awaitable[None]]) -> None:
            while not over.is_set():
                await fault()

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(again(fault)) for fault in faults]
            await self.crowd.talk(seconds)
            over.set()
            await asyncio.gather(*tasks)

    async def kill_one(self) -> None:
        """Kill a replica with SIGKILL after 0.3 to 1.5 s, and begin another one."""
        await asyncio.sleep(random.uniform(0.3, 1.5))
        await random.choice(self.replicas.serving).kill()
        await self.replicas.begin()

    async def freeze_one(self, seconds: float) -> None:
        """Stop a replica after a while with SIGSTOP, for some time, and let it go on."""
        await asyncio.sleep(random.uniform(0.3, 1.5))
        frozen = random.choice(self.replicas.serving)
        frozen.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        frozen.signal(signal.SIGCONT)

    @property
    def kills(self) -> int:
        """How many replicas have been killed."""
        return sum(each.code == -signal.SIGKILL for each in self.replicas.all)


@asynccontextmanager
async def scene(
    url: URL,
    *,
    count: int = 3,
    people: int = 8,
    rate: float = 30.0,
    repeats: float = 0.0,
    tables: tuple[str, ...] = (),
    **life: Any,
) -> AsyncIterator[Scene]:
    """Yield a scene that has begun.

    Args:
        url: An empty database.
        count: How many replicas.
        people: How many people.
        rate: How many updates they write in a second.
        repeats: Share of the updates that come again.
        tables: More of the database.
        **life: Of each replica; see `Life` in tests/faults/delivering.py.
    """
    books = Books(url)
    await books.open(*tables)
    async with (
        UnreliableTelegram(people) as telegram,
        replicas(
            url=url.render_as_string(hide_password=False),
            api=telegram.url,
            token=telegram.token,
            **life,
        ) as begun,
    ):
        polled = life.get("receives") == "polling"
        crowd = Crowd(telegram, begun, rate=rate, repeats=repeats, polled=polled)
        for _ in range(count):
            await begun.begin()
        yield Scene(telegram, begun, crowd, books)
