"""Messages survive a database and a Telegram that fail, and processes that freeze: O3 and O4."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

import pytest
from sqlalchemy.engine import URL
from support.accounting import connected
from support.postgres import Databases, PostgresServer
from support.scene import FULL, WINDOW, Scene, Size, scene

#: Shares of the messages that go wrong.
TROUBLE = {"500": 0.03, "429": 0.01, "request": 0.02, "answer": 0.02}

Row = Callable[..., None]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that may crash."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
async def database(server: PostgresServer) -> AsyncIterator[URL]:
    """A database of this test's own on it."""
    databases = Databases(server.url())
    url = await databases.create()
    yield url
    await databases.drop(url)


class Trouble:
    """What happens to the database, and for how much it is an excuse.

    Args:
        server: The server.
        url: The database.
        size: How much happens.
    """

    def __init__(self, server: PostgresServer, url: URL, size: Size) -> None:
        self.crashes = self.terminated = self.freezes = 0
        self._server = server
        self._url = url
        self._size = size
        self._up = asyncio.Lock()

    async def crash(self) -> None:
        """Crash the server after a while, and start it again."""
        is_full = self._size.seconds == FULL.seconds
        await asyncio.sleep(random.uniform(*(6, 14) if is_full else (1, 2)))
        async with self._up:
            await asyncio.to_thread(self._server.restart, "immediate")
        self.crashes += 1

    async def terminate(self) -> None:
        """Terminate a backend of some replica after a while."""
        await asyncio.sleep(random.uniform(0.2, 0.8))
        async with self._up, connected(self._url) as admin:
            self.terminated += await admin.fetchval("""
                SELECT count(pg_terminate_backend(pid)) FROM (
                    SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'replica_%'
                    ORDER BY random() LIMIT 1) AS one
            """)

    async def freeze(self, played: Scene) -> None:
        """Freeze a replica for longer than its lease."""
        await played.freeze_one(self._size.lease + random.uniform(0.5, 3))
        self.freezes += 1

    def bound(self, played: Scene) -> int:
        """Return how many messages may come twice."""
        # All replicas lose what they have not marked when the server crashes.
        deaths = played.kills + 3 * self.crashes + self.terminated + self.freezes
        return deaths * WINDOW + played.telegram.troubles["answer"]

    def load(self, played: Scene) -> str:
        """Return what has happened."""
        return (
            f"{played.kills} x SIGKILL, {self.freezes} x SIGSTOP, {self.crashes} crashes and "
            f"{self.terminated} killed backends of PostgreSQL, "
            f"{played.telegram.troubles.total()} faults of Telegram"
        )


@pytest.mark.parametrize("frozen", ["never", "beside", "alone"])
async def test_messages_survive_all_at_once(
    server: PostgresServer, database: URL, size: Size, row: Row, frozen: str
) -> None:
    """O3, O4: processes and the database die, Telegram refuses and loses, some freeze: all is sent.

    Who was frozen for longer than its lease is expelled, and does not go on with what others have.
    """
    if frozen == "beside":
        # With a kill a second and handlers of up to a second many updates are there at two deaths:
        # then each of them is handled alone. On a busy machine that took 93 s, where 18 are given.
        size = replace(size, patience=10 * size.patience)
    trouble = Trouble(server, database, size)
    async with scene(database, size, seconds=1.0 if frozen != "never" else 0.0) as played:
        played.telegram.latency = 0.05
        faults = []
        if frozen != "alone":
            played.telegram.trouble = TROUBLE
            faults += [played.kill_one, trouble.crash, trouble.terminate]
        if frozen != "never":
            faults.append(lambda: trouble.freeze(played))
        await played.talk(*faults)
        played.telegram.trouble = {}
        verdict = await played.settled()
        assert verdict.wrong() == {}
        assert verdict.duplicates <= trouble.bound(played)
        if frozen == "alone":
            assert played.replicas.count("member.expelled")
    row(
        "O3" if frozen == "never" else "O4",
        load=trouble.load(played),
        result=f"{played.summary}: 0 lost, 0 out of order, {verdict.duplicates} twice",
    )
