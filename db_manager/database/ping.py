"""Asks a server whether it answers."""

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

#: Longest wait for an answer of the server, in seconds.
PING_TIMEOUT: Final = 10.0
#: Asks for nothing but an answer.
PING: Final = text("SELECT 1")
_Answer = TypeVar("_Answer")


async def ping(engine: AsyncEngine) -> None:
    """Send `SELECT 1` on a connection of *engine*.

    Args:
        engine: The engine.

    Raises:
        OSError: The server cannot be reached.
        DBAPIError: The server refuses us.
    """
    await ask(engine, lambda connection: connection.execute(PING))


async def ask(engine: AsyncEngine, question: Callable[[Connection], _Answer]) -> _Answer:
    """Ask a server something in the place of a ping.

    Args:
        engine: The engine.
        question: Called with SQLAlchemy's synchronous connection.

    Returns:
        What it returned.

    Raises:
        OSError: The server cannot be reached.
        DBAPIError: The server refuses us.
    """
    async with asyncio.timeout(PING_TIMEOUT), engine.connect() as connection:
        return await connection.run_sync(question)
