"""A pool whose connections fail, hang and die at random loses no place and forgets nobody."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import exc
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import await_only, greenlet_spawn

from db_manager.engine.pool import FairQueuePool

SIZE, OVERFLOW = 3, 2


class RefusedError(OSError):
    """What the server says to who comes."""


class FakeConnection:
    """A connection to nothing, that can die."""

    def __init__(self, server: "Server") -> None:
        self.server = server
        self.closed = False
        server.open.add(self)

    def close(self) -> None:
        """Close, which takes a moment."""
        self.closed = True
        self.server.open.discard(self)
        await_only(asyncio.sleep(0))

    def rollback(self) -> None:
        """Do nothing."""


class Server:
    """Takes, refuses or ignores who comes."""

    def __init__(self) -> None:
        self.open: set[FakeConnection] = set()
        self.mood: Callable[[], str] = lambda: "take"
        self.attempts = self.most_at_once = self.now = 0
        self.go_on = asyncio.Event()

    def connect(self) -> Any:
        """Connect; runs in a greenlet."""
        self.attempts += 1
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        try:
            await_only(asyncio.sleep(0))
            mood = self.mood()
            if mood == "hang":
                await_only(self.go_on.wait())
            if mood == "refuse":
                raise RefusedError("no more")
            return FakeConnection(self)
        finally:
            self.now -= 1

    def pool(self, **how: Any) -> FairQueuePool:
        """Return a pool of this server's connections."""
        how = {"pool_size": SIZE, "max_overflow": OVERFLOW, "timeout": 5.0, **how}
        return FairQueuePool(self.connect, **how)


async def take(pool: FairQueuePool) -> PoolProxiedConnection:
    """Take a connection out of the pool."""
    return await greenlet_spawn(pool.connect)


async def give_back(connection: PoolProxiedConnection) -> None:
    """Give it back."""
    await greenlet_spawn(connection.close)


