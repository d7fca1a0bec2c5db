"""A bot whose messages are kept, with the local Telegram."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiogram import Bot
from sqlalchemy.engine import URL
from support.asking import Ask, asker
from support.kept import client
from support.ports import KeptPort

from db_manager.delivery import DeliveryPlugin
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
    with KeptPort() as port:  # while it is stopped, too
        async with BotApiServer(port=port.number) as server:
            for number, name in ((7, "Ada"), (8, "Bob"), (9, "Eve")):
                await server.user(number, name).say("/start")
            yield server


@pytest.fixture
async def bot(server: BotApiServer) -> AsyncIterator[Bot]:
    """A client of that server."""
    async with client(server) as bot:
        yield bot


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Let a stop send for 0.6 s and wait for answers for as long as it takes; keys of [app]."""
    monkeypatch.setattr(DeliveryPlugin, "stop_timeout", 60.0)
    monkeypatch.setattr("db_manager.delivery.delivery_plugin._SENDING", 0.01)
    return {"grace": 120.0}


@pytest.fixture
def ask(url: URL, tmp_path: Path) -> Ask:
    """Run `db-manager delivery` on the database of the test."""
    config = tmp_path / "config.toml"
    written = url.render_as_string(hide_password=False)
    config.write_text(f'[app]\nplugins = ["db_manager"]\n[database]\nurl = "{written}"\n')
    return asker(config)
