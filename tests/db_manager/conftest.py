"""Fixtures of the db_manager tests: databases as the plugin opens them, and what they publish."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from sqlalchemy.engine import URL

from db_manager.config import DatabaseConfig
from db_manager.database.database import Database, UnitSettings
from db_manager.engine.create import create_engine
from db_manager.plugin import _reader
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.bus import EventBus
from observability.testing import EventRecorder

OpenDatabase = Callable[..., Database]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no variable of the person who runs the tests configure them."""
    for name in os.environ:
        if name.upper().startswith("DATABASE__"):
            monkeypatch.delenv(name)


@pytest.fixture
async def open_database() -> AsyncIterator[OpenDatabase]:
    """Opens databases from keys of [database], and closes them at the end of the test."""
    opened: list[Database] = []

    def open_database(url: URL, **keys: Any) -> Database:
        # Nothing is slow on a loaded machine, unless a test says so.
        keys = {"slow_unit": 60, **keys}
        config = DatabaseConfig(url=url.render_as_string(hide_password=False), **keys)
        database = Database(
            create_engine(config),
            make_reader=_reader(config),
            settings=UnitSettings(
                exit_timeout=config.exit_timeout,
                pool_timeout=config.pool_timeout,
                slow_unit=config.slow_unit,
                nested=config.nested,
            ),
            bus=EventBus(),
        )
        opened.append(database)
        return database

    yield open_database
    for database in opened:
        await database.dispose()


@pytest.fixture
async def early_timers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let timers of the loop go off early by a part of their time; uvloop's do by a millisecond."""
    part = getattr(request, "param", 0.5)
    loop = asyncio.get_running_loop()
    call_at, call_later = loop.call_at, loop.call_later

    def at(when: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        now = loop.time()
        return call_at(now + (when - now) * (1 - part), *args, **kwargs)

    def later(delay: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        return call_later(delay * (1 - part), *args, **kwargs)

    if isinstance(loop, asyncio.BaseEventLoop):  # asyncio has the one call the other
        monkeypatch.setattr(loop, "call_at", at)
    else:  # and uvloop the other the one
        monkeypatch.setattr(loop, "call_later", later)


@pytest.fixture
async def database(database_url: URL, open_database: OpenDatabase) -> Database:
    """A database of this test's own, once on SQLite and once on PostgreSQL."""
    return open_database(database_url)


@pytest.fixture(params=["aiosqlite", "memory", "asyncpg", "psycopg", "asyncmy"])
def any_database_url(request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own, once for every driver, and in memory."""
    if request.param == "memory":
        return URL.create("sqlite+aiosqlite", database=":memory:")
    backends = {"aiosqlite": "sqlite", "asyncmy": "mariadb"}
    backend = backends.get(request.param, "postgres")
    url: URL = request.getfixturevalue(f"{backend}_database")
    return url.set(drivername=f"postgresql+{request.param}") if backend == "postgres" else url


@pytest.fixture
async def uow_factory(database: Database) -> UnitOfWorkFactory:
    """Makes units on that database."""
    return UnitOfWorkFactory(database)


@pytest.fixture
def events(database: Database) -> Iterator[EventRecorder]:
    """What that database publishes."""
    with EventRecorder(database.bus) as recorder:
        yield recorder
