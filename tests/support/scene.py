"""A whole scene of durable delivery: people, a Telegram that fails, replicas, and their books."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.engine import URL
from support.crowd import Crowd
from support.replicas import Replicas, replicas
from support.unreliable import UnreliableTelegram
from support.verdict import Books, Verdict, judge

#: Messages of a process that are sent and not marked, by default.
WINDOW: Final = 20


@dataclass(frozen=True)
class Size:
    """How much happens in a row, and how long what is left may take.

    Args:
        people: How many write.
        rate: Their updates in a second.
        seconds: For how long.
        lease: Seconds without a sign of life until others take over.
        patience: Seconds after the last fault until all is sent; a short run says nothing of them.
    """

    people: int
    rate: float
    seconds: float
    lease: float
    patience: float


FULL: Final = Size(people=40, rate=60.0, seconds=60.0, lease=6.0, patience=18.0)
SHORT: Final = Size(people=8, rate=25.0, seconds=3.0, lease=2.0, patience=40.0)


@dataclass
class Scene:
    """What a row of the fault matrix plays with."""

    telegram: UnreliableTelegram
    replicas: Replicas
    crowd: Crowd
    books: Books
    size: Size
    #: How many replicas there are at a time.
    count: int
    #: How many of them have been killed; and the messages of these, in the mean, that Telegram had
    #: and had not answered.
    kills: int = 0
    unanswered: float = 0.0

    @property
    def summary(self) -> str:
        """How many updates and messages there were."""
        return f"{self.crowd.said.total()} updates, {len(self.telegram.arrived)} messages"

    async def settled(self) -> Verdict:
        """Wait until nothing is left to be sent; return what became of all."""
        await self.books.settle(self.size.patience)
        return await self.verdict()

    async def verdict(self) -> Verdict:
        """Return what became of all updates and messages so far."""
        return judge(self.crowd.said, await self.books.entries(), self.telegram.arrived)

    async def talk(
        self, *faults: Callable[[], Awaitable[None]], seconds: float | None = None
    ) -> None:
        """Let people write, and all of *faults* happen again and again meanwhile.

        Args:
            *faults: Each is awaited before it happens again.
            seconds: For how long; by default that of the size.
        """
        over = asyncio.Event()

        async def again(fault: Callable[[], Awaitable[None]]) -> None:
            while not over.is_set():
                await fault()

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(again(fault)) for fault in faults]
            await self.crowd.talk(self.size.seconds if seconds is None else seconds)
            over.set()
            await asyncio.gather(*tasks)

    async def kill_one(self) -> None:
        """Kill a replica with SIGKILL after 0.3 to 1.5 s, and begin another one."""
        await asyncio.sleep(random.uniform(0.3, 1.5))
        killed = random.choice(self.replicas.serving)
        self.unanswered += self.telegram.unanswered / len(self.replicas.serving)
        await killed.kill()
        self.kills += 1
        await self.replicas.begin()

    async def revive(self) -> None:
        """Begin a replica for one that has ended by itself."""
        await asyncio.sleep(0.05)
        if len(self.replicas.serving) < self.count:
            await self.replicas.begin()

    async def freeze_one(self, seconds: float) -> None:
        """Stop a replica after a while with SIGSTOP, for some time, and let it go on."""
        await asyncio.sleep(random.uniform(0.3, 1.5))
        frozen = random.choice(self.replicas.serving)
        frozen.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        frozen.signal(signal.SIGCONT)


@asynccontextmanager
async def scene(
    url: URL,
    size: Size = SHORT,
    *,
    count: int | None = None,
    repeats: float = 0.0,
    through: URL | None = None,
    keys: dict[str, Any] | None = None,
    way: str = "right",
    **life: Any,
) -> AsyncIterator[Scene]:
    """Yield a scene that has begun.

    Args:
        url: An empty database.
        size: How many people write how much.
        count: How many replicas; by default three, and one where only one can be.
        repeats: Share of the updates that come again.
        through: Where replicas find the database, if not there.
        keys: Of the section [delivery], besides the lease and the inbox.
        way: How replicas answer.
        **life: Of each replica; see `Life` in tests/faults/delivering.py.
    """
    books = Books(url, inbox=way == "right")
    await books.open()
    async with (
        UnreliableTelegram(size.people) as telegram,
        replicas(
            url=(through or url).render_as_string(hide_password=False),
            api=telegram.url,
            token=telegram.token,
            way=way,
            keys={"inbox": True, "lease": size.lease, "window": WINDOW, **(keys or {})},
            **life,
        ) as begun,
    ):
        polled = life.get("receives") == "polling"
        crowd = Crowd(telegram, begun, rate=size.rate, repeats=repeats, polled=polled)
        if count is None:
            count = 1 if url.get_backend_name() == "sqlite" else 3
        for _ in range(count):
            await begun.begin()
        yield Scene(telegram, begun, crowd, books, size, count)
