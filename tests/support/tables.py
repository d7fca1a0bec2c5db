"""The tables of another program, seen and locked from outside of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import NullPool, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine


@asynccontextmanager
async def _connected(database: URL) -> AsyncIterator[AsyncConnection]:
    engine = create_async_engine(database, poolclass=NullPool)
    async with engine.connect() as connection:
        yield connection


async def read(database: URL, sql: str) -> list[Any]:
    """Return the first column of what *sql* finds."""
    async with _connected(database) as connection:
        return list(await connection.scalars(text(sql)))


@asynccontextmanager
async def locked(database: URL, table: str) -> AsyncIterator[None]:
    """Let nobody else write into *table* during the block: who tries waits for its end."""
    sqlite = database.get_backend_name() == "sqlite"
    sql = "BEGIN IMMEDIATE" if sqlite else f"LOCK TABLE {table} IN SHARE MODE"
    async with _connected(database) as connection:
        await connection.exec_driver_sql(sql)
        yield
