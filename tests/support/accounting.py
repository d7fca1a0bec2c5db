"""Databases whose books must balance at the end: nothing checked out, open or busy."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
from sqlalchemy.engine import URL

from db_manager.config import DatabaseConfig
from db_manager.database.database import Database, UnitSettings
from db_manager.engine.create import create_engine
from lifecycle.bus import EventBus

#: Seconds in which the server must have noticed that a client is gone.
SETTLE_TIME = 1.0

_numbers = itertools.count(1)
_BUSY = """
    SELECT state || ': ' || query FROM pg_stat_activity
    WHERE application_name = $1 AND state <> 'idle'
"""


@asynccontextmanager
async def accounted(
    url: URL, *, server: URL | None = None, check: bool = True, **keys: Any
) -> AsyncIterator[Database]:
    """Open a database as the plugin does; balance its books and close it at the end of the block.

    Args:
        url: Where it is, for the units.
        server: Where it really is, when *url* leads through a proxy.
        check: False for a variant whose books are known not to balance.
        **keys: Keys of [database].

    Yields:
        The database.

    Raises:
        AssertionError: A connection is checked out, a unit open, or a backend still busy.
    """
    name = f"accounted_{next(_numbers)}"
    config = DatabaseConfig(
        url=url.render_as_string(hide_password=False), application_name=name, **keys
    )
    database = Database(
        create_engine(config),
        make_reader=None if config.pgbouncer else partial(create_engine, config, read_only=True),
        settings=UnitSettings(
            exit_timeout=config.exit_timeout,
            pool_timeout=config.pool_timeout,
            slow_unit=config.slow_unit,
            nested=config.nested,
            resolvable=config.resolvable,
        ),
        bus=EventBus(),
    )
    try:
        yield database
        if check:
            await assert_settled(database, server or url, name)
    finally:
        await database.dispose()


async def assert_settled(database: Database, server: URL, name: str) -> None:
    """Assert that units left nothing behind.

    Args:
        database: What they used.
        server: Where it really is.
        name: The application's name of its connections.

    Raises:
        AssertionError: A connection is checked out, a unit open, or a backend still busy.
    """
    assert database.open == {}
    pool: Any = database.engine.sync_engine.pool
    assert pool.checkedout() == 0
    if server.get_backend_name() != "postgresql":
        return
    async with connected(server) as admin:
        deadline = asyncio.get_running_loop().time() + SETTLE_TIME
        while busy := [row[0] for row in await admin.fetch(_BUSY, name)]:
            assert asyncio.get_running_loop().time() < deadline, busy
            await asyncio.sleep(0.01)


@asynccontextmanager
async def connected(url: URL) -> AsyncIterator[Any]:
    """Connect with plain asyncpg, past everything under test.

    Args:
        url: Where the database is.

    Yields:
        asyncpg's connection.
    """
    connection = await asyncpg.connect(
        host=url.host,
        port=url.port,
        user=url.username,
        password=url.password,
        database=url.database,
        timeout=60,  # beside a burst of a thousand tasks
    )
    try:
        yield connection
    finally:
        await connection.close()
