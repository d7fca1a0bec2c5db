"""One replica asks Telegram at a time, and another goes on when it is gone: O10."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy.engine import URL
from support.accounting import connected
from support.proxy import PostgresProxy
from support.replicas import Replica
from support.scene import Scene, Size, scene

#: One person, and a lease that a busy machine does not miss.
ONE = Size(people=1, rate=10.0, seconds=0.3, lease=4.0, patience=60.0)
_LEADER = "SELECT owner FROM delivery__inbox WHERE update_id = 0"
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
#: When the row of a leader was last seen, while it is there.
_SEEN = "SELECT extract(epoch FROM seen_at)::float8 FROM delivery__member WHERE id = $1"

Row = Callable[..., None]


async def leader(admin: Any, *others: int) -> int:
    """Wait until somebody else than *others* asks for updates; return who."""
    async with asyncio.timeout(60):
        while (found := await admin.fetchval(_LEADER)) is None or found in others:  # noqa: ASYNC110 -- of a database
            await asyncio.sleep(0.02)
    return int(found)


@asynccontextmanager
async def two(url: URL, through: URL) -> AsyncIterator[tuple[Scene, Replica, int, Any]]:
    """Yield a scene with a leader, which finds the database elsewhere, and one that waits."""
    async with (
        connected(url) as admin,
        scene(url, ONE, count=0, receives="polling") as played,
    ):
        first = await played.replicas.begin(url=through.render_as_string(hide_password=False))
        number = await leader(admin)
        await played.replicas.begin()
        await played.talk()
        yield played, first, number, admin


@pytest.mark.parametrize("fault", ["killed", "frozen", "cut off"])
async def test_another_one_asks_when_the_leader_is_gone(
    postgres_database: URL, row: Row, fault: str
) -> None:
    """O10: who cannot say that it lives has ended its question before another one asks.

    Who is frozen cannot: it is told of a conflict when it wakes, and has stored nothing twice.
    """
    url = postgres_database
    async with (
        PostgresProxy(url.host or "", url.port or 0) as proxy,
        two(url, proxy.url(url)) as (played, first, number, admin),
    ):
        asked = played.telegram.asked
        match fault:
            case "killed":
                await first.kill()
            case "frozen":
                first.signal(signal.SIGSTOP)
            case _:
                proxy.refuse()
                proxy.cut()
        seen = await admin.fetchval(_SEEN, number)
        await leader(admin, number)
        waited = await admin.fetchval(_NOW) - seen
        async with asyncio.timeout(60):
            while played.telegram.asked == asked:  # noqa: ASYNC110 -- it tells nobody
                await asyncio.sleep(0.02)
        await played.talk()
        if fault == "frozen":
            first.signal(signal.SIGCONT)
        elif fault == "cut off":
            await proxy.resume()
        verdict = await played.settled()
        conflicts = played.telegram.conflicts
    assert (verdict.wrong(), verdict.duplicates) == ({}, 0)
    assert waited >= ONE.lease
    if fault != "frozen":
        assert conflicts == 0
    row(
        "O10",
        load=f"the one of two replicas that polls is {fault}, lease {ONE.lease:g} s",
        result=f"another polled {waited:.1f} s after its last sign of life, {conflicts} times two "
        f"asked at once; {played.summary}: 0 lost, 0 twice",
    )
