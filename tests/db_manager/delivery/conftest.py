"""A bot whose messages are kept, with the local Telegram."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from sqlalchemy.engine import URL
from support.kept import Kept, Start

from db_manager.delivery import DeliveryPlugin
from db_manager.plugin import DatabasePlugin
from lifecycle.application import Application
from lifecycle.testing import LocalTelegram
from observability.testing import EventRecorder


@pytest.fixture
async def start(telegram: LocalTelegram, url: URL) -> AsyncIterator[Start]:
    """Start an application with an outbox, with keys for [delivery]."""
    stack = AsyncExitStack()

    async def start(**keys: Any) -> Kept:
        app = Application(
            [DatabasePlugin, DeliveryPlugin],
            config={
                "app": {"journal": "memory"},
                "database": {"url": url.render_as_string(hide_password=False), "slow_unit": 60},
                "delivery": {"poll": 0.1, **keys},
            },
        )
        events = stack.enter_context(EventRecorder(app.bus))
        await telegram.run(app)
        return Kept(app, events)

    yield start
    await telegram.end()
    await stack.aclose()


@pytest.fixture(params=["sqlite", "asyncpg", "psycopg"])
def url(request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own, once for each driver."""
    kind = "sqlite" if request.param == "sqlite" else "postgres"
    found: URL = request.getfixturevalue(f"{kind}_database")
    return found.set(drivername="postgresql+psycopg") if request.param == "psycopg" else found
