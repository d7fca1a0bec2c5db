"""Asks a server whether it answers."""

import asyncio
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

#: Longest wait for an answer of the server, in seconds.
PING_TIMEOUT: Final = 10.0
_PING: Final = text("SELECT 1")


async def ping(engine: AsyncEngine) -> None:
    """Send `SELECT 1` on a connection of *engine*.

    Args:
        engine: The engine.

    Raises:
        OSError: The server cannot be reached.
        DBAPIError: The server refuses us.
    """
    async with asyncio.timeout(PING_TIMEOUT), engine.connect() as connection:
        await connection.execute(_PING)