async def settle(turns: int = 50) -> None:
    """Let every task run as far as it can."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def assert_whole(pool: FairQueuePool, server: Server) -> None:
    """Assert that every place of the pool can be used, and none beyond."""
    server.mood = lambda: "take"
    server.go_on.set()
    pool._timeout = 60.0
    await settle()
    assert pool.checkedout() == 0
    assert pool._pool.waiting == 0
    taken = [await take(pool) for _ in range(SIZE + OVERFLOW)]
    assert pool.checkedout() == len(server.open) == SIZE + OVERFLOW
    waiting = asyncio.create_task(take(pool))
    await settle()
    assert not waiting.done()
    await give_back(taken.pop())
    taken.append(await waiting)
    for connection in taken:
        await give_back(connection)
    await settle()
    assert (pool.checkedout(), pool.checkedin(), len(server.open)) == (0, SIZE, SIZE)


async def live(
    chance: random.Random, pool: FairQueuePool, server: Server, connection: PoolProxiedConnection
) -> None:
    """Use a connection for a while, let something become of it, and give it back."""
    await settle(chance.randint(0, 4))
    fate = chance.random()
    under: Any = connection.dbapi_connection
    if fate < 0.1:
        await greenlet_spawn(connection.invalidate)
    elif fate < 0.2:
        under.closed = True
        server.open.discard(under)
    elif fate < 0.25:
        await greenlet_spawn(pool._invalidate, connection)
    await give_back(connection)


@pytest.mark.parametrize("seed", range(10))
async def test_chance(seed: int, *, full: bool) -> None:
    """Whatever fails, hangs, dies or is cancelled, in any order, the pool is whole afterwards."""
    chance = random.Random(seed)
    for _ in range(20 if full else 2):
        server = Server()
        moods = ["take"] * chance.randint(0, 6) + ["refuse"] * chance.randint(1, 3) + ["hang"]
        server.mood = lambda: chance.choice(moods)  # noqa: B023 -- called in this turn only
        pool = server.pool(
            timeout=chance.choice([0.05, 5.0]), recycle=chance.choice([-1, 1e-6, 3600])
        )

        used: list[asyncio.Task[None]] = []

        async def use() -> None:
            connection = await take(pool)  # noqa: B023 -- as above
            used.append(asyncio.create_task(live(chance, pool, server, connection)))  # noqa: B023 -- as above

        tasks = []
        for _ in range(100):
            tasks.append(asyncio.create_task(use()))
            if chance.random() < 0.3:
                chance.choice(tasks).cancel()
            await settle(chance.randint(0, 3))
        server.go_on.set()
        async with asyncio.timeout(20):
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*used)
        kinds = {type(error) for error in ended if error is not None}
        assert kinds <= {RefusedError, asyncio.CancelledError, exc.TimeoutError}, kinds
        await assert_whole(pool, server)
        await greenlet_spawn(pool.dispose)
        assert not server.open


async def test_a_refusing_server_sees_one_attempt_at_a_time() -> None:
    """While others serve, a refusal is followed by a pause, and then by a single attempt."""
    server = Server()
    pool = server.pool()
    held = await take(pool)
    server.mood = lambda: "refuse"
    waiting = [asyncio.create_task(take(pool)) for _ in range(50)]
    await settle()
    assert server.attempts == SIZE + OVERFLOW  # the first burst, of what the pool had room for
    server.most_at_once = 0
    while server.attempts < SIZE + OVERFLOW + 3:  # noqa: ASYNC110 -- the pauses are the pool's
        await asyncio.sleep(0.01)
    assert server.most_at_once == 1
    assert not any(task.done() for task in waiting)
    await give_back(held)
    for task in waiting:
        await give_back(await task)
    await assert_whole(pool, server)


async def test_without_a_connection_a_refusal_is_for_everybody_who_waits() -> None:
    """Who waits shares one attempt and its error; who comes next makes the next attempt."""
    server = Server()
    server.mood = lambda: "refuse"
    pool = server.pool()
    with pytest.raises(RefusedError):
        await take(pool)
    server.attempts = 0
    ended = await asyncio.gather(*(take(pool) for _ in range(50)), return_exceptions=True)
    assert [type(error) for error in ended] == [RefusedError] * 50
    assert server.attempts == 1
    server.mood = lambda: "take"
    await give_back(await take(pool))
    assert not pool.refusal
    await assert_whole(pool, server)


async def test_an_attempt_of_before_the_refusal_does_not_undo_it() -> None:
    """A connection that was granted before a later one was refused says nothing about the next."""
    server = Server()
    pool = server.pool()
    held = await take(pool)
    server.mood = lambda: "hang"
    early = asyncio.create_task(take(pool))
    await settle()
    server.mood = lambda: "refuse"
    late = asyncio.create_task(take(pool))
    await settle()
    assert pool.refusal
    server.go_on.set()
    await give_back(await early)
    await settle()
    assert pool.refusal
    await give_back(await late)
    await give_back(held)
    await assert_whole(pool, server)


async def test_a_dead_connection_costs_nobody_the_place_in_the_line() -> None:
    """Who is handed a dead connection is the next to be served."""
    server = Server()
    pool = server.pool(pool_size=2, max_overflow=0)
    dying, healthy = [await take(pool) for _ in range(2)]
    server.mood = lambda: "refuse"
    served: list[int] = []

    async def wait(number: int) -> None:
        connection = await take(pool)
        served.append(number)
        await give_back(connection)

    waiting = []
    for number in range(3):
        waiting.append(asyncio.create_task(wait(number)))
        await settle()
    under: Any = dying.dbapi_connection
    under.closed = True
    await give_back(dying)
    await settle()
    await give_back(healthy)
    await asyncio.gather(*waiting)
    assert served == [0, 1, 2]


async def test_the_aged_are_replaced_one_after_the_other() -> None:
    """A burst on old connections gives up one of them, and uses the others."""
    server = Server()
    pool = server.pool(recycle=3600)
    for connection in [await take(pool) for _ in range(SIZE)]:
        await give_back(connection)
    for entry in pool._entries:
        entry.starttime -= 7200  # type: ignore[attr-defined]  # of SQLAlchemy's own class
    server.mood = lambda: "refuse"
    burst = [asyncio.create_task(take(pool)) for _ in range(SIZE)]
    await settle()
    assert pool.refusal
    assert len(server.open) == SIZE - 1
    for _ in range(SIZE):
        for task in burst:
            if task.done():
                await give_back(task.result())
        burst = [task for task in burst if not task.done()]
        await settle()
    assert not burst
    await assert_whole(pool, server)


async def test_a_dispose_ends_attempts() -> None:
    """A pool that is disposed leaves no attempt behind that would open a connection later."""
    server = Server()
    server.mood = lambda: "hang"
    pool = server.pool()
    waiting = [asyncio.create_task(take(pool)) for _ in range(3)]
    await settle()
    assert server.now == 3
    for task in waiting:
        task.cancel()
    await greenlet_spawn(pool.dispose)
    await asyncio.wait(waiting)
    server.go_on.set()
    await settle()
    assert (server.now, server.open) == (0, set())
