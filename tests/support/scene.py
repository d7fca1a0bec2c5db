"""A whole scene of durable delivery: people, a Telegram that fails, replicas, and their books."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from sqlalchemy.engine import URL
from support.crowd import Crowd
from support.replicas import Replicas, replicas
from support.unreliable import Arrival, UnreliableTelegram
from support.verdict import Books, Verdict, judge

#: Messages that Telegram takes from a bot in a second.
_TAKEN: Final = 30
#: Seconds between two looks at what is open.
_OFTEN: Final = 0.5
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
    #: Of each that was killed, what it was sending.
    held: list[set[Arrival]] = field(default_factory=list)
    #: Seconds for which nobody could write, because too much was open.
    held_back: float = 0.0

    @property
    def kills(self) -> int:
        """How many have been killed."""
        return len(self.held)

    @property
    def summary(self) -> str:
        """How many updates and messages there were, and whether the machine was too slow."""
        count = f"{self.crowd.said.total()} updates, {len(self.telegram.arrived)} messages"
        return f"{count}, held back for {self.held_back:.0f} s" if self.held_back else count

    def most_by_one_kill(self, again: Counter[Arrival]) -> int:
        """Return how many of *again* one kill has repeated, and no other can have.

        What one had that was killed may be with the next who is: by which of them it came twice,
        nothing says.
        """
        times = Counter(chain.from_iterable(self.held))
        alone = [sum(times[each] == 1 for each in held & again.keys()) for held in self.held]
        return max(alone, default=0)

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
            for fault in faults:
                group.create_task(again(fault))
            group.create_task(self._hold_back(over))
            await self.crowd.talk(self.size.seconds if seconds is None else seconds)
            over.set()

    async def _hold_back(self, over: asyncio.Event) -> None:
        """Let people write only while no more is open than can be sent in *patience*.

        A machine may be too slow for the rate: what waits then would say nothing of a fault. The
        row says for how long, as a product that got slower would be held back too. It ends by
        itself: aiosqlite leaves open what it was opening when it is cancelled.
        """
        while not over.is_set():
            is_much = await self.books.open_rows() > _TAKEN * self.size.patience
            (self.crowd.may_write.clear if is_much else self.crowd.may_write.set)()
            self.held_back += _OFTEN * is_much
            with suppress(TimeoutError):
                async with asyncio.timeout(_OFTEN):
                    await over.wait()

    async def kill_one(self) -> None:
        """Kill a replica with SIGKILL after 0.3 to 1.5 s, and begin another one."""
        await asyncio.sleep(random.uniform(0.3, 1.5))
        killed = random.choice(self.replicas.serving)
        await killed.kill()
        self.held.append(await self.books.held_by(killed.pid))
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
