"""Somebody holds what a migration needs, for long: M8."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection
from support.project import Project
from support.shop import shop_at

from db_manager.dialects.migration import Migration

READ = "SELECT * FROM shop__item"
#: What somebody has done who keeps a migration waiting: on SQLite readers keep nobody.
HOLDS = {"postgresql": READ, "mysql": READ, "sqlite": "UPDATE shop__item SET id = id"}
#: How many wait for the table.
WAITING = {
    "postgresql": "SELECT count(*) FROM pg_locks"
    " WHERE relation = 'shop__item'::regclass AND NOT granted",
    "mysql": "SELECT count(*) FROM information_schema.processlist"
    " WHERE db = database() AND state = 'Waiting for table metadata lock'",
}
#: Where readers wait behind a migration: on SQLite they go on.
WAITED_BEHIND = ["asyncpg", "psycopg", "mariadb"]

Row = Callable[..., None]


@pytest.fixture
def shop(tmp_path: Path, url: URL) -> Project:
    """A project with two revisions."""
    return shop_at(tmp_path / "shop", url)


async def until(connection: AsyncConnection, asked: str, value: int) -> None:
    """Ask until *asked* says *value*."""
    while await connection.scalar(text(asked)) != value:
        await connection.rollback()
    await connection.rollback()


@asynccontextmanager
async def held(shop: Project, url: URL) -> AsyncIterator[tuple[AsyncConnection, AsyncConnection]]:
    """Yield a connection that keeps the second revision waiting, and another one."""
    await shop.upgrade("0001")
    engine = shop.engine()
    try:
        async with engine.connect() as holder, engine.connect() as other:
            await holder.execute(text(HOLDS[url.get_backend_name()]))
            yield holder, other
    finally:
        await engine.dispose()


async def wait_behind(other: AsyncConnection, url: URL) -> float:
    """Come after a migration that waits for the table; return for how long that takes."""
    if url.get_backend_name() in WAITING:
        await until(other, WAITING[url.get_backend_name()], 1)
    else:
        await asyncio.sleep(Migration.lock_wait)
    begun = time.perf_counter()
    await other.execute(text(READ))
    await other.rollback()
    return time.perf_counter() - begun


async def test_it_migrates_when_the_holder_leaves(
    shop: Project, url: URL, row: Row, *, full: bool
) -> None:
    """M8: locks are asked for in short turns, so that whoever comes later gets in between."""
    turns = 4 if full else 2
    async with held(shop, url) as (holder, other):
        migrating = asyncio.create_task(shop.upgrade())
        waits = [await wait_behind(other, url) for _ in range(turns)]
        assert not migrating.done()
        await holder.rollback()
        assert await migrating == ["0002_second"]
    assert await shop.say("SELECT n FROM shop__item") == [(8,)]
    assert max(waits) <= Migration.lock_wait + 1
    row(
        "M8",
        load=f"{url.drivername}: somebody holds the table for {turns} turns of "
        f"{Migration.lock_wait:g} s",
        result=f"migrated when he left; others waited for {max(waits):.1f} s at most",
    )


@pytest.mark.parametrize("url", WAITED_BEHIND, indirect=True)
async def test_one_long_wait_is_noticed(
    shop: Project, url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M8, the wrong way: who waits as long as it takes lets everybody wait."""
    monkeypatch.setattr(Migration, "lock_wait", 600.0)
    async with held(shop, url) as (holder, other):
        migrating = asyncio.create_task(shop.upgrade())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await wait_behind(other, url)
        await holder.rollback()
        await migrating
