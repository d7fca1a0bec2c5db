"""A bot whose messages are kept, with the local Telegram."""

from collections.abc import AsyncIterator

import pytest
from aiogram import Bot
from sqlalchemy.engine import URL
from support.kept import client

from lifecycle.testing import BotApiServer


@pytest.fixture(params=["sqlite", "asyncpg", "psycopg"])
def url(request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own, once for each driver."""
    kind = "sqlite" if request.param == "sqlite" else "postgres"
    found: URL = request.getfixturevalue(f"{kind}_database")
    return found.set(drivername="postgresql+psycopg") if request.param == "psycopg" else found


@pytest.fixture
async def server() -> AsyncIterator[BotApiServer]:
    """A Bot API server that Ada (7), Bob (8) and Eve (9) have written to."""
    async with BotApiServer() as server:
        for number, name in ((7, "Ada"), (8, "Bob"), (9, "Eve")):
            await server.user(number, name).say("/start")
        yield server


@pytest.fixture
async def bot(server: BotApiServer) -> AsyncIterator[Bot]:
    """A client of that server."""
    async with client(server) as bot:
        yield bot
